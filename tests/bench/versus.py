"""One load straight to the upstreams and through Headway, in turn: what the single questions share."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop

from tests.bench.client import Client, Load, percentile
from tests.bench.machine import machine
from tests.bench.rounds import Cell, interleave, table
from tests.bench.subjects import subject, upstreams

DIRECT, HEADWAY = "direct", "headway"


async def _run(load: Load, rounds: int, endpoints: int, where: Path) -> dict[str, list[Cell]]:
    with upstreams(endpoints) as (upstream, ports), subject(HEADWAY, ports, where) as running:
        clients = {DIRECT: Client(ports[0]), HEADWAY: Client(running.port)}
        await clients[HEADWAY].run(Load(rate=100, seconds=1.0, size=load.size), seed=99)
        ways = {DIRECT: None, HEADWAY: running}
        results = await interleave(rounds, {"load": load}, clients, ways, [upstream], print)
        for client in clients.values():
            client.close()
    return {way: results["load", way] for way in ways}


def against_direct(load: Load, rounds: int, endpoints: int) -> dict[str, list[Cell]]:
    """The cells of each way, `rounds` of each, interleaved. Prints the machine first."""
    print(f"machine: {machine()}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as where:
        return uvloop.run(_run(load, rounds, endpoints, Path(where)))


def pooled(cells: Sequence[Cell], figure: str, share: float) -> float:
    """A percentile, in seconds, over all rounds that count together; not a number if none does."""
    values = [value for cell in cells if cell.spoilt() is None for value in getattr(cell.measured, figure)]
    return percentile(values, share)


def show(results: dict[str, list[Cell]], figure: str, what: str) -> None:
    """A table of percentiles in milliseconds, a row a way, and how busy the busiest process was."""
    shares = (50, 90, 99, 99.9)
    rows = []
    for way, cells in results.items():
        figures = [f"{pooled(cells, figure, share) * 1e3:.2f}" for share in shares]
        answered = sum(len(cell.measured.total) for cell in cells)
        busiest = max(cells, key=lambda cell: cell.busiest)
        lag = max(cell.lag for cell in cells) * 1e3
        rows.append([way, str(answered), *figures, f"{busiest.busiest_name} {busiest.busiest:.0%}", f"{lag:.1f} ms"])
    head = [what, "answers", *(f"p{share:g} ms" for share in shares), "busiest process", "start lag p99"]
    print(table(head, rows) + "\n")
