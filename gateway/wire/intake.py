"""A request's body on its way in: gathered whole, or handed in pieces to a sink, so that none of it is kept here.

Both are fed what the connection reads, unframe it, and tell the end of the body apart from what comes after it. A sink
that is full stops the connection's reading; TCP then stops the client.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.wire.above import Sink
from gateway.wire.chunked import ChunkedBody
from gateway.wire.head import RequestHead, WireError


class _Framing:
    """Takes the framing off one body, sized or chunked. `size` is what was unframed so far."""

    __slots__ = ("size", "_chunks", "_length")

    def __init__(self, head: RequestHead, limit: int):
        if head.length > limit:
            raise WireError(413, f"the body is larger than {limit} bytes", "body_too_large")
        self.size = 0
        self._chunks = ChunkedBody(limit) if head.chunked else None
        self._length = head.length

    def unframe(self, data: bytes) -> tuple[bytes, bytes | None]:
        """What of `data` is body, and what came after its end: None while that has not come. Raises WireError."""
        if self._chunks is not None:
            after = self._chunks.feed(data)
            self.size = self._chunks.size
            return self._chunks.data(), after if self._chunks.done else None
        missing = self._length - self.size
        if len(data) < missing:
            self.size += len(data)
            return data, None
        self.size = self._length
        return (data, b"") if len(data) == missing else (data[:missing], data[missing:])


class Whole(_Framing):
    """Gathers a body."""

    __slots__ = ("_parts",)

    def __init__(self, head: RequestHead, limit: int):
        super().__init__(head, limit)
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> bytes | None:
        """What came after the body's end; None while its end has not come."""
        part, after = self.unframe(data)
        self._parts.append(part)
        return after

    def body(self) -> bytes:
        return b"".join(self._parts)


class Intake(_Framing):
    """Feeds one sink. `go_on` is called when a full sink wants more. Besides WireError, `feed` raises Unwanted."""

    __slots__ = ("_sink", "_go_on", "is_full")

    def __init__(self, sink: Sink, head: RequestHead, go_on: Callable[[], None]):
        super().__init__(head, sink.limit)
        self._sink = sink
        self._go_on: Callable[[], None] | None = go_on
        self.is_full = False
        sink.begin(self._resume)

    def feed(self, data: bytes) -> bytes | None:
        """What came after the body's end; None while its end has not come."""
        part, after = self.unframe(data)
        if part and not self._sink.write(part):
            self.is_full = True
        return after

    def over(self) -> Sink:
        """The body has ended, in whichever way: who took it. From now on it resumes nothing."""
        self._go_on = None
        return self._sink

    def _resume(self) -> None:
        if self.is_full and self._go_on is not None:
            self.is_full = False
            self._go_on()
