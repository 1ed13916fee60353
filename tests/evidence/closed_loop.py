"""Closed-loop clients that forgive nothing: each sends its next request when the last one is answered, and none twice.

A plain answer is good with status 200 and its whole body; a stream is good if it ended as it should: 200, `[DONE]`, no
error event, the end of the body. A connection that closes under a request is a failure here (a real client would send
it again): the bars of restart and reload are about exactly that.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import httptools

PATIENCE = 60.0  # seconds an answer may take


@dataclass(frozen=True, slots=True)
class Ask:
    """One request as bytes. `may_fail`: it provokes an error, any answer will do; `leave`: go at the first byte."""

    request: bytes
    stream: bool = False
    may_fail: bool = False
    leave: bool = False


def make_ask(tokens: int = 0, fault: str = "", model: str = "bench", size: int = 400, rate: float = 50.0,
             body: bytes | None = None, may_fail: bool = False, leave: bool = False) -> Ask:  # fmt: skip
    """A chat completion for the cheap upstream: `tokens` events `rate` a second, or a plain answer."""
    if body is None:
        streamed = b'"stream":true,' if tokens or fault in ("cut", "flood") else b""
        text = (b"word " * (size // 5 + 1))[:size]
        body = b'{"model":"%b",%b"messages":[{"role":"user","content":"%b"}]}' % (model.encode(), streamed, text)
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: evidence", "content-type: application/json",
             f"content-length: {len(body)}"]  # fmt: skip
    if tokens:
        lines.append(f"x-bench: {tokens} {rate} 0.0")
    if fault:
        lines.append(f"x-fault: {fault}")
    return Ask("\r\n".join([*lines, "", ""]).encode() + body, tokens > 0, may_fail, leave)


@dataclass(slots=True)
class Tally:
    """What became of the requests."""

    answered: int = 0
    left: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.answered + self.left + self.failed

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


class Line(asyncio.Protocol):
    """One connection with one request at a time."""

    def __init__(self) -> None:
        self.closed = False
        self._done: asyncio.Future[str] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, ask: Ask) -> asyncio.Future[str]:
        """Write the request; the future gets "" or why it failed."""
        self.parser = httptools.HttpResponseParser(self)
        self.ask, self.tail, self.events, self.heard = ask, b"", 0, False
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(ask.request)
        return self._done

    def data_received(self, data: bytes) -> None:
        self.heard = True
        if self._done is None:
            self.transport.abort()
        elif self.ask.leave:
            self.transport.abort()
            self._finish("left")
        else:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserError as error:
                self._finish(f"unreadable answer: {error}")
                self.transport.abort()

    def on_body(self, body: bytes) -> None:
        self.tail = (self.tail + body)[-512:]

    def on_message_complete(self) -> None:
        if not self.parser.should_keep_alive():
            self.closed = True
            self.transport.close()
        self._finish(self._judge())

    def _judge(self) -> str:
        status = self.parser.get_status_code()
        if self.ask.may_fail:
            return ""
        if status != 200:
            return f"status {status}: {self.tail[:120]!r}"
        if self.ask.stream and (b"[DONE]" not in self.tail or b'"error"' in self.tail):
            return f"stream broke: {self.tail[-120:]!r}"
        return ""

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._done is not None:
            kind = "a stream" if self.ask.stream else "an answer"
            self._finish("" if self.ask.may_fail else f"{kind} was cut" if self.heard else "closed without an answer")

    @property
    def status(self) -> int:
        return self.parser.get_status_code() if self.heard and not self.ask.leave else 0

    def _finish(self, cause: str) -> None:
        done, self._done = self._done, None
        if done is not None and not done.done():
            done.set_result(cause)


class Worker:
    """One client. `keep` keeps its connection, otherwise each request has a new one; `think` seconds between two."""

    def __init__(self, port: int, make: Callable[[], Ask], tally: Tally, *, keep: bool = True, think: float = 0.0):
        self._port = port
        self._make = make
        self._tally = tally
        self._keep = keep
        self._think = think
        self._line: Line | None = None

    async def run(self, more: Callable[[], bool]) -> None:
        """Ask while `more()`."""
        try:
            while more():
                await self.ask_once()
                if self._think:
                    await asyncio.sleep(self._think)
        finally:
            if self._line is not None:
                self._line.transport.abort()

    async def ask_once(self) -> None:
        tally, ask = self._tally, self._make()
        try:
            async with asyncio.timeout(PATIENCE):
                line = await self._open()
                cause = await line.send(ask)
        except OSError as error:
            tally.failures[f"connect: {error}"] += 1
            return
        except TimeoutError:
            tally.failures["no answer in time"] += 1
            self._drop()
            return
        if cause == "left":
            tally.left += 1
        elif cause:
            tally.failures[cause] += 1
        else:
            tally.answered += 1
            tally.statuses[line.status] += 1
        if not self._keep or line.closed:
            self._drop()

    async def _open(self) -> Line:
        if self._line is None or self._line.closed:
            _, self._line = await asyncio.get_running_loop().create_connection(Line, "127.0.0.1", self._port)
        return self._line

    def _drop(self) -> None:
        if self._line is not None and not self._line.closed:
            self._line.transport.close()
        self._line = None
