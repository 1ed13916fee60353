"""HTTP/1.1 connections that send one prepared request at a time and meter the answer.

The idea: one protocol object per connection, no task and no coroutine per request, one clock reading
per piece that arrives; so that 1,000 streams of 20 tokens/s cost a fraction of a core. `send` never waits:
it takes an idle connection or opens one, and calls back when the exchange is over. Time spent
connecting is part of the answer's latency, as it is for a real client.

A request that went out on a reused connection which the server closed before any byte came back is
sent once more on a new one (RFC 9112, 9.3.1: the close raced the request); this is counted, never hidden.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from loadtest.http1 import AnswerError, AnswerReader
from loadtest.stream import AnswerMeter

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and the part of every request head that never changes."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    prefix: bytes

    @staticmethod
    def parse(url: str, path: str, headers: dict[str, str]) -> Target:
        """`url` is `http(s)://host[:port][/base]`; `path` is appended. Raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an http:// or https:// URL")
        for name, value in headers.items():
            if not name or any(c in "\r\n\0" for c in name + value):
                raise ValueError(f"header {name!r} holds a character that is not allowed")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        lines = [
            f"POST {parts.path.rstrip('/')}{path} HTTP/1.1",
            f"host: {parts.netloc.rpartition('@')[2]}",
            "content-type: application/json",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        return Target(parts.hostname, port, tls, ("\r\n".join(lines) + "\r\n").encode("latin-1"))

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


class Exchange:
    """One request and what came of it. `finished(exchange)` is called exactly once."""

    __slots__ = ("began", "body", "ended", "failure", "finished", "headers", "meter", "resent")

    def __init__(self, body: bytes, finished: Callable[[Exchange], None], headers: bytes = b"") -> None:
        self.body = body
        self.headers = headers  # more header lines, each ending in CRLF
        self.finished = finished
        self.meter = AnswerMeter()
        self.began = 0.0  # when the generator handed it over, s
        self.ended = 0.0
        self.failure = ""
        self.resent = False


class Connection(asyncio.Protocol):
    """One connection; carries at most one exchange at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._reader: AnswerReader | None = None
        self._used = 0
        self._now = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without subclassing it

    def send(self, exchange: Exchange) -> None:
        """Write the request. The connection must be idle."""
        self._exchange = exchange
        self._reader = AnswerReader(self)
        self._used += 1
        size = b"content-length: %d\r\n\r\n" % len(exchange.body)
        if self._transport is None:  # closed between opening and now
            self.cancel("connection closed")
        else:
            self._transport.write(b"".join((self._client.target.prefix, exchange.headers, size, exchange.body)))

    @property
    def exchange(self) -> Exchange | None:
        """The exchange in flight, if any."""
        return self._exchange

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        if self._exchange is not None:
            self._exchange.meter.head(status, headers)

    def body(self, piece: bytes) -> None:
        if self._exchange is not None:
            self._exchange.meter.feed(piece, self._now)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if reader is None:
            self.abort()  # bytes nobody asked for
            return
        self._now = self._client.clock()
        try:
            reader.feed(data)
        except AnswerError as error:
            self._end(f"bad framing: {error}")
            return
        if reader.complete:
            self._end("")

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.forget(self)
        self._transport = None
        exchange, reader = self._exchange, self._reader
        if exchange is None or reader is None:
            return
        if self._used > 1 and not reader.started and not exchange.resent:
            self._exchange = None
            exchange.resent = True
            self._client.send_anew(exchange)
            return
        self._now = self._client.clock()
        self._end("" if reader.closed() else "connection closed" if not exchange.meter.status else "cut")

    def _end(self, failure: str) -> None:
        exchange, reader = self._exchange, self._reader
        assert exchange is not None and reader is not None
        self._exchange = self._reader = None
        exchange.ended = self._now
        meter = exchange.meter
        exchange.failure = failure if failure and failure != "cut" else meter.failure(reader.complete)
        if reader.keep_alive and not failure and self._transport is not None:
            self._client.keep(self)
        else:
            self.abort()
        exchange.finished(exchange)

    def cancel(self, reason: str) -> None:
        """Give up on the exchange in flight, if any, and end the connection."""
        if self._exchange is not None:
            self._now = self._client.clock()
            self._end(reason)
        elif self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()


class Client:
    """Connections to one target; they are reused, newest first, and opened when none is idle."""

    def __init__(self, target: Target, clock: Clock, max_open: int = 10_000) -> None:
        self.target = target
        self.clock = clock
        self.opened = 0
        self._max_open = max_open
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._opening: dict[asyncio.Task[None], Exchange] = {}

    def send(self, exchange: Exchange) -> None:
        """Start the exchange now; must be called on the event loop."""
        exchange.began = self.clock()
        if self._idle:
            self._idle.pop().send(exchange)
        else:
            self.send_anew(exchange)

    def send_anew(self, exchange: Exchange) -> None:
        """Start the exchange on a new connection."""
        if len(self._all) + len(self._opening) >= self._max_open:
            self._give_up(exchange, "generator: too many connections")
            return
        task = asyncio.get_running_loop().create_task(self._open(exchange))
        self._opening[task] = exchange
        task.add_done_callback(lambda task: self._opening.pop(task, None))

    async def _open(self, exchange: Exchange) -> None:
        loop, target = asyncio.get_running_loop(), self.target
        try:
            async with asyncio.timeout(10.0):
                _, connection = await loop.create_connection(
                    lambda: Connection(self), target.host, target.port, ssl=target.tls
                )
        except TimeoutError:
            self._give_up(exchange, "connect timed out")
            return
        except OSError as error:
            self._give_up(exchange, f"connect failed ({type(error).__name__})")
            return
        self.opened += 1
        self._all.add(connection)
        connection.send(exchange)

    def _give_up(self, exchange: Exchange, reason: str) -> None:
        exchange.ended = self.clock()
        exchange.failure = reason
        exchange.finished(exchange)

    def keep(self, connection: Connection) -> None:
        """The connection is idle again."""
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def expire(self, older_than: float) -> None:
        """Give up on every exchange that began before `older_than` (s, this client's clock)."""
        for connection in list(self._all):
            exchange = connection.exchange
            if exchange is not None and exchange.began < older_than:
                connection.cancel("timed out")

    def close(self) -> None:
        """Drop every connection; exchanges in flight end as unfinished."""
        for task, exchange in list(self._opening.items()):
            if not task.done():
                task.cancel()
                self._give_up(exchange, "unfinished")
        for connection in list(self._all):
            connection.cancel("unfinished")
