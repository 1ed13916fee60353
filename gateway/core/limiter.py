"""Counts what one tenant uses: requests a second, tokens a minute, requests at once, tokens a day.

Rates are GCRA, a token bucket kept as one moment: `full_at`, when the bucket would be full again if nothing else came.
Taking n pushes it n·each seconds further, and n fit while it stays within `per` of now. So a bucket holds `amount`, is
refilled evenly, and in any stretch of t seconds gives at most amount · (1 + t / per).

Tokens are reserved before a request is sent and settled when it has ended, and both must be exact while many run at
once. What was taken lies on the bucket's line of time as the piece that ends at `end`; time drains the line from the
front. Giving back returns only what of one's own piece lies still ahead of now: the rest has drained, so later requests
have had it already, and handing it out twice would let a client save up a burst in requests that it keeps open. Pieces
after a gap that closed lie earlier; `moved`, the sum of all that was closed, is subtracted from `end`, also where the
gap came behind. That errs to the strict side, in one number. What was used beyond the reservation is taken at once,
whether it fits or not: the bucket is then in debt, by at most the errors of the estimates of what was in flight.

Source: ITU-T I.371 (GCRA). A day is one of UTC. Left to others: what a request will need (`lengths`), whose account it
is and what is said to the client (`gateway.limits`), counting across gateways (`core.leases`).
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

DAY = 86_400.0
AGAIN = 1.0  # seconds after which a place among the requests at once may be free; nobody knows
_SLACK = 1e-3  # of one request or token: what sums of floats may be wrong by


class Pace(NamedTuple):
    """`amount` in every `per` seconds."""

    amount: float
    per: float


class Terms(NamedTuple):
    """The limits of one account; None: none of this kind."""

    requests: Pace | None = None
    tokens: Pace | None = None
    concurrency: int | None = None
    day: int | None = None  # tokens

    @property
    def largest(self) -> float:
        """Tokens of the largest request that can ever fit."""
        return min(inf if self.tokens is None else self.tokens.amount, inf if self.day is None else self.day)


class Shortage(NamedTuple):
    """Why a request does not fit: which limit, and seconds until it would if nothing else came (inf: never).

    `short` says that there may be room, only not in this gateway's lease.
    """

    what: str  # requests | tokens | concurrency | day
    wait: float
    short: bool = False


class Bucket:
    """A rate: at most `size` at once, refilled by one every `each` seconds."""

    __slots__ = ("each", "full_at", "moved", "size")

    def __init__(self, pace: Pace):
        self.size = max(1.0, pace.amount)
        self.each = pace.per / pace.amount
        self.full_at = 0.0
        self.moved = 0.0

    def debt(self, now: float) -> float:
        """What is missing until it is full."""
        return max(0.0, self.full_at - now) / self.each

    def left(self, now: float) -> float:
        """What can be taken now; less than nothing when more was used than had been reserved."""
        return self.size - self.debt(now)

    def wait(self, n: float, now: float) -> float:
        """Seconds until n fit; inf when they never do."""
        if n > self.size:
            return inf
        return max(0.0, self.full_at - now - (self.size - n + _SLACK) * self.each)

    def take(self, n: float, now: float) -> None:
        """Take n, whether they fit or not."""
        self.full_at = (self.full_at if self.full_at > now else now) + n * self.each

    def give_back(self, n: float, end: float, moved: float, now: float) -> None:
        """Of a piece that ended at `end` when so much had `moved`, n were not used: what has not drained returns."""
        span = min(n * self.each, end - (self.moved - moved) - now)
        if span > 0.0:
            self.full_at -= span
            self.moved += span

    def retune(self, pace: Pace, now: float) -> None:
        """Another pace from now on; the debt stays, in tokens or requests. Pieces of before lie on another line."""
        debt = self.debt(now)
        self.size, self.each = max(1.0, pace.amount), pace.per / pace.amount
        self.full_at = now + debt * self.each


class Stake:
    """What one request has taken. Settled or cancelled exactly once; later calls do nothing."""

    __slots__ = ("block", "day", "end", "moved", "requests_end", "requests_moved", "settled", "tokens", "tuning")

    def __init__(self, tokens: float, day: int, tuning: int):
        self.tokens = tokens
        self.day = day
        self.tuning = tuning
        self.end = self.moved = self.requests_end = self.requests_moved = 0.0
        self.block: object = None  # of a lease, where there are leases
        self.settled = False


class Account:
    """One tenant's counts in this process. `now` is monotonic, `at` seconds since 1970 (for the day); both given."""

    is_urgent = False  # a lease of it runs low (see `core.leases`)

    def __init__(self, terms: Terms):
        self.terms = terms
        self.requests = None if terms.requests is None else Bucket(terms.requests)
        self.tokens = None if terms.tokens is None else Bucket(terms.tokens)
        self.running = 0
        self.tuning = 0  # how often the limits have changed: nothing returns to a rate from before
        self.day = 0
        self.spent = 0.0  # tokens of this day, those that are reserved among them

    def lacks(self, tokens: float, now: float, at: float) -> Shortage | None:
        """Why a request of so many tokens does not fit now; None: it does."""
        terms = self.terms
        if terms.concurrency is not None and self.running >= terms.concurrency:
            return Shortage("concurrency", AGAIN)
        if self.requests is not None and (wait := self.requests.wait(1.0, now)) > 0.0:
            return Shortage("requests", wait)
        if self.tokens is not None and (wait := self.tokens.wait(tokens, now)) > 0.0:
            return Shortage("tokens", wait)
        if terms.day is not None and tokens > terms.day - self.spent_on(at) + _SLACK:
            return Shortage("day", until_tomorrow(at) if tokens <= terms.day else inf)
        return None

    def take(self, tokens: float, now: float, at: float) -> Stake:
        """Reserve. Whether it fits was asked in the same breath (`lacks`)."""
        stake = Stake(tokens, int(at // DAY), self.tuning)
        self.running += 1
        bucket = self.requests
        if bucket is not None:
            bucket.take(1.0, now)
            stake.requests_end, stake.requests_moved = bucket.full_at, bucket.moved
        bucket = self.tokens
        if bucket is not None:
            bucket.take(tokens, now)
            stake.end, stake.moved = bucket.full_at, bucket.moved
        if self.terms.day is not None:
            self.spent = self.spent_on(at) + tokens
        return stake

    def settle(self, stake: Stake, used: float, now: float, at: float) -> None:
        """It has ended and used so many tokens."""
        if stake.settled:
            return
        stake.settled = True
        self.running -= 1
        more = used - stake.tokens
        if self.tokens is not None:
            if more > 0.0:
                self.tokens.take(more, now)
            elif more < 0.0 and stake.tuning == self.tuning:
                self.tokens.give_back(-more, stake.end, stake.moved, now)
        if self.terms.day is not None and (more > 0.0 or stake.day == int(at // DAY)):
            self.spent = max(0.0, self.spent_on(at) + more)

    def cancel(self, stake: Stake, now: float, at: float) -> None:
        """It was never sent: as if it had not been."""
        if self.requests is not None and not stake.settled and stake.tuning == self.tuning:
            self.requests.give_back(1.0, stake.requests_end, stake.requests_moved, now)
        self.settle(stake, 0.0, now, at)

    def spent_on(self, at: float) -> float:
        """Tokens spent on the day of `at`; a new day begins with none."""
        day = int(at // DAY)
        if day != self.day:
            self.day, self.spent = day, 0.0
        return self.spent

    def requests_left(self, now: float) -> tuple[float, float, float] | None:
        """Limit, what is left of it, seconds until it is whole again; None without a limit."""
        return None if self.requests is None else _reading(self.requests, self.requests.left(now))

    def tokens_left(self, now: float, at: float) -> tuple[float, float, float] | None:
        """The same of tokens: of the rate or of the day, whichever has less left."""
        rate = None if self.tokens is None else _reading(self.tokens, self.tokens.left(now))
        if self.terms.day is None:
            return rate
        left = self.terms.day - self.spent_on(at)
        return rate if rate is not None and rate[1] <= left else (self.terms.day, max(0.0, left), until_tomorrow(at))

    def retune(self, terms: Terms, now: float) -> None:
        """Other limits from now on. What is counted stays, and what runs."""
        self.requests = _retuned(self.requests, self.terms.requests, terms.requests, now)
        self.tokens = _retuned(self.tokens, self.terms.tokens, terms.tokens, now)
        self.terms = terms
        self.tuning += 1


def until_tomorrow(at: float) -> float:
    """Seconds until the next day of UTC begins."""
    return DAY - at % DAY


def _reading(bucket: Bucket, left: float) -> tuple[float, float, float]:
    return bucket.size, max(0.0, left), (bucket.size - left) * bucket.each


def _retuned(bucket: Bucket | None, old: Pace | None, new: Pace | None, now: float) -> Bucket | None:
    if old == new or new is None:
        return bucket if new is not None else None
    if bucket is None:
        return Bucket(new)
    bucket.retune(new, now)
    return bucket
