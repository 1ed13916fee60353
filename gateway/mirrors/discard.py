"""Where the answers go that nobody reads: those to copies of requests. Their bytes are counted and dropped."""

from __future__ import annotations

from collections.abc import Callable


class Discard:
    """An outlet that keeps nothing of an answer but its status and size."""

    __slots__ = ("bytes_out", "ended", "gone", "on_pause", "on_resume", "paused", "started", "status")

    def __init__(self) -> None:
        self.status = 0
        self.bytes_out = 0
        self.started = self.ended = self.gone = self.paused = False
        self.on_pause: Callable[[], None] | None = None
        self.on_resume: Callable[[], None] | None = None

    def start(self, status: int, fields: bytes, length: int | None, first: bytes = b"") -> None:
        self.status, self.started, self.bytes_out = status, True, len(first)

    def write(self, data: bytes) -> None:
        self.bytes_out += len(data)

    def end(self, last: bytes = b"") -> None:
        self.bytes_out += len(last)
        self.ended = True

    def send(self, status: int, fields: bytes, body: bytes) -> None:
        """A whole answer at once."""
        self.start(status, fields, len(body), body)
        self.ended = True

    def break_off(self, last: bytes) -> None:
        self.ended = True

    def cut(self) -> None:
        self.ended = True
