"""One connection to a model server: a request written, an answer read, and back into the pool if it is still clean.

The answer's bytes go to a Receiver (the relay of the moment) straight from the transport's callback; what arrives in
one read is handed on as one piece. llhttp parses. A peer that says anything odd (two framings, bytes after the end,
a second answer) hurts only its own request: its connection is never used again.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from typing import TYPE_CHECKING, Protocol, cast

import httptools

from gateway.core.errors import UpstreamError

if TYPE_CHECKING:
    from gateway.wire.pool import EndpointPool

_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_HEADER_BYTES = 64 * 1024
_HIGH, _LOW = 256 * 1024, 64 * 1024


class Receiver(Protocol):
    """Who reads an answer. `pieces` follow `head`, then `end`, or `broke` at any point instead."""

    def head(self, status: int, fields: list[tuple[bytes, bytes]], length: int | None) -> None: ...

    def piece(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    def broke(self, error: UpstreamError) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """`request` sends; the receiver is told what comes back. One request at a time."""

    transport: asyncio.Transport

    def __init__(self, pool: EndpointPool):
        self._pool = pool
        self._receiver: Receiver | None = None
        self._parts: list[bytes] = []
        self.on_body = self._parts.append
        self._parser = httptools.HttpResponseParser(self)  # looks its callbacks up now
        self._fields: list[tuple[bytes, bytes]] = []
        self._until_close = False
        self._complete = False
        self._clean = True
        self._head_left = 0  # bytes that the rest of a head may have; 0 when it is complete
        self._paused = False
        self.reused = False
        self.answered = False  # a byte of the present answer has come
        self.idle_since = 0.0
        self.keepalive: float | None = None

    # --- the proxy's side ----------------------------------------------------------------------------------------

    def request(self, head: bytes, body: bytes, receiver: Receiver) -> None:
        """Send one request. The answer, or the break, goes to `receiver`."""
        self._receiver = receiver
        self.answered = False
        self._complete = False
        self._head_left = _HEADER_BYTES
        if len(body) <= 4096:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

    def abandon(self) -> None:
        """Nobody wants the rest: close at once, which makes the engine stop generating."""
        self._receiver = None
        self._clean = False
        if not self.transport.is_closing():
            self.transport.abort()

    def pause(self) -> None:
        if not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    @property
    def usable(self) -> bool:
        return self._clean and not self.transport.is_closing()

    # --- the transport's side ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        transport.set_write_buffer_limits(_HIGH, _LOW)
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:  # nothing was asked: whatever this is, it is not ours
            self._clean = False
            self.transport.abort()
            return
        self.answered = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            cause = error.__context__
            text = str(cause) if isinstance(cause, _Refuse) else "the model server's answer is not valid HTTP"
            self._break(UpstreamError(text, cause="protocol"))
            return
        except _Refuse as error:
            self._break(UpstreamError(str(error), cause="protocol"))
            return
        if self._head_left:
            self._head_left -= len(data)
            if self._head_left <= 0:
                self._break(UpstreamError("the model server's response head is too large", cause="protocol"))
                return
        parts = self._parts
        if parts:
            piece = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            receiver.piece(piece)
        if self._complete and self._receiver is receiver:
            self._finish(receiver)

    def eof_received(self) -> bool:
        if self._until_close and self._receiver is not None:
            receiver, self._clean = self._receiver, False
            self._finish(receiver)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._clean = False
        self._pool.forget(self)
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.broke(UpstreamError("the model server closed the connection", cause="closed"))

    # --- llhttp's side -------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._complete:
            raise _Refuse("the model server sent more than one answer")
        self._fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            if status == 101:
                raise _Refuse("the model server switched protocols without being asked")
            return
        fields = self._fields
        named = dict(fields)
        values = b"".join([value for _, value in fields])
        if len(values) > _HEADER_BYTES:
            raise _Refuse("the model server's response head is too large")
        if _BAD_VALUE.search(values) is not None:
            raise _Refuse("a control byte in the model server's response head")
        length, coding = named.get(b"content-length"), named.get(b"transfer-encoding")
        if len(named) != len(fields):
            names = [name for name, _ in fields]
            if names.count(b"content-length") > 1 or names.count(b"transfer-encoding") > 1:
                raise _Refuse("the model server sent its framing twice")
        if coding is not None and (length is not None or coding.lower() != b"chunked"):
            raise _Refuse("the model server sent two framings, or an unknown transfer coding")
        if length is not None and not length.isdigit():
            raise _Refuse("the model server's Content-Length is not a number")
        if b"keep-alive" in named:
            self._read_keepalive(named[b"keep-alive"])
        size = 0 if status in (204, 304) else int(length) if length is not None else None
        self._until_close = size is None and coding is None
        self._head_left = 0
        receiver = self._receiver
        if receiver is not None:
            receiver.head(status, fields, size)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            return
        self._complete = True
        if not self._parser.should_keep_alive():
            self._clean = False

    # --- endings -------------------------------------------------------------------------------------------------

    def _read_keepalive(self, value: bytes) -> None:
        match = re.search(rb"timeout=(\d{1,6})", value)
        if match:
            self.keepalive = max(0.0, int(match[1]) - 1.0)

    def _finish(self, receiver: Receiver) -> None:
        self._receiver = None
        self._complete = False
        self._until_close = False
        if self.transport.get_write_buffer_size():
            # The answer came before the whole request had left, and the rest would stand before the next one's head.
            self._clean = False
            self.transport.abort()
        elif self._clean and not self.transport.is_closing():
            self.reused = True
            self.idle_since = time.monotonic()
            if self._paused:
                self.resume()
            self._pool.give(self)
        else:
            self.transport.close()
        receiver.end()

    def _break(self, error: UpstreamError) -> None:
        self._clean = False
        receiver, self._receiver = self._receiver, None
        self.transport.abort()
        if receiver is not None:
            receiver.broke(error)


class _Refuse(Exception):
    """Raised inside llhttp's callbacks: stop reading this answer."""
