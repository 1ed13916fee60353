"""An answer that nobody waits for on a connection: kept whole, to be stored when its request has ended.

It looks like `wire.reply.Reply` to those who write answers. Its size is bounded: an answer beyond `MOST` is given up
(`too_large`), since a job's memory must not depend on a model server's good will.
"""

from __future__ import annotations

from collections.abc import Callable

MOST = 32 << 20  # bytes


class Collected:
    """One per job's request. `whole` is true when the answer came to its end."""

    __slots__ = ("_parts", "bytes_out", "ended", "fields", "gone", "on_pause", "on_resume", "paused", "started",
                 "status", "too_large", "whole")  # fmt: skip

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.status = 0
        self.fields = b""
        self.started = False
        self.ended = False
        self.whole = False
        self.too_large = False
        self.gone = False
        self.paused = False
        self.bytes_out = 0
        self.on_pause: Callable[[], None] | None = None
        self.on_resume: Callable[[], None] | None = None

    @property
    def body(self) -> bytes:
        return b"".join(self._parts)

    def start(self, status: int, fields: bytes, length: int | None, first: bytes = b"") -> None:
        """`length` is not looked at: what comes is kept."""
        self.status, self.fields, self.started = status, fields, True
        self.write(first)

    def write(self, data: bytes) -> None:
        self.bytes_out += len(data)
        if self.bytes_out > MOST:
            self.too_large = True
            self._parts.clear()
        elif data:
            self._parts.append(data)

    def end(self, last: bytes = b"") -> None:
        self.write(last)
        self.ended, self.whole = True, not self.too_large

    def send(self, status: int, fields: bytes, body: bytes) -> None:
        """A whole answer at once."""
        self.start(status, fields, len(body), body)
        self.end()

    def break_off(self, last: bytes) -> None:
        """The answer broke: what there is of it is not whole."""
        self.write(last)
        self.ended = True

    def cut(self) -> None:
        self.ended = True
