"""Interleaved rounds: every case against every subject in turn (A B C, A B C, …), so a noisy minute hits them all.

One cell is one load against one subject: what the client saw, and what each process spent. A cell counts only if no
process used more than 80 % of a core and the client's start lag p99 stayed under 10 ms; beyond that the figures would
be about the machine. Figures are medians over the rounds that count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.client import Client, Load, Measured, percentile
from tests.bench.machine import cpu_seconds
from tests.bench.subjects import Running

BUSIEST = 0.80
LAG = 0.010


@dataclass(frozen=True, slots=True)
class Cell:
    """One load against one subject, once. Seconds; `cpu` is what the subject spent, `busiest` a share of a core."""

    measured: Measured
    wall: float
    cpu: float
    busiest: float
    busiest_name: str

    @property
    def answered(self) -> int:
        return max(1, len(self.measured.total))

    @property
    def lag(self) -> float:
        return percentile(self.measured.lag, 99)

    def spoilt(self) -> str | None:
        """Why this cell does not count, or None."""
        if self.busiest > BUSIEST:
            return f"{self.busiest_name} used {self.busiest:.0%} of a core"
        if self.lag > LAG:
            return f"start lag p99 {self.lag * 1e3:.1f} ms"
        return None


async def measure(client: Client, load: Load, subject: Running | None, others: Sequence[Running], seed: int) -> Cell:
    """Run one load; `subject` None is the direct way. The client is this process."""
    named = {running.name: running.pids() for running in ([subject] if subject else []) + list(others)}
    before = {name: cpu_seconds(pids) for name, pids in named.items()}
    own, began = time.process_time(), time.monotonic()
    measured = await client.run(load, seed)
    wall = time.monotonic() - began
    spent = {name: cpu_seconds(pids) - before[name] for name, pids in named.items()}
    cpu = spent[subject.name] if subject else 0.0
    spent["client"] = time.process_time() - own
    name = max(spent, key=lambda one: spent[one])
    return Cell(measured, wall, cpu, spent[name] / wall, name)


Results = dict[tuple[str, str], list[Cell]]


async def interleave(
    rounds: int,
    cases: Mapping[str, Load],
    clients: Mapping[str, Client],
    subjects: Mapping[str, Running | None],
    others: Sequence[Running],
    say: Callable[[str], None],
) -> Results:
    """Every case, every round, every subject in turn. Keys of the result: (case, subject)."""
    results: Results = {(case, name): [] for case in cases for name in subjects}
    for number in range(rounds):
        for case, load in cases.items():
            for name, running in subjects.items():
                cell = await measure(clients[name], load, running, others, seed=number)
                results[case, name].append(cell)
                if reason := cell.spoilt():
                    say(f"round {number + 1}, {case}, {name}: does not count, {reason}")
                if cell.measured.failed:
                    say(f"round {number + 1}, {case}, {name}: {cell.measured.failed} failed: {cell.measured.causes}")
    return results


def median(cells: Iterable[Cell], figure: Callable[[Cell], float]) -> float:
    """The median of a figure over the cells that count; not a number if none does."""
    values = [figure(cell) for cell in cells if cell.spoilt() is None]
    return statistics.median(values) if values else float("nan")


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise: a figure that must not be above its limit. A figure that is not a number fails."""

    what: str
    figure: float
    limit: float
    unit: str = ""

    @property
    def kept(self) -> bool:
        return self.figure <= self.limit

    def __str__(self) -> str:
        word = "PASS" if self.kept else "FAIL"
        return f"{word}  {self.what}: {self.figure:.2f}{self.unit} (bar: at most {self.limit:g}{self.unit})"


def failures(results: Mapping[Any, Sequence[Cell]]) -> Bar:
    """The bar that goes with all others: no request failed."""
    failed = sum(cell.measured.failed for cells in results.values() for cell in cells)
    return Bar("failed requests", failed, 0)


def verdict(bars: Sequence[Bar]) -> int:
    """Print the bars; the exit code."""
    for bar in bars:
        print(bar)
    return 0 if all(bar.kept for bar in bars) else 1


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned so that it reads well in a terminal too."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join([cells[0].ljust(widths[0]), *rest]) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])
