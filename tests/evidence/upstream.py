"""The evidence's cheap model server: the bench's, with faults on request and connections that may close when idle.

A request's `x-fault` says what it gets: `error` a 500, `reset` a reset before the answer, `cut` a stream that breaks
off, `flood BYTES` a stream of that many bytes as fast as it is read. `GET /counts` tells how many POSTs were answered
and how many connections were accepted. With IDLE seconds, a connection closes that long after an answer; and a request
that comes in the last twentieth of that time finds it closed too, as it would if the close were on its way already.

    python -m tests.evidence.upstream COUNT [IDLE]      prints the ports on one line, then serves until stopped
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from dataclasses import asdict, dataclass

import uvloop

from tests.bench.upstream import COMPLETION, LAST, STREAM_HEAD, TOKEN, Connection, delta, sized

FAULT = re.compile(rb"\r\nx-fault: *(\w+) *(\d*)", re.IGNORECASE)
FIRST = re.compile(rb"\r\nx-bench: *\d+ [\d.]+ ([\d.]+)", re.IGNORECASE)
ERROR = sized(b"application/json", b'{"error":{"message":"asked for","type":"InternalServerError","code":500}}',
              b"500 Internal Server Error")  # fmt: skip
BIG = delta(b"word " * 1600)  # an event of 8 KB: a stream of 1 GB is not about counting events


@dataclass(slots=True)
class Counts:
    """What one process has done so far."""

    answered: int = 0
    accepted: int = 0
    closed_idle: int = 0
    raced: int = 0  # requests that came when the close was on its way


class Server(Connection):
    """One connection."""

    def __init__(self, counts: Counts, idle: float) -> None:
        super().__init__()
        self.counts = counts
        self.idle = idle
        self.idle_timer: asyncio.TimerHandle | None = None
        self.flood_left = 0
        self.paused = False
        counts.accepted += 1

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.flood_left = 0
        self.stop_idling()

    def stop_idling(self) -> None:
        if self.idle_timer is not None:
            self.idle_timer.cancel()
            self.idle_timer = None

    def data_received(self, data: bytes) -> None:
        timer = self.idle_timer
        self.stop_idling()
        if timer is not None and timer.when() - self.loop.time() < self.idle / 20:
            self.counts.raced += 1
            self.transport.close()
            return
        super().data_received(data)

    def answer(self, head: bytes) -> None:
        if head.startswith(b"GET /counts "):
            counts = self.counts
            self.transport.write(sized(b"application/json", json.dumps(asdict(counts)).encode()))
            return
        if head.startswith(b"GET "):
            super().answer(head)
            return
        self.counts.answered += 1
        found = FAULT.search(head)
        if found is not None:
            self.misbehave(found[1], int(found[2] or b"0"))
        elif self.idle:
            asked = FIRST.search(head)
            self.loop.call_later(float(asked[1]) if asked else 0.0, self.answer_and_idle)
        else:
            super().answer(head)

    def answer_and_idle(self) -> None:
        self.transport.write(COMPLETION)
        self.idle_timer = self.loop.call_later(self.idle, self.close_idle)

    def close_idle(self) -> None:
        self.counts.closed_idle += 1
        self.transport.close()

    def misbehave(self, kind: bytes, size: int) -> None:
        if kind == b"error":
            self.transport.write(ERROR)
        elif kind == b"reset":
            self.transport.abort()
        elif kind == b"cut":
            self.transport.write(STREAM_HEAD + 5 * TOKEN)
            self.loop.call_later(0.01, self.transport.close)
        else:
            self.transport.write(STREAM_HEAD)
            self.flood_left = size
            self.flood()

    def flood(self) -> None:
        """Write until told to pause; `resume_writing` goes on."""
        while self.flood_left > 0 and not self.paused:
            self.flood_left -= len(BIG)
            self.transport.write(BIG)
            if self.flood_left <= 0:
                self.transport.write(LAST)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.flood_left > 0:
            self.flood()


async def serve(count: int, idle: float) -> None:
    loop, counts = asyncio.get_running_loop(), Counts()
    servers = [
        await loop.create_server(lambda: Server(counts, idle), "127.0.0.1", 0, backlog=4096) for _ in range(count)
    ]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0))
