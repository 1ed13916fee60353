"""What a vLLM server answers when it refuses: status and body, word for word, as recorded from version 0.32.

Three shapes exist: the OpenAI-style `error` object, Anthropic's on `/v1/messages`, and the framework's own `detail` for
unknown paths and methods. Who refuses, and when, is decided elsewhere.
"""

import json

BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
SHUTTING_DOWN = "cannot schedule new futures after shutdown"
MEDIA_TYPE = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"


class ApiError(Exception):
    """A refusal: HTTP status, vLLM's error type, a message and the parameter it is about."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.param = param

    def body(self, path: str = "") -> bytes:
        """The answer's body in the shape of the path that was asked for."""
        if path.startswith("/v1/messages"):
            return dump({"type": "error", "error": {"type": self.kind, "message": self.message}})
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}
        return dump({"error": error})

    def event(self) -> bytes:
        """The same as an event inside a stream; it has spaces there."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}
        return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


def dump(value: object) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def bad_request(message: str, param: str | None, value: object = None) -> ApiError:
    """A parameter out of range."""
    if value is not None:
        message += f" (parameter={param}, value={value})"
    return ApiError(400, "BadRequestError", message, param)


def invalid(kind: str, where: str, text: str, given: str, context: str = "") -> ApiError:
    """A body that fails validation; the message carries the validator's own record."""
    record = f"{{'type': '{kind}', 'loc': '{where}', 'msg': '{text}', 'input': '{given}'{context}}}"
    return ApiError(400, "Bad Request", f"1 validation error:\n  {record}", where)


def unknown_model(name: object, served: str) -> ApiError:
    """The model is not served here."""
    return ApiError(404, "NotFoundError", f"The model `{name}` does not exist. Valid aliases: {served}.", "model")


def too_long(limit: int) -> ApiError:
    """The prompt leaves no room for an answer; vLLM stops counting one token past the limit."""
    message = (
        f"This model's maximum context length is {limit} tokens. However, your prompt contains at least {limit + 1} "
        "input tokens, which exceeds this limit even without any output tokens. "
        "Please reduce the length of the input prompt."
    )
    return bad_request(message, "input_tokens", limit + 1)
