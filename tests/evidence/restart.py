"""Restarts under load: SIGUSR2 again and again, and nobody notices.

8 clients with a new connection for each request, 8 that keep theirs, 8 with streams; 20 restarts while 50,000 requests
go through. No client sends anything twice. Bars: 0 failed requests, 0 cut streams, every restart handed over.

    python -m tests.evidence.restart [--short] [--restarts N] [--requests N]
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from tests.bench.machine import tree
from tests.bench.rounds import Bar
from tests.evidence.closed_loop import Tally, Worker, make_ask
from tests.evidence.support import Gateway, cheap_servers, conclude, folder, gateway, parse, poll

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: successors whose parents have ended become our children, so we can end them
LONGEST = 900.0


class Restarts:
    """Hands over from process to process. `pid` is the one that serves."""

    def __init__(self, running: Gateway):
        self.gateway = running
        self.pid = running.pid
        self.done = 0
        self.slowest = 0.0
        self._started = {self.pid}

    async def once(self) -> bool:
        """One restart: signal, and wait until the next process has taken over. False when none did."""
        began = time.monotonic()
        os.kill(self.pid, signal.SIGUSR2)
        while time.monotonic() - began < 60.0:
            await asyncio.sleep(0.1)
            handed = [line["to"] for line in await asyncio.to_thread(self.gateway.events, "handed_over")]
            if len(handed) > self.done:
                self.done += 1
                self.pid = handed[-1]
                self._started.add(self.pid)
                self.slowest = max(self.slowest, time.monotonic() - began)
                return True
        return False

    async def wait_for_the_old(self, patience: float = 40.0) -> int:
        """Processes before the last one that are still there after `patience` seconds."""
        await poll(lambda: not self._alive(), patience)
        return len(self._alive())

    def _alive(self) -> set[int]:
        self.gateway.running.process.poll()
        for pid in self._started - {self.gateway.pid}:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        return {pid for pid in self._started - {self.pid} if os.path.exists(f"/proc/{pid}")}

    def end(self) -> None:
        """Stop every process that is left of this gateway, by its id: also one whose hand-over was not seen."""
        mine = str(self.gateway.file).encode()
        for pid in tree(os.getpid())[1:]:
            with contextlib.suppress(OSError):
                if pid != self.gateway.pid and mine in Path(f"/proc/{pid}/cmdline").read_bytes():
                    self._started.add(pid)
                    os.kill(pid, signal.SIGTERM)
        for pid in self._started - {self.gateway.pid}:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


async def run(running: Gateway, restarts: int, requests: int, think: float) -> tuple[Tally, Tally, Restarts, int]:
    plain, streams, hand = Tally(), Tally(), Restarts(running)
    ask, stream = make_ask(), make_ask(tokens=40)
    began = time.monotonic()

    def more() -> bool:
        wanted = hand.done < restarts or plain.total + streams.total < requests
        return wanted and time.monotonic() - began < LONGEST

    try:
        workers = [Worker(running.port, lambda: ask, plain, keep=n % 2 == 0, think=think) for n in range(16)]
        workers += [Worker(running.port, lambda: stream, streams) for _ in range(8)]
        load = asyncio.gather(*(worker.run(more) for worker in workers))
        while hand.done < restarts:  # spread over all of the requests
            await poll(lambda: (plain.total + streams.total) * restarts >= hand.done * requests, 60.0)
            await asyncio.sleep(0.5)
            if not await hand.once():
                break
        requested = plain.total + streams.total
        print(f"{hand.done} restarts in {time.monotonic() - began:.0f} s, {requested} requests meanwhile", flush=True)
        await load
        left = await hand.wait_for_the_old()
    finally:
        hand.end()
    return plain, streams, hand, left


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: object) -> None:
        parser.add_argument("--restarts", type=int, default=20)  # type: ignore[attr-defined]
        parser.add_argument("--requests", type=int, default=50_000)  # type: ignore[attr-defined]

    options = parse(__doc__ or "", argv, add)
    restarts, requests = (1, 300) if options.short else (options.restarts, options.requests)
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    with folder() as where, cheap_servers(4) as (_, ports):
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        with gateway(where / "headway", urls, "bench") as running:
            plain, streams, hand, left = uvloop.run(run(running, restarts, requests, 0.02))
    for tally, name in ((plain, "plain"), (streams, "streams")):
        print(f"{name}: {tally.answered} answered, {tally.failed} failed {dict(tally.failures)}")
    print(f"slowest hand-over: {hand.slowest:.1f} s")
    total = plain.total + streams.total
    counted = [Bar(f"failed of {plain.total} plain requests", plain.failed, 0),
               Bar(f"cut or failed of {streams.total} streams", streams.failed, 0),
               Bar("restarts missing", restarts - hand.done, 0),
               Bar("requests missing", max(0, requests - total), 0),
               Bar("old processes still there", left, 0)]  # fmt: skip
    return conclude(counted, short=options.short)


if __name__ == "__main__":
    sys.exit(main())
