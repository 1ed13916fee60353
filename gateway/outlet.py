"""Where an answer is written: to a client (`wire.reply.Reply`) or to a job's record (`jobs.collected.Collected`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Outlet(Protocol):
    """One per request; `wire.reply.Reply` says what each does."""

    status: int
    started: bool
    ended: bool
    gone: bool
    paused: bool
    bytes_out: int
    on_pause: Callable[[], None] | None
    on_resume: Callable[[], None] | None

    def start(self, status: int, fields: bytes, length: int | None, first: bytes = b"") -> None: ...
    def write(self, data: bytes) -> None: ...
    def end(self, last: bytes = b"") -> None: ...
    def send(self, status: int, fields: bytes, body: bytes) -> None: ...
    def break_off(self, last: bytes) -> None: ...
    def cut(self) -> None: ...
