"""A killed model server: kill -9 of one of three under load, and a new one on its port a while later.

Four requests of five stream, one is plain (it starts only when it is whole). Bars: no request is lost whose answer
had not started (refused, reset or waiting: tried elsewhere); streams that had started get an error event and no clean
end; it is out of service within 1 s, and back within 6 s of listening again.

    python -m tests.evidence.killed [--short] [--share S] [--speed X]
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
class Moments:
    """Monotonic seconds."""

    killed: float = 0.0
    out: float = float("inf")
    listening: float = 0.0
    back: float = float("inf")
    states: list[str] = field(default_factory=list)


async def watch(running: Gateway, sim: Sim, seen: Moments) -> None:
    """Poll the state until cancelled. Back means: a request succeeded there."""
    pages = f"http://127.0.0.1:{running.admin}/api/endpoints"
    while True:
        pools = (await fetch_beside(pages))["pools"]
        state = next(one["state"] for one in pools["main"] if one["url"] == sim.url)
        now = time.monotonic()
        if not seen.states or seen.states[-1] != state:
            seen.states.append(state)
        if seen.killed and state in OUT:
            seen.out = min(seen.out, now)
        if seen.listening and state == "healthy":
            seen.back = min(seen.back, now)
        await asyncio.sleep(0.03)


async def run(running: Gateway, sims: list[Sim], how: tuple[float, float, float, float], seen: Moments,
              ) -> tuple[Run, Run, Shares]:  # fmt: skip
    """Load, kill one, start it again. Returns the streams, the plain requests, and the shares of CPU."""
    share, speed, before, away = how
    load, plain, victim = Run.on(running.url, seed=2), Run.on(running.url, seed=3, stream=False), sims[0]
    longest = 400 if away > 10.0 else 100
    items, plain_items = (workload(part * share, len(sims), speed, before + 2 * away, seed, longest)
                          for part, seed in ((0.8, 2), (0.2, 3)))  # fmt: skip
    pids = {f"sim{n}": (lambda sim=sim: sim.pid) for n, sim in enumerate(sims)}
    async with Shares({"gateway": lambda: running.pid, **pids}) as shares:
        sending = asyncio.gather(load.send(items, grace=60.0), plain.send(plain_items, grace=60.0))
        await load.until(before)
        watching = asyncio.create_task(watch(running, victim, seen))
        await asyncio.sleep(0.1)
        seen.killed = time.monotonic()
        victim.kill()
        await load.until(before + away)
        await asyncio.to_thread(victim.restart)
        seen.listening = time.monotonic()
        await sending
        watching.cancel()
    return load, plain, shares


def judge(where: Path, sims: list[Sim], how: tuple[float, float, float, float], short: bool) -> int:
    seen = Moments()
    with gateway(where / "headway", [sim.url for sim in sims]) as running:
        load, plain, shares = uvloop.run(run(running, sims, how, seen))
    # A stream that had its first token by now had started; the margin is the way through the gateway.
    result = fates(load.records, sims[0].url, load.at(seen.killed) + 0.05)
    plain_lost = Counter(record.failure for record in plain.records if not record.ok)
    print(f"{len(load.records)} streams and {len(plain.records)} plain at {how[0]:.0%} of 3 x {how[1]:g} A100, "
          f"TTFT p99 {ttft_p99(load.records) * 1e3:.0f} ms; states: {' > '.join(seen.states)}")  # fmt: skip
    print(f"answered whole {result.fine}; broken after their start {len(result.broken)} "
          f"{dict(Counter(r.failure for r in result.broken))}; lost {len(result.lost)} "
          f"{dict(Counter(r.failure for r in result.lost))}")  # fmt: skip
    print(f"plain requests that failed: {dict(plain_lost)}")
    shares.show()
    counted = [Bar("requests not started at the kill and not answered", len(result.lost), 0),
               Bar("plain requests not answered", plain_lost.total(), 0),
               Bar("started streams without an error event", len(result.unended), 0)]  # fmt: skip
    timed = [Bar("out of service, s after the kill", seen.out - seen.killed, 1.0),
             Bar("back, s after it listens again", seen.back - seen.listening, 6.0),
             *counts(shares, load.lag)]  # fmt: skip
    return conclude(counted, timed, short)


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: object) -> None:
        parser.add_argument("--share", type=float, default=0.5)  # type: ignore[attr-defined]
        parser.add_argument("--speed", type=float, default=1.0)  # type: ignore[attr-defined]

    options = parse(__doc__ or "", argv, add)
    before, away = (2.0, 3.0) if options.short else (20.0, 15.0)
    with folder() as where, simulators(3, where, options.speed) as sims:
        return judge(where, sims, (options.share, options.speed, before, away), options.short)


if __name__ == "__main__":
    sys.exit(main())
