"""What the listener asks of those above it: its limits, a verdict on heads, and somebody to answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
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

    def cancel(self) -> object: ...


Verdict = Callable[[Reply], Answering | None]
"""Answers a request whose body nobody needs: at once (None), or later by somebody who can be told of a cancel."""


class Unwanted(Exception):
    """Raised by a sink: the rest of this body is not wanted, `answer` says why. Nothing more is asked of the sink."""

    def __init__(self, answer: Verdict):
        super().__init__("the rest of the body is not wanted")
        self.answer = answer


class Sink(ABC):
    """Takes one body in pieces, as they come, and then answers. What it holds of them is its own to bound.

    `begin` comes first; then `write` for every piece; then exactly one of `finish` and `abort`, unless the sink
    itself ended it by raising Unwanted from `write`. `limit` is the most bytes that its body may have.
    """

    limit: int

    @abstractmethod
    def begin(self, resume: Callable[[], None]) -> None:
        """The body begins. `resume` may be called at any time and as often as one likes, after the end too."""

    @abstractmethod
    def write(self, data: bytes) -> bool:
        """Take a piece. False: no more of them until `resume`; what was already on its way may still come."""

    @abstractmethod
    def finish(self, reply: Reply) -> Answering | None:
        """The body is whole: answer, at once (None) or later."""

    @abstractmethod
    def abort(self) -> None:
        """The rest will not come: the client left, was too slow, or broke the framing. Somebody else answers."""


class Front(Protocol):
    """What the listener needs from above: a verdict on heads, and somebody to answer."""

    def screen(self, head: RequestHead) -> Verdict | Sink | None:
        """None when the whole body is wanted; who takes it in pieces; or what answers without it."""

    def handle(self, head: RequestHead, body: bytes, reply: Reply, peer: str) -> Answering | None:
        """Answer a whole request: at once (None), or later by somebody who can be told that the client left."""

    def refuse(self, error: WireError, reply: Reply, path: bytes) -> None:
        """Answer a request that was refused by its framing, size or slowness."""
