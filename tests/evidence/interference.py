"""Bursts of interactive traffic over a saturating batch, in real time: what either does to the other.

Chat in bursts (30 s on, 60 s off) before simulated engines that a batch of plain requests fills; the same arrivals
alone; the batch alone. Bars: interactive TTFT p95 at most 1.1 x that of the bursts alone, or 15 ms more; its TPOT
within the promise for 99 % of its requests; and in the off windows, from their sixth second on, at least 90 % of the
tokens that the batch alone makes. What was made in vain (stopped to make room) does not count as made. Chunks of 512
and 2,048 tokens, with and without engines that schedule by priority.

    python -m tests.evidence.interference [--short] [--only CASE...] [--rounds N]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.measure import Record
from loadtest.workload import Item, arrivals, constant, read_trace, with_arrivals
from tests.bench.rounds import Bar, table
from tests.evidence.batches import lines, submit
from tests.evidence.fleets import Group, Played, play
from tests.evidence.streams import TRACE, Run
from tests.evidence.support import Sim, conclude, parse

POLICY = "predicted_latency"
ENGINES = 4
ON, OFF, CYCLES = 30.0, 60.0, 2
RATE = 20.0  # requests a second in a burst: 55 % of what these engines complete
TTFT_SLO, TPOT_SLO = 1.0, 0.060  # seconds
LINE = 800, 200  # tokens of a line's prompt and answer
SETTLED = 5.0  # seconds of an off window that do not count
TIMES, MORE, WITHIN, KEPT = 1.10, 0.015, 0.99, 0.90


@dataclass(frozen=True, slots=True)
class Case:
    """Engines of one kind."""

    chunk: int
    priority: bool

    @property
    def name(self) -> str:
        return f"{self.chunk}" + ("_priority" if self.priority else "")


CASES = {case.name: case for case in (Case(512, False), Case(512, True), Case(2048, False), Case(2048, True))}


@dataclass(frozen=True, slots=True)
class Plan:
    """The windows of one run: off, on, off, on. Seconds."""

    on: float
    off: float
    cycles: int
    rate: float
    lines: int
    speed: float = 1.0

    @property
    def seconds(self) -> float:
        return self.cycles * (self.on + self.off)

    @property
    def off_windows(self) -> list[tuple[float, float]]:
        """Those parts of the off windows that count; the first is for the batch to begin."""
        began = [cycle * (self.on + self.off) for cycle in range(1, self.cycles)]
        return [(at + SETTLED, at + self.off) for at in began]

    def items(self, seed: int) -> list[Item]:
        """Chat in the on windows."""
        chat = [item for item in read_trace(TRACE) if item.output_tokens <= (80 if self.on < ON else 10_000)]
        start, found = seed * 997 % len(chat), []
        for cycle in range(self.cycles):
            at = cycle * (self.on + self.off) + self.off
            part = with_arrivals(chat[start:] + chat[:start], arrivals(constant(self.rate), self.on, seed + cycle))
            found += [Item(at + item.at, item.prompt_tokens, item.output_tokens) for item in part]
        return found


FULL = Plan(ON, OFF, CYCLES, RATE, 9_000)
SHORT = Plan(1.5, 3.0, 2, 10.0, 200, speed=4.0)


@dataclass(slots=True)
class Tokens:
    """What the engines had made at moments of a run, and what of the batch was whole at its end."""

    made: list[tuple[float, float]]
    wasted: float = 0.0  # share of what was made for the batch

    def between(self, from_: float, to: float) -> float:
        """Tokens made in a window, by straight lines between the samples."""
        times, values = np.array(self.made).T
        low, high = np.interp((from_, to), times, values)
        return float(high - low)


def told(sims: Sequence[Sim], what: str) -> float:
    """A count of these engines, summed."""
    return float(sum(sim.state()[what] for sim in sims))


async def batch_beside(run: Run, sims: list[Sim], plan: Plan, tokens: Tokens, content: bytes) -> None:
    """Begin the batch with the run, sample what is made, stop it at the end."""
    batch = await asyncio.to_thread(submit, run.url, content)
    while run.loop.elapsed < plan.seconds:
        made = await asyncio.to_thread(told, sims, "output_tokens")
        tokens.made.append((run.loop.elapsed, made))
        await asyncio.sleep(0.5)
    state = await asyncio.to_thread(batch.state)
    made = await asyncio.to_thread(told, sims, "output_tokens")
    own = sum(record.tokens for record in run.records)
    running = await asyncio.to_thread(told, sims, "running")
    whole, half = state["request_counts"]["completed"] * LINE[1], running * LINE[1] / 2.0
    tokens.wasted = max(0.0, 1.0 - (whole + half) / max(1.0, made - own))
    await asyncio.to_thread(batch.cancel)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run; NaN where it has no such traffic."""

    ttft: float
    within: float
    rate: float
    wasted: float
    played: Played


def one(case: Case, plan: Plan, seed: int, interactive: bool, batch: bool, content: bytes) -> Figures:
    """One run of a case."""
    tokens = Tokens([])
    items = plan.items(seed) if interactive else [Item(0.0, 20, 2)]  # (the clock starts with one)

    async def meanwhile(run: Run, sims: list[Sim]) -> None:
        if batch:
            await batch_beside(run, sims, plan, tokens, content)

    more = {"priority": True} if case.priority else {}
    slo = {"ttft": f"{TTFT_SLO:g}s", "tpot": f"{TPOT_SLO * 1e3:g}ms"}
    group = Group(ENGINES, plan.speed, case.chunk, case.priority)
    played, _ = play((group,), POLICY, items, seed, slo, meanwhile, keeps_jobs=batch, **more)
    answered = [record for record in played.records if record.ok] if interactive else []
    ttft = [record.ttft for record in answered if record.ttft is not None]
    windows = plan.off_windows if interactive else [(plan.off / 3.0, plan.seconds - 1.0)]
    rates = [tokens.between(from_, to) / (to - from_) for from_, to in windows] if batch else [float("nan")]
    figures = Figures(
        float(np.percentile(ttft, 95)) if ttft else float("nan"),
        sum(map(_is_within, answered)) / len(played.records) if interactive else float("nan"),
        statistics.mean(rates) * (1.0 - tokens.wasted), tokens.wasted, played,
    )  # fmt: skip
    what = " and ".join(name for name, there in (("bursts", interactive), ("batch", batch)) if there)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in played.shares.mean.items())
    print(f"{case.name}, {what}: TTFT p95 {figures.ttft * 1e3:.0f} ms, TPOT within its promise {figures.within:.2%}, "
          f"async {figures.rate:.0f} tokens/s in the off windows, {figures.wasted:.1%} in vain; of a core: {shares}; "
          f"start lag p99 {played.run.lag * 1e3:.1f} ms{_invalid(played)}", flush=True)
    return figures


def _is_within(record: Record) -> bool:
    return record.tpot is None or record.tpot <= TPOT_SLO


def _invalid(played: Played) -> str:
    return f" (does not count: {played.why_not})" if played.why_not else ""


def compare(case: Case, plan: Plan, rounds: int) -> tuple[list[Bar], list[Bar], list[str]]:
    """The three runs of a case, in rounds; bars that are counted, bars that are timed, and its line in the table."""
    content = b"".join(lines(plan.lines, *LINE, seed=case.chunk))
    found = [(one(case, plan, 10 * n + 1, True, False, b""), one(case, plan, 10 * n + 2, False, True, content),
              one(case, plan, 10 * n + 1, True, True, content)) for n in range(rounds)]  # fmt: skip
    failed = sum(not record.ok for runs in found for run in runs for record in run.played.records)
    counted = [runs for runs in found if not any(run.played.why_not for run in runs)]
    nan = float("nan")
    alone, beside, within, share = (
        statistics.median(values) if values else nan
        for values in ([a.ttft for a, _, _ in counted], [b.ttft for _, _, b in counted],
                       [b.within for _, _, b in counted], [b.rate / o.rate for _, o, b in counted])
    )  # fmt: skip
    allowed = max(TIMES * alone, alone + MORE)
    bars = [Bar(f"{case.name}: interactive TTFT p95 beside the batch, ms ({alone * 1e3:.0f} alone)", beside * 1e3,
                allowed * 1e3),
            Bar(f"{case.name}: interactive TPOT beyond its promise", 1.0 - within, 1.0 - WITHIN),
            Bar(f"{case.name}: async tokens of the off windows missing", 1.0 - share, 1.0 - KEPT)]  # fmt: skip
    row = [case.name, str(len(counted)), f"{alone * 1e3:.0f}", f"{beside * 1e3:.0f}", f"{within:.2%}", f"{share:.1%}"]
    return [Bar(f"{case.name}: interactive requests that failed", failed, 0)], bars, row


HEAD = ("chunk", "rounds", "TTFT p95 alone, ms", "beside the batch", "TPOT within", "async of async alone")


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rounds", type=int, default=1)
        parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))

    options = parse(__doc__ or "", argv, add)
    if options.short:
        counted, timed, _ = compare(Case(2048, False), SHORT, 1)
        return conclude(counted, timed, short=True)
    counted, timed, rows = [], [], []
    for name in options.only:
        one_counted, one_timed, row = compare(CASES[name], FULL, options.rounds)
        counted += one_counted
        timed += one_timed
        rows.append(row)
    print(table(HEAD, rows), flush=True)
    return conclude(counted, timed)


if __name__ == "__main__":
    sys.exit(main())
