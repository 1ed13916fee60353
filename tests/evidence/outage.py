"""A metrics outage: every /metrics goes dead for a minute at 60 % load, and the gateway has only its own counts.

Rounds of the same seeded load with and without the outage, in turn, each on fresh servers and a fresh gateway. Bars:
nothing is refused or fails; TTFT p99 of the requests of that minute, median of the rounds, within 1.3 x of the same
minute without it. A run in which a process or the client was short of CPU does not count.

    python -m tests.evidence.outage [--short] [--rounds N] [--share S] [--speed X]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from loadtest.measure import Record
from tests.bench.rounds import Bar
from tests.evidence.streams import Run, ttft_p99, workload
from tests.evidence.support import Gateway, Shares, Sim, conclude, counts, folder, gateway, parse, simulators

RATIO = 1.3


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: shares and seconds."""

    share: float
    speed: float
    warm: float
    outage: float


async def run(running: Gateway, sims: list[Sim], plan: Plan, seed: int, dead: bool) -> tuple[Run, Shares]:
    load = Run.on(running.url, seed=seed)
    longest = 600 if plan.outage > 10.0 else 80
    items = workload(plan.share, len(sims), plan.speed, plan.warm + plan.outage, seed, longest)
    pids = {f"sim{n}": (lambda sim=sim: sim.pid) for n, sim in enumerate(sims)}
    async with Shares({"gateway": lambda: running.pid, **pids}) as shares:
        sending = asyncio.create_task(load.send(items))
        await load.until(plan.warm)
        if dead:
            for sim in sims:
                await asyncio.to_thread(sim.fault, "dead_metrics", **{"for": plan.outage})
        await sending
    return load, shares


def once(plan: Plan, seed: int, dead: bool) -> tuple[list[Record], list[Record], bool]:
    """One run: its records, those of the minute in question, and whether it counts."""
    with (folder() as where, simulators(4, where, plan.speed) as sims,
          gateway(where / "headway", [sim.url for sim in sims]) as running):  # fmt: skip
        load, shares = uvloop.run(run(running, sims, plan, seed, dead))
        missed = running.metric("headway_scrape_failures_total")
    during = [record for record in load.records if record.intended >= plan.warm]
    valid = all(bar.kept for bar in counts(shares, load.lag))
    word = "outage " if dead else "without"
    print(f"round {seed}, {word}: {len(load.records)} requests, {missed:.0f} scrapes failed, TTFT p99 then "
          f"{ttft_p99(during) * 1e3:.0f} ms, start lag p99 {load.lag * 1e3:.1f} ms"
          f"{'' if valid else ' (does not count)'}", flush=True)  # fmt: skip
    shares.show()
    return load.records, during, valid


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: object) -> None:
        parser.add_argument("--rounds", type=int, default=3)  # type: ignore[attr-defined]
        parser.add_argument("--share", type=float, default=0.6)  # type: ignore[attr-defined]
        parser.add_argument("--speed", type=float, default=1.0)  # type: ignore[attr-defined]

    options = parse(__doc__ or "", argv, add)
    warm, minute = (1.0, 4.0) if options.short else (15.0, 60.0)
    plan = Plan(options.share, options.speed, warm, minute)
    figures: dict[bool, list[float]] = {True: [], False: []}
    failures: Counter[str] = Counter()
    total = 0
    for seed in range(1, 2 if options.short else options.rounds + 1):
        for dead in (True,) if options.short else (True, False) if seed % 2 else (False, True):
            records, during, valid = once(plan, seed, dead)
            total += len(records)
            failures.update(record.failure for record in records if not record.ok)
            if valid or options.short:
                figures[dead].append(ttft_p99(during))
    middle = {dead: statistics.median(found) if found else float("nan") for dead, found in figures.items()}
    print(f"TTFT p99, medians: {middle[True] * 1e3:.0f} ms in the outage, {middle[False] * 1e3:.0f} ms without")
    print(f"failures of {total} requests: {dict(failures)}")
    return conclude([Bar("requests refused or failed", failures.total(), 0)],
                    [Bar("TTFT p99 in the outage, of the same without", middle[True] / middle[False], RATIO, " x")],
                    options.short)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
