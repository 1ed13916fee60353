"""A hung engine: one of four freezes under load while its health page says 200 and its metrics say idle.

Bars: it is found out within max(5 s, 5 x the pool's TTFT p99); from then on it gets trials only (its own count); every
stream that had not started is answered elsewhere; those that had started get an error event and no clean end.

    python -m tests.evidence.hung [--short] [--share S] [--speed X]
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from tests.bench.rounds import Bar
from tests.evidence.streams import Run, fates, ttft_p99, workload
from tests.evidence.support import (
    Gateway,
    Shares,
    Sim,
    conclude,
    counts,
    fetch_beside,
    folder,
    gateway,
    parse,
    simulators,
)

OUT = ("ejected", "down")


@dataclass(slots=True)
class Seen:
    """What the poll of /api/endpoints and /sim/state saw of the frozen server."""

    found_at: float = float("inf")  # monotonic
    asked: int = 0  # requests it had got when it was found out
    asked_after: int = 0
    trials: int = 0
    states: list[str] = field(default_factory=list)


async def watch(running: Gateway, sim: Sim, seen: Seen) -> None:
    """Poll until cancelled. A trial is counted each time its state turns to one."""
    pages = f"http://127.0.0.1:{running.admin}/api/endpoints"
    while True:
        pools = (await fetch_beside(pages))["pools"]
        state = next(one["state"] for one in pools["main"] if one["url"] == sim.url)
        asked = (await fetch_beside(f"{sim.url}/sim/state"))["asked"]
        if not seen.states or seen.states[-1] != state:
            seen.states.append(state)
            seen.trials += state == "trial"
        if state in OUT and seen.found_at == float("inf"):
            seen.found_at, seen.asked = time.monotonic(), asked
        seen.asked_after = asked - seen.asked
        await asyncio.sleep(0.05)


async def run(running: Gateway, sims: list[Sim], options: tuple[float, float, float, float], seen: Seen,
              ) -> tuple[Run, Shares, float, float]:  # fmt: skip
    """Load, freeze one, go on. Returns the run, the shares of CPU, and the frozen interval's ends (monotonic)."""
    share, speed, before, after = options
    load = Run.on(running.url, seed=1)
    items = workload(share, len(sims), speed, before + after, seed=1, longest=400 if after > 10.0 else 100)
    pids = {f"sim{n}": (lambda sim=sim: sim.pid) for n, sim in enumerate(sims)}
    async with Shares({"gateway": lambda: running.pid, **pids}) as shares:
        sending = asyncio.create_task(load.send(items, grace=60.0))
        await load.until(before)
        watching = asyncio.create_task(watch(running, sims[0], Seen()))
        began = time.monotonic()
        await asyncio.to_thread(sims[0].fault, "hang")
        ended = time.monotonic()
        watching.cancel()
        watching = asyncio.create_task(watch(running, sims[0], seen))
        await sending
        watching.cancel()
    return load, shares, began, ended


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: object) -> None:
        parser.add_argument("--share", type=float, default=0.55)  # type: ignore[attr-defined]
        parser.add_argument("--speed", type=float, default=1.0)  # type: ignore[attr-defined]

    options = parse(__doc__ or "", argv, add)
    before, after = (3.0, 6.0) if options.short else (20.0, 50.0)
    with folder() as where, simulators(4, where, options.speed) as sims:
        return judge(where, sims, (options.share, options.speed, before, after), options.short)


def judge(where: Path, sims: list[Sim], how: tuple[float, float, float, float], short: bool) -> int:
    seen = Seen()
    timeouts = {"between_tokens": "4s" if short else "8s", "first_token": "60s"}
    with gateway(where / "headway", [sim.url for sim in sims], timeouts=timeouts, eject={"base": "10s"}) as running:
        load, shares, began, ended = uvloop.run(run(running, sims, how, seen))
    frozen = load.at(began)
    pool = ttft_p99([record for record in load.records if record.ended < frozen])
    found = seen.found_at - began
    result = fates(load.records, sims[0].url, load.at(ended))
    print(f"{len(load.records)} streams at {how[0]:.0%} of 4 x {how[1]:g} A100; TTFT p99 before: {pool * 1e3:.0f} ms")
    print(f"frozen: found out after {found:.2f} s; then {' > '.join(seen.states)}; "
          f"{seen.asked_after} requests sent there after that, {seen.trials} trials")  # fmt: skip
    print(f"answered whole {result.fine}; broken after their start {len(result.broken)} "
          f"{dict(Counter(r.failure for r in result.broken))}; lost {len(result.lost)} "
          f"{dict(Counter(r.failure for r in result.lost))}")  # fmt: skip
    shares.show()
    extra = seen.asked_after - seen.trials
    counted = [Bar("streams not started at the freeze and not answered", len(result.lost), 0),
               Bar("started streams without an error event", len(result.unended), 0),
               Bar("requests sent there after detection that were no trial", extra, 0)]  # fmt: skip
    timed = [Bar("time to detection, s", found, max(5.0, 5.0 * pool)), *counts(shares, load.lag)]
    return conclude(counted, timed, short)


if __name__ == "__main__":
    sys.exit(main())
