"""The keep-alive race: a model server closes idle connections just when they are wanted again.

The upstream closes a connection 1 s after its answer, and does not read what comes in the last 50 ms before that;
bursts of POSTs come 0.9 to 1.1 s after the last ones were answered, so many are written to a connection that is being
closed. There is one endpoint: nowhere else to try. Bars: 0 errors, no request executed twice, and races did happen.

    python -m tests.evidence.keepalive_race [--short] [--clients N] [--bursts N]
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from random import Random

import uvloop

from tests.bench.rounds import Bar
from tests.evidence.closed_loop import Ask, Tally, Worker, make_ask
from tests.evidence.support import cheap_servers, conclude, fetch, folder, gateway, parse

IDLE = 1.0


def delayed(first: float) -> Ask:
    """A plain request whose answer takes `first` seconds, so that a burst needs one connection for each."""
    ask = make_ask()
    return Ask(ask.request.replace(b"content-length", b"x-bench: 0 0.0 %.3f\r\ncontent-length" % first, 1))


async def bursts(port: int, clients: int, count: int) -> Tally:
    tally, draw, ask = Tally(), Random(1), delayed(0.25)
    workers = [Worker(port, lambda: ask, tally) for _ in range(clients)]
    for number in range(count):
        await asyncio.gather(*(worker.ask_once() for worker in workers))
        # Every second gap just before the closing time, the others anywhere from 0.9 to 1.1 s.
        await asyncio.sleep(draw.uniform(0.9, 0.97) if number % 2 else draw.uniform(0.9, 1.1))
    return tally


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: object) -> None:
        parser.add_argument("--clients", type=int, default=250)  # type: ignore[attr-defined]
        parser.add_argument("--bursts", type=int, default=20)  # type: ignore[attr-defined]

    options = parse(__doc__ or "", argv, add)
    clients, count = (100, 3) if options.short else (options.clients, options.bursts)
    with folder() as where, cheap_servers(1, idle=IDLE) as (_, ports):
        url = f"http://127.0.0.1:{ports[0]}"
        # No pause of ours may hide the race: connections are kept for longer than the server does.
        with gateway(where / "headway", [url], "bench", keepalive="30s") as running:
            tally = uvloop.run(bursts(running.port, clients, count))
            failures = running.metric("headway_upstream_failures_total")
        said = fetch(f"{url}/counts")
    print(f"{tally.total} POSTs: {tally.answered} answered, {tally.failed} failed {dict(tally.failures)}")
    print(f"upstream: {said['accepted']} connections accepted, {said['closed_idle']} closed when idle, "
          f"{said['raced']} requests met a close, {said['answered']} executed; "
          f"failures counted against it: {failures:.0f}")  # fmt: skip
    bars = [Bar(f"errors of {tally.total} POSTs", tally.failed, 0),
            Bar("requests executed more than once", said["answered"] - tally.total, 0),
            Bar("POSTs missing", max(0, clients * count - tally.total), 0),
            Bar("races missing", int(said["raced"] == 0), 0)]  # fmt: skip
    return conclude(bars, short=options.short)


if __name__ == "__main__":
    sys.exit(main())
