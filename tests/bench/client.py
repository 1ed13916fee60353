"""The bench's client: open loop, raw protocols; when it sends depends on the clock and never on answers.

Arrivals are a Poisson process from a seed. A request takes an idle connection or opens one, so nothing queues inside
the client; how late it was sent is kept (`lag`), and a run in which that grows does not count. Times are seconds of one
monotonic clock; a latency runs from the write of the request. (uvloop's timers tick in milliseconds: counting from the
intended moment would add up to one to every figure, the direct ones too.)
"""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

import httptools
import numpy as np

KEY = "bench-key-0123456789"


@dataclass(frozen=True, slots=True)
class Load:
    """What to send: `rate` requests a second for `seconds`, bodies of `size` bytes, answers of `tokens` events.

    Events come `token_rate` a second, the first after `first` seconds. At least `connections` are open beforehand.
    """

    rate: float
    seconds: float
    size: int = 1024
    tokens: int = 0
    token_rate: float = 50.0
    first: float = 0.0
    connections: int = 0


@dataclass(slots=True)
class Measured:
    """One run: arrays in seconds, one value an answered request (`gaps`: one a pair of neighbouring events)."""

    sent: int = 0
    failed: int = 0
    lag: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    causes: dict[str, int] = field(default_factory=dict)

    def fail(self, cause: str) -> None:
        self.failed += 1
        self.causes[cause] = self.causes.get(cause, 0) + 1


def percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(values, share)) if len(values) else float("nan")


@lru_cache(maxsize=16)
def make_requests(load: Load) -> list[bytes]:
    """Requests that differ in their prompts, as a server sees them: a head and a JSON body of `load.size` bytes."""
    words = ("the", "of", "model", "token", "latency", "queue", "server", "answer", "where", "soonest", "prefix")
    made = []
    for seed in range(max(4, min(32, 500_000 // load.size))):
        draw = random.Random(seed)
        start = '{"model":"bench","max_tokens":64,"temperature":0.7,'
        start += ('"stream":true,' if load.tokens else "") + '"messages":[{"role":"user","content":"'
        end = '"}]}'
        text = " ".join(draw.choice(words) for _ in range(load.size // 4))[: load.size - len(start) - len(end)]
        body = (start + text + end).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Type: application/json\r\nAccept: application/json\r\nUser-Agent: bench/1\r\n"
            f"x-bench: {load.tokens} {load.token_rate} {load.first}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    return made


class Connection(asyncio.Protocol):
    """One connection: carries one request at a time and goes back to the idle ones when its answer is whole."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)   # uvloop's is one in all but its base class
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.busy, self.first, self.last = True, 0.0, 0.0
        self.at = time.monotonic()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.end(f"unreadable answer: {error}")
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        now = time.monotonic()
        if not self.first:
            self.first = now
        else:
            self.client.measured.gaps.append(now - self.last)
        self.last = now

    def on_message_complete(self) -> None:
        measured, status = self.client.measured, self.parser.get_status_code()
        if self.parser.should_keep_alive():
            self.client.idle.append(self)
        else:
            self.transport.close()
        if status == 200 and self.first:
            measured.first.append(self.first - self.at)
            measured.total.append(time.monotonic() - self.at)
            self.end(None)
        else:
            self.end(f"status {status}")

    def end(self, cause: str | None) -> None:
        if self.busy:
            self.busy = False
            self.client.finished(cause)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.client.idle:
            self.client.idle.remove(self)
        self.end("connection lost")


class Client:
    """Sends loads to one address, one after the other; its connections stay open between them."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.idle: list[Connection] = []
        self.measured = Measured()

    async def connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self.port)
        return connection

    async def run(self, load: Load, seed: int, patience: float = 30.0) -> Measured:
        """Send a load and wait for its answers; one missing `patience` seconds after the last request is a failure."""
        while len(self.idle) < load.connections:
            self.idle.append(await self.connect())
        loop = asyncio.get_running_loop()
        self.load, self.draw = load, random.Random(seed)
        self.requests = make_requests(load)
        self.measured, self.open, self.opening = Measured(), 0, set[asyncio.Task[None]]()
        self.done: asyncio.Future[None] = loop.create_future()
        gc.collect()
        gc.disable()
        try:
            start = loop.time() + 0.01
            self.until = start + load.seconds
            self.fire_next(start)
            async with asyncio.timeout(load.seconds + patience):
                await self.done   # set when the last request of the load has ended
        except TimeoutError:
            self.measured.causes["no answer in time"] = self.open
            self.measured.failed += self.open
        finally:
            gc.enable()
        return self.measured

    def close(self) -> None:
        for connection in self.idle:
            connection.transport.close()

    def fire_next(self, due: float) -> None:
        if due >= self.until:
            self.until = 0.0
            self.finish()
        else:
            asyncio.get_running_loop().call_at(due, self.fire, due)

    def fire(self, due: float) -> None:
        measured = self.measured
        measured.lag.append(time.monotonic() - due)
        request = self.requests[measured.sent % len(self.requests)]
        measured.sent += 1
        self.open += 1
        if self.idle:
            self.idle.pop().send(request)
        else:
            task = asyncio.get_running_loop().create_task(self.open_and_send(request))
            self.opening.add(task)
            task.add_done_callback(self.opening.discard)
        self.fire_next(due + self.draw.expovariate(self.load.rate))

    async def open_and_send(self, request: bytes) -> None:
        try:
            connection = await self.connect()
        except OSError as error:
            self.finished(f"connect: {error.strerror}")
        else:
            connection.send(request)

    def finished(self, cause: str | None) -> None:
        self.open -= 1
        if cause is not None:
            self.measured.fail(cause)
        self.finish()

    def finish(self) -> None:
        if not self.until and not self.open and not self.done.done():
            self.done.set_result(None)
