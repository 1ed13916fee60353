"""A request that may go, one that may not, and what an account has come to.

A `Grant` is what `gateway.limits` gives for a request that its tenant's limits allow. It is settled with what was used,
or cancelled; on every path one of the two, once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from gateway.config.types import KeyLimits, Rate
from gateway.core.errors import Refused
from gateway.core.limiter import Account, Pace, Stake, Terms
from gateway.limit_fields import rate_fields


class TenantLimit(Refused):
    """A request that its tenant's limits do not allow now. `fields` are ready header lines for the answer.

    `renewal` is a future where this gateway's lease is used up and there may be more: done when that is known.
    """

    def __init__(self, message: str, *, retry_after: float | None, fields: bytes,
                 renewal: asyncio.Future[None] | None = None):  # fmt: skip
        super().__init__(message, reason="tenant_limit", retry_after=retry_after)
        self.should_retry = retry_after is not None
        self.fields = fields
        self.renewal = renewal


class Reading(NamedTuple):
    """One account, for who looks on. Tokens; None where there is no such limit."""

    tenant: str
    keys: int
    limits: KeyLimits
    requests_left: float | None
    tokens_left: float | None
    spent_today: float
    running: int
    admitted: int
    refused: Mapping[str, int]  # by the limit that was in the way
    charged: float
    estimated: float  # of what was charged: nobody counted it


class Tally:
    """An account and what it has come to."""

    __slots__ = ("account", "admitted", "charged", "estimated", "keys", "largest", "limits", "name", "refused",
                 "tenant")  # fmt: skip

    def __init__(self, tenant: str, limits: KeyLimits, name: str, account: Account):
        self.tenant = tenant
        self.limits = limits
        self.name = name
        self.account = account
        self.largest = terms_of(limits).largest  # tokens of a request that can fit at all
        self.keys = 0
        self.admitted = 0
        self.refused: Counter[str] = Counter()
        self.charged = self.estimated = 0.0


class Grant:
    """A request may go. Settle it exactly once, or cancel it; later calls do nothing. Without a tally: no limits."""

    __slots__ = ("_tally", "_now", "_output", "_prompt", "_stake", "_wall")

    def __init__(self, wall: Callable[[], float], tally: Tally | None = None, stake: Stake | None = None,
                 prompt: float = 0.0, output: float = 0.0, now: float = 0.0):  # fmt: skip
        self._wall = wall
        self._tally = tally
        self._stake = stake
        self._prompt = prompt
        self._output = output
        self._now = now

    def settle(self, prompt_tokens: float, completion_tokens: float, estimated: bool, now: float) -> None:
        """It has ended. NaN (or less than nothing) where nobody counted: then the estimate is charged."""
        tally, stake = self._tally, self._stake
        if tally is None or stake is None or stake.settled:
            return
        if not prompt_tokens >= 0.0:
            prompt_tokens, estimated = self._prompt, True
        if not completion_tokens >= 0.0:
            completion_tokens, estimated = self._output, True
        used = prompt_tokens + completion_tokens
        tally.account.settle(stake, used, now, self._wall())
        tally.charged += used
        if estimated:
            tally.estimated += used

    def cancel(self, now: float) -> None:
        """It was never sent to a model server: as if it had not been."""
        if self._tally is not None and self._stake is not None:
            self._tally.account.cancel(self._stake, now, self._wall())

    def headers(self) -> bytes:
        """The `x-ratelimit-*` lines as they were when it was let through; none for keys without limits."""
        return b"" if self._tally is None else rate_fields(self._tally.account, self._now, self._wall())


def terms_of(limits: KeyLimits) -> Terms:
    """A key's limits as the numbers that are counted with."""

    def pace(rate: Rate | None) -> Pace | None:
        return None if rate is None else Pace(rate.amount, rate.per)

    return Terms(pace(limits.requests), pace(limits.tokens), limits.concurrency, limits.tokens_per_day)
