"""How each family of SDKs expects to be told of an error: one shape a path, in answers and in streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.core.errors import HeadwayError

_OPENAI_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
                 404: "not_found_error", 429: "rate_limit_error"}  # fmt: skip
_ANTHROPIC_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error",
                    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
                    504: "timeout_error"}  # fmt: skip

Shape = Callable[[HeadwayError], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """`body` and `event` make the bytes of an error."""

    name: str
    shape: Shape
    event_name: str | None
    event_shape: Shape

    def body(self, error: HeadwayError) -> bytes:
        return msgspec.json.encode(self.shape(error))

    def event(self, error: HeadwayError) -> bytes:
        """One server-sent event with its blank line."""
        data = b"data: %b\n\n" % msgspec.json.encode(self.event_shape(error))
        return data if self.event_name is None else b"event: %b\n%b" % (self.event_name.encode(), data)


def _openai(error: HeadwayError) -> dict[str, Any]:
    kind = _OPENAI_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": error.message, "type": kind, "code": error.code, "param": error.param}}


def _anthropic(error: HeadwayError) -> dict[str, Any]:
    kind = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def _responses_event(error: HeadwayError) -> dict[str, Any]:
    return {"type": "error", "code": error.code, "message": error.message, "param": error.param, "sequence_number": 0}


def _triton(error: HeadwayError) -> dict[str, Any]:
    return {"error": error.message}


OPENAI = Dialect("openai", _openai, None, _openai)
RESPONSES = Dialect("responses", _openai, "error", _responses_event)
ANTHROPIC = Dialect("anthropic", _anthropic, "error", _anthropic)
TRITON = Dialect("triton", _triton, None, _triton)
