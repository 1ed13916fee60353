"""What a client is told of its limits: the `x-ratelimit-*` lines, in the form that OpenAI's clients read.

`limit` is what the bucket holds, `remaining` what is left of it, `reset` the time until it is whole again if nothing
else comes, as a duration such as `1s`, `6m0s` or `120ms`. Of tokens a minute and tokens a day, the one with less left
is told.
"""

from __future__ import annotations

from math import ceil

from gateway.core.limiter import Account


def rate_fields(account: Account, now: float, at: float) -> bytes:
    """Ready header lines; none for what has no limit."""
    lines = b""
    requests = account.requests_left(now)
    if requests is not None:
        lines = (b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %d\r\n"
                 b"x-ratelimit-reset-requests: %b\r\n" % (requests[0], requests[1] + _SLACK, duration(requests[2])))
    tokens = account.tokens_left(now, at)
    if tokens is not None:
        lines += (b"x-ratelimit-limit-tokens: %d\r\nx-ratelimit-remaining-tokens: %d\r\n"
                  b"x-ratelimit-reset-tokens: %b\r\n" % (tokens[0], tokens[1] + _SLACK, duration(tokens[2])))
    return lines


_SLACK = 1e-6  # of one: what floats may be short of a whole number


def duration(seconds: float) -> bytes:
    """`0s`, `120ms`, `8.64s`, `6m0s`, `23h59m59s`: rounded up to a millisecond, from a minute on to a second."""
    millis = ceil(seconds * 1000.0 - _SLACK)
    if millis <= 0:
        return b"0s"
    if millis < 1000:
        return b"%dms" % millis
    if millis < 60_000:
        return b"%gs" % (millis / 1000.0)
    whole = ceil(millis / 1000.0)
    if whole < 3600:
        return b"%dm%ds" % divmod(whole, 60)
    return b"%dh%dm%ds" % (whole // 3600, whole % 3600 // 60, whole % 60)
