"""HTTP/1.1 on a bare asyncio protocol: just enough for a simulated server, and cheap enough for twenty thousand
tokens a second in one process.

The idea: requests are parsed by hand from one buffer (sized and chunked bodies, keep-alive, pipelining in order,
100-continue); an answer is one write; a stream is one write per event, framed as a chunk. A connection can be cut or
reset in the middle, which is what a simulated failure needs and a framework does not let one do. It is *not* a
strict server: the gateway is where strictness lives.
"""

import asyncio
import email.utils
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import cast

HEAD_LIMIT = 64 * 1024
BODY_LIMIT = 256 * 1024 * 1024
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request; header names in lower case, `path` without the query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    keep_alive: bool
    chunks: bool  # the client understands a chunked answer


class BadHttp(ValueError):
    """The bytes are not HTTP as spoken here."""


class Reply:
    """The answer to one request: either `send`, or `start` and then `write` until `end`.

    `lost` is called once if the client goes away before the answer is complete. After that, writing does nothing.
    """

    __slots__ = ("_chunks", "_connection", "_keep_alive", "done", "lost", "started")

    def __init__(self, connection: "Connection", request: HttpRequest) -> None:
        self._connection = connection
        self._keep_alive = request.keep_alive
        self._chunks = request.chunks
        self.started = False
        self.done = False
        self.lost: Callable[[], None] | None = None

    def send(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """A whole answer."""
        if self.done:
            return
        head = self._head(status, headers)
        self._connection.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        self._finish()

    def start(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of a streamed answer."""
        if self.done:
            return
        self.started = True
        self._keep_alive = self._keep_alive and self._chunks
        framing = b"transfer-encoding: chunked\r\n\r\n" if self._chunks else b"\r\n"
        self._connection.write(self._head(status, headers) + framing)

    def write(self, data: bytes) -> None:
        """A piece of a streamed answer, not empty."""
        if not self.done:
            self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunks else data)

    def end(self, data: bytes = b"") -> None:
        """The last piece, and the end, in one write."""
        if self.done:
            return
        last = b"%x\r\n%b\r\n" % (len(data), data) if data and self._chunks else data
        self._connection.write(last + b"0\r\n\r\n" if self._chunks else last)
        self._finish()

    def cut(self) -> None:
        """Close without an end."""
        self._connection.close()

    def reset(self) -> None:
        """Close the hard way: the client sees a reset."""
        self._connection.reset()

    def give_up(self) -> None:
        """The client is gone."""
        if self.done:
            return
        self.done = True
        if self.lost is not None:
            self.lost()

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, 'Unknown')}", f"date: {http_date(int(time.time()))}"]
        lines.append("server: uvicorn")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if not self._keep_alive:
            lines.append("connection: close")
        return ("\r\n".join(lines) + "\r\n").encode("latin-1")

    def _finish(self) -> None:
        self.done = True
        self._connection.answered(self._keep_alive)


@lru_cache(maxsize=2)
def http_date(second: int) -> str:
    """The date header's value; remembered, because a busy server sends many in a second."""
    return email.utils.formatdate(second, usegmt=True)


class Connection(asyncio.Protocol):
    """One client connection. `handler` gets each request with its reply; `opened` and `closed` are told of us."""

    def __init__(self, handler: Callable[[HttpRequest, Reply], None], connections: "set[Connection]") -> None:
        self._handler = handler
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._reply: Reply | None = None
        self._closing = False
        self._continued = False
        self._idle_since = 0.0

    def is_idle(self, seconds: float) -> bool:
        """Nothing has come or gone for so long."""
        return self._reply is None and not self._buffer and time.monotonic() - self._idle_since > seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being a subclass
        self._connections.add(self)
        self._idle_since = time.monotonic()
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._connections.discard(self)
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.give_up()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._reply is None:
            self._advance()

    def eof_received(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        """Send bytes; nothing happens when the connection is gone."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Close once what was written is sent."""
        self._closing = True
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def reset(self) -> None:
        """Close at once with a reset."""
        self._closing = True
        transport, self._transport = self._transport, None
        if transport is not None:
            raw = transport.get_extra_info("socket")
            if raw is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

    def close_when_idle(self) -> None:
        """Close now, or after the answer under way."""
        self._closing = True
        if self._reply is None:
            self.close()

    def answered(self, keep_alive: bool) -> None:
        """The reply under way is complete."""
        self._reply = None
        self._idle_since = time.monotonic()
        if not keep_alive or self._closing:
            self.close()
        elif self._buffer:
            asyncio.get_running_loop().call_soon(self._advance)

    def _advance(self) -> None:
        if self._reply is not None or self._transport is None or self._closing:
            return
        try:
            request = self._parse()
        except (BadHttp, ValueError) as error:
            body = f"bad request: {error}".encode()
            head = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            self.write(head % len(body) + body)
            self.close()
            return
        if request is None:
            return
        self._reply = Reply(self, request)
        self._handler(request, self._reply)

    def _parse(self) -> HttpRequest | None:
        """The next request, taken out of the buffer; None until all of it is there."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise BadHttp("head too long")
            return None
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        method, target, version = lines[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if "chunked" in headers.get("transfer-encoding", "").lower():
            parsed = parse_chunks(self._buffer, end + 4)
        else:
            length = int(headers.get("content-length", "0"))
            if length < 0:
                raise BadHttp("negative content-length")
            stop = end + 4 + length
            parsed = (bytes(self._buffer[end + 4 : stop]), stop) if len(self._buffer) >= stop else None
        if len(self._buffer) > BODY_LIMIT:
            raise BadHttp("body too long")
        if parsed is None:
            if not self._continued and headers.get("expect", "").lower() == "100-continue":
                self._continued = True
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        self._continued = False
        body, stop = parsed
        del self._buffer[:stop]
        modern = version != "HTTP/1.0"
        wish = headers.get("connection", "").lower()
        keep_alive = "close" not in wish if modern else "keep-alive" in wish
        return HttpRequest(method, target.partition("?")[0], headers, body, keep_alive, modern)


def parse_chunks(buffer: bytearray, start: int) -> tuple[bytes, int] | None:
    """A chunked body from `start` and where it ends; None until all of it is there. Raises BadHttp."""
    pieces: list[bytes] = []
    while True:
        line_end = buffer.find(b"\r\n", start)
        if line_end < 0:
            return None
        try:
            size = int(bytes(buffer[start:line_end]).split(b";")[0], 16)
        except ValueError as error:
            raise BadHttp("bad chunk size") from error
        start = line_end + 2
        if size == 0:
            stop = buffer.find(b"\r\n", start)
            if stop == start:
                return b"".join(pieces), start + 2
            stop = buffer.find(b"\r\n\r\n", start)
            return None if stop < 0 else (b"".join(pieces), stop + 4)
        if len(buffer) < start + size + 2:
            return None
        pieces.append(bytes(buffer[start : start + size]))
        start += size + 2
