"""The answer to one client request: framed for that client, written once, in order.

`start` sends a head (with the first bytes of the body, so that both leave in one packet), `write` more of the body,
`end` closes the framing. `cut` breaks the connection so that nobody takes a broken answer for a whole one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.wire.connection import ServerConnection

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_BODILESS = frozenset((204, 304))
# The size lines of small chunks, which nearly all are: formatting one costs as much as sending it on through here.
_SIZES = tuple(b"%x\r\n" % size for size in range(2048))


class Reply:
    """One per request. `gone` is true once the client has left; writing then does nothing.

    The relay of the moment sets `on_pause` and `on_resume` to be told when this client reads too slowly; a coroutine
    that makes a long answer awaits `drained` after each piece instead.
    """

    __slots__ = ("_connection", "_keep_alive", "_minor", "_bodiless", "_chunked", "_left", "status", "started", "ended",
                 "gone", "bytes_out", "on_pause", "on_resume", "paused")  # fmt: skip

    def __init__(self, connection: ServerConnection, keep_alive: bool, minor: int, is_head: bool):
        self._connection = connection
        self._keep_alive = keep_alive
        self._minor = minor
        self._bodiless = is_head
        self._chunked = False
        self._left = 0
        self.status = 0
        self.started = False
        self.ended = False
        self.gone = False
        self.paused = False
        self.bytes_out = 0
        self.on_pause: Callable[[], None] | None = None
        self.on_resume: Callable[[], None] | None = None

    def start(self, status: int, fields: bytes, length: int | None, first: bytes = b"") -> None:
        """Send the head. `fields` are ready lines ending in CRLF; `length` None means: until `end`."""
        if self.gone:
            return
        self.status, self.started = status, True
        connection = self._connection
        if connection.closing or connection.draining():
            self._keep_alive = False
        if status in _BODILESS:
            self._bodiless, framing = True, b""
        elif length is not None:
            self._left, framing = length, b"content-length: %d\r\n" % length
        elif self._minor:
            self._chunked, framing = True, b"transfer-encoding: chunked\r\n"
        else:
            self._keep_alive, framing = False, b""
        if not self._keep_alive:
            framing += b"connection: close\r\n"
        elif not self._minor:
            framing += b"connection: keep-alive\r\n"
        head = b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (status, _REASONS.get(status, b"Status"), fields, framing)
        self._send(head + self._frame(first) if first else head)

    def write(self, data: bytes) -> None:
        if not data or self.gone:
            return
        if self._chunked and not self._bodiless:  # the hot path of a stream
            size = len(data)
            data = b"".join((_SIZES[size] if size < len(_SIZES) else b"%x\r\n" % size, data, b"\r\n"))
            self.bytes_out += len(data)
            self._connection.transport.write(data)
        else:
            self._send(self._frame(data))

    async def drained(self) -> None:
        """Return when this client can take more. When it leaves, whoever answers is cancelled, and so is this."""
        if self.paused and not self.gone:
            drained = asyncio.get_running_loop().create_future()
            self.on_resume = lambda: None if drained.done() else drained.set_result(None)
            try:
                await drained
            finally:
                self.on_resume = None

    def end(self, last: bytes = b"") -> None:
        """Close the framing. An answer that is shorter than it promised is cut, never padded."""
        if self.gone or self.ended:
            return
        if last:
            framed = self._frame(last)
            self._send(framed + b"0\r\n\r\n" if self._chunked and not self._bodiless else framed)
        elif self._chunked and not self._bodiless:
            self._connection.transport.write(b"0\r\n\r\n")
        if self._left and not self._bodiless:
            self.cut()
            return
        self.ended = True
        self._connection.answered(self._keep_alive)

    def send(self, status: int, fields: bytes, body: bytes) -> None:
        """A whole answer at once."""
        self.start(status, fields, len(body), body)
        self.end()

    def break_off(self, last: bytes) -> None:
        """Write `last` (an error event), then close with the framing open: nobody takes this for a whole answer."""
        if not self.gone and not self.ended:
            if last:  # an empty chunk would say that the answer is whole
                self._send(self._frame(last))
            self.ended = True
            self._connection.break_off()

    def cut(self) -> None:
        """Break off: the client sees a connection that ended before its answer did."""
        if not self.gone and not self.ended:
            self.ended = True
            self._connection.abort()

    def _frame(self, data: bytes) -> bytes:
        if self._bodiless:
            return b""
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(data), data)
        if self._left:
            self._left -= len(data)
        return data

    def _send(self, data: bytes) -> None:
        self.bytes_out += len(data)
        self._connection.transport.write(data)
