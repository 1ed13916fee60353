"""A model server that does as it is told: raw bytes, whole or byte by byte, cut, reset, silent.

It reads requests strictly (so a malformed forward fails the test that caused it), keeps them, and plays the next
behaviour of its script for each POST. GETs are the gateway's probes: answered with 200 and not kept.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ssl import SSLContext
from types import TracebackType


@dataclass(slots=True)
class Received:
    """One request as it came. `fields` are (lower-case name, value) pairs in order."""

    line: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    connection: int  # which connection it came on, counted from 1

    @property
    def named(self) -> dict[bytes, bytes]:
        return dict(self.fields)

    @property
    def target(self) -> bytes:
        return self.line.split(b" ")[1]


@dataclass(slots=True)
class Line:
    """One connection, from the server's side. `closed` is set when the gateway has let go of it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """End with a RST instead of a FIN."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Behaviour = Callable[[Line, Received], Awaitable[bool]]  # True: the connection is kept for the next request


def whole(raw: bytes, *, keep: bool = True) -> Behaviour:
    """All of it at once; then keep the connection, or close it."""

    async def play(line: Line, _: Received) -> bool:
        await line.send(raw)
        return keep

    return play


def bytewise(raw: bytes) -> Behaviour:
    """One byte a write, each in a segment of its own as far as the kernel goes along."""

    async def play(line: Line, _: Received) -> bool:
        for at in range(len(raw)):
            await line.send(raw[at : at + 1])
            await asyncio.sleep(0)
        return True

    return play


def pieces(*parts: bytes, gap: float = 0.02) -> Behaviour:
    """Piece after piece, apart in time so that each is read by itself."""

    async def play(line: Line, _: Received) -> bool:
        for part in parts:
            await line.send(part)
            await asyncio.sleep(gap)
        return True

    return play


def cut(raw: bytes = b"") -> Behaviour:
    """Some bytes, then a FIN."""
    return whole(raw, keep=False)


def reset(raw: bytes = b"", pause: float = 0.02) -> Behaviour:
    """Some bytes, then a RST."""

    async def play(line: Line, _: Received) -> bool:
        if raw:
            await line.send(raw)
            await asyncio.sleep(pause)
        line.reset()
        return False

    return play


def hang(raw: bytes = b"") -> Behaviour:
    """Some bytes, then silence until the gateway lets go."""

    async def play(line: Line, _: Received) -> bool:
        if raw:
            await line.send(raw)
        with suppress(ConnectionError):
            await line.reader.read()
        return False

    return play


def answer(body: bytes, status: int = 200, *fields: bytes, kind: bytes = b"application/json") -> bytes:
    """A sized answer as bytes."""
    lines = b"".join(line + b"\r\n" for line in fields)
    return b"HTTP/1.1 %d X\r\ncontent-type: %b\r\n%bcontent-length: %d\r\n\r\n%b" % (
        status, kind, lines, len(body), body,
    )  # fmt: skip


SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def sse(*events: bytes, end: bool = True) -> bytes:
    """A stream as bytes: one chunk an event, each event closed by its blank line."""
    return SSE_HEAD + b"".join(chunk(event + b"\n\n") for event in events) + (b"0\r\n\r\n" if end else b"")


OK = whole(answer(b'{"object":"chat.completion","usage":{"prompt_tokens":3,"completion_tokens":2}}'))


class Upstream:
    """`async with Upstream(...) as upstream:` listens on a free loopback port. The last behaviour repeats."""

    def __init__(self, *script: Behaviour, tls: SSLContext | None = None, probe_status: int = 200):
        self.script = deque(script or (OK,))
        self.requests: list[Received] = []
        self.lines: list[Line] = []
        self.probe_status = probe_status
        self.arrived = asyncio.Event()
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Upstream:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls, limit=1 << 20)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:  # fmt: skip
        await self.stop()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def posts(self) -> int:
        return len(self.requests)

    async def stop(self) -> None:
        """Refuse from now on, and drop what is open."""
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        line = Line(reader, writer, len(self.lines) + 1)
        self.lines.append(line)
        try:
            while (request := await _read(line)) is not None and await self._answer(line, request):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the gateway left, or the test is over
        finally:
            line.closed.set()
            writer.close()
            self._tasks.discard(task)

    async def _answer(self, line: Line, request: Received) -> bool:
        if request.line.startswith(b"GET "):
            await line.send(answer(b"{}", self.probe_status))
            return True
        self.requests.append(request)
        self.arrived.set()
        behaviour = self.script.popleft() if len(self.script) > 1 else self.script[0]
        return await behaviour(line, request)


async def _read(line: Line) -> Received | None:
    try:
        raw = await line.reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        assert not error.partial, error.partial
        return None
    lines = raw[:-4].split(b"\r\n")
    fields = []
    for text in lines[1:]:
        name, colon, value = text.partition(b": ")
        assert colon and name == name.lower(), text
        fields.append((name, value))
    names = [name for name, _ in fields]
    assert names.count(b"host") == 1 and names.count(b"content-length") <= 1 and b"transfer-encoding" not in names, raw
    length = int(dict(fields).get(b"content-length", b"0"))
    return Received(lines[0], fields, await line.reader.readexactly(length), line.number)


def urls(upstreams: Sequence[Upstream]) -> list[str]:
    return [upstream.url for upstream in upstreams]
