"""What an engine said: the fields of its answer that a client may see, and an answer that is a failed try."""

from __future__ import annotations

from collections.abc import Sequence

from backends.base import Meaning
from gateway.core.errors import UpstreamError

_DROPPED = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
     b"upgrade", b"content-length", b"set-cookie", b"set-cookie2", b"x-request-id", b"endpoint-load-metrics",
     b"alt-svc")
)  # fmt: skip
_DROPPED_PREFIXES = (b"x-headway-", b"x-gateway-", b"x-llm-d-")

Fields = Sequence[tuple[bytes, bytes]]
Answer = tuple[int, Fields, bytes]


class TryFailed(UpstreamError):
    """A try that failed before its answer started. `answer` is what the engine said, if it said anything."""

    def __init__(self, message: str, *, cause: str, answer: Answer | None = None):
        super().__init__(message, cause=cause)
        self.answer = answer


def failed(cause: str, answer: Answer, meaning: Meaning) -> TryFailed:
    """What the engine said, as the failure of a try."""
    cause = {Meaning.SATURATED: "saturated", Meaning.LEAVING: "leaving"}.get(meaning, cause)
    return TryFailed(f"the model server answered {answer[0]}", cause=cause, answer=answer)


def forwardable(fields: Fields) -> bytes:
    """The engine's response fields that a client may see, as ready lines."""
    return b"".join([b"%b: %b\r\n" % field for field in fields
                     if field[0] not in _DROPPED and not field[0].startswith(_DROPPED_PREFIXES)])  # fmt: skip
