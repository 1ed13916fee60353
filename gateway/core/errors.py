"""The few ways to fail. Each knows its HTTP status and its code; `front` turns them into answers.

A library's exception becomes one of these at that library's door. Cancellation is not among them: it is never
swallowed.
"""

from __future__ import annotations

from gateway.core.grounds import Grounds


class HeadwayError(Exception):
    """Base of all answers that are not a success. `message` is shown to the client, so it names no internals."""

    status = 500
    code = "internal_error"
    retry_after: float | None = None
    should_retry = True

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None, param: str | None = None):
        super().__init__(message)
        self.message = message
        self.param = param
        if status is not None:
            self.status = status
        if code is not None:
            self.code = code


class BadRequest(HeadwayError):
    """The client's fault: framing, JSON, an unknown path or model, a key that may not."""

    status = 400
    code = "invalid_request"
    should_retry = False


class Refused(HeadwayError):
    """Ours, by policy: `reason` is a word of the contract, `retry_after` seconds until it is worth coming back.

    `grounds`: what it was decided on, where a desk did.
    """

    status = 429
    code = "refused"
    grounds: Grounds | None = None

    def __init__(self, message: str, *, reason: str, status: int = 429, retry_after: float | None = None):
        super().__init__(message, status=status, code=reason)
        self.reason = reason
        self.retry_after = retry_after


class NoEndpoint(Refused):
    """Nothing to send to: every endpoint is known to be down, or none is left to try."""

    def __init__(self, message: str, *, retry_after: float | None = 1.0):
        super().__init__(message, reason="no_endpoint", status=503, retry_after=retry_after)


class UpstreamError(HeadwayError):
    """A try failed. `cause` is a word for metrics and health; `sent` tells whether the request went out."""

    status = 502
    code = "upstream_failed"

    def __init__(self, message: str, *, cause: str, status: int = 502, sent: bool = True):
        super().__init__(message, status=status, code="upstream_timeout" if status == 504 else "upstream_failed")
        self.cause = cause
        self.sent = sent


class Displaced(UpstreamError):
    """Filler that was taken off its endpoint, to make room for others: nobody failed, and it may come again."""

    def __init__(self) -> None:
        super().__init__("gave way to other requests", cause="displaced", status=503)
        self.code = "displaced"
        self.retry_after = 1.0
