"""What the listener asks of those above it: its limits, a verdict on heads, and somebody to answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.wire.head import RequestHead, WireError
from gateway.wire.reply import Reply


class Limits(Protocol):
    """Bytes, counts and seconds; the names are those of the configuration."""

    @property
    def body(self) -> int: ...
    @property
    def buffered(self) -> int: ...
    @property
    def headers(self) -> int: ...
    @property
    def header_count(self) -> int: ...
    @property
    def target(self) -> int: ...
    @property
    def connections(self) -> int: ...
    @property
    def header_time(self) -> float: ...
    @property
    def body_idle(self) -> float: ...
    @property
    def idle(self) -> float: ...
    @property
    def write_stall(self) -> float: ...


class Answering(Protocol):
    """Who is busy with an answer."""

    def cancel(self) -> None: ...


class Front(Protocol):
    """What the listener needs from above: a verdict on heads, and somebody to answer."""

    def screen(self, head: RequestHead) -> Callable[[Reply], None] | None:
        """None when the body is wanted; otherwise what answers instead."""

    def handle(self, head: RequestHead, body: bytes, reply: Reply, peer: str) -> Answering | None:
        """Answer a whole request: at once (None), or later by somebody who can be told that the client left."""

    def refuse(self, error: WireError, reply: Reply, path: bytes) -> None:
        """Answer a request that was refused by its framing, size or slowness."""
