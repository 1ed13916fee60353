"""Counts what one tenant uses: requests a second, tokens a minute, requests at once, tokens a day.

Rates are token buckets in the manner of GCRA: what was charged is kept as one moment, `full_at`, when it will have
drained; charging n pushes it n·each seconds further. A bucket holds `amount` and is refilled evenly, so in any stretch
of t seconds it gives at most amount · (1 + t / per).

Tokens are reserved before a request is sent and settled when it has ended, and both must be exact while many run at
once. A reservation is held beside what was charged, and what is held and what is charged never exceed the bucket
together. Time drains what was charged first; only when that is gone, what is held, the oldest first: so a stream of
half an hour does not stop the refill, and hardly anything of a short one is gone before it ends. At the end what was
used is charged, less what had drained of its own reservation, and the rest is free again. Whatever the order in which
time drains them, the debt is never less than that of a bucket that knew from the start what each request would use
(a charge adds to both alike; what drains here drains there at least as much); so nothing is handed out twice, and a
client cannot save up a burst in requests that it keeps open. What was used beyond a reservation is charged whether it
fits or not: the overshoot is at most the errors of the estimates of what was in flight.

Source: ITU-T I.371 (GCRA). A day is one of UTC. Left to others: what a request will need (`lengths`), whose account it
is and what is said to the client (`gateway.limits`), counting across gateways (`core.leases`).
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import Any, NamedTuple

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


class Piece:
    """A part of a limit that one request holds: `size` of it at first, `left` by now."""

    __slots__ = ("left", "size")

    def __init__(self, size: float):
        self.size = self.left = size


class Held:
    """What requests under way hold of a limit, the oldest first."""

    __slots__ = ("pieces", "total")

    def __init__(self) -> None:
        self.pieces: OrderedDict[Piece, None] = OrderedDict()
        self.total = 0.0

    def add(self, n: float) -> Piece:
        piece = Piece(n)
        self.pieces[piece] = None
        self.total += n
        return piece

    def drain(self, n: float) -> float:
        """Take n away from the oldest, or as much as there is; returns how much that was."""
        rest = n
        while rest > 0.0 and self.pieces:
            piece = next(iter(self.pieces))
            if piece.left > rest:
                piece.left -= rest
                rest = 0.0
            else:
                rest -= piece.left
                piece.left = 0.0
                del self.pieces[piece]
        self.total = self.total - (n - rest) if self.pieces else 0.0
        return n - rest

    def end(self, piece: Piece, used: float) -> tuple[float, float]:
        """The piece's request has ended: what was left of the piece, and what is to be charged of what was used."""
        left = piece.left
        if self.pieces.pop(piece, self) is None:
            self.total = self.total - left if self.pieces else 0.0
        piece.left = 0.0
        return left, max(0.0, used - (piece.size - left))


class Bucket:
    """A rate: at most `size` at once, refilled by one every `each` seconds."""

    __slots__ = ("each", "full_at", "held", "seen_at", "size")

    def __init__(self, pace: Pace):
        self.size = max(1.0, pace.amount)
        self.each = pace.per / pace.amount
        self.full_at = 0.0
        self.seen_at = 0.0
        self.held = Held()

    def charged(self, now: float) -> float:
        """What was charged and has not drained."""
        return max(0.0, self.full_at - now) / self.each

    def left(self, now: float) -> float:
        """What can be taken now; less than nothing when more was used than had been reserved."""
        self._drain(now)
        return self.size - self.charged(now) - self.held.total

    def wait(self, n: float, now: float) -> float:
        """Seconds until n fit; inf when they never do."""
        if n > self.size:
            return inf
        return max(0.0, n - self.left(now) - _SLACK) * self.each

    def take(self, n: float, now: float) -> Piece:
        """Hold n, whether they fit or not."""
        self._drain(now)
        return self.held.add(n)

    def settle(self, piece: Piece, used: float, now: float) -> None:
        """So much was used of what was held; the rest is free again."""
        self._drain(now)
        _, charge = self.held.end(piece, used)
        self.full_at = max(self.full_at, now) + charge * self.each

    def retune(self, pace: Pace, now: float) -> None:
        """Another pace from now on; what is charged and held stays, in tokens or requests."""
        self._drain(now)
        charged = self.charged(now)
        self.size, self.each = max(1.0, pace.amount), pace.per / pace.amount
        self.full_at = now + charged * self.each

    def _drain(self, now: float) -> None:
        """Time that found nothing charged has drained what is held."""
        if now > self.seen_at:
            idle = now - max(self.full_at, self.seen_at)
            if idle > 0.0 and self.held.pieces:
                self.held.drain(idle / self.each)
            self.seen_at = now


class Stake:
    """What one request has taken. Settled or cancelled exactly once; later calls do nothing."""

    __slots__ = ("lent", "request_piece", "settled", "token_piece", "tokens")

    def __init__(self, tokens: float):
        self.tokens = tokens
        self.request_piece: Piece | None = None
        self.token_piece: Piece | None = None
        self.lent: list[tuple[Any, Piece, str]] = []  # what it holds of leases, where there are leases
        self.settled = False


class Account:
    """One tenant's counts in this process. `now` is monotonic, `at` seconds since 1970 (for the day); both given."""

    is_urgent = False  # a lease of it runs low (see `core.leases`)

    def __init__(self, terms: Terms):
        self.terms = terms
        self.requests = None if terms.requests is None else Bucket(terms.requests)
        self.tokens = None if terms.tokens is None else Bucket(terms.tokens)
        self.running = 0
        self.reserved = 0.0  # tokens of all that runs
        self.day = 0
        self.spent = 0.0  # tokens of this day

    def lacks(self, tokens: float, now: float, at: float) -> Shortage | None:
        """Why a request of so many tokens does not fit now; None: it does."""
        terms = self.terms
        if terms.concurrency is not None and self.running >= terms.concurrency:
            return Shortage("concurrency", AGAIN)
        if self.requests is not None and (wait := self.requests.wait(1.0, now)) > 0.0:
            return Shortage("requests", wait)
        if self.tokens is not None and (wait := self.tokens.wait(tokens, now)) > 0.0:
            return Shortage("tokens", wait)
        if terms.day is not None and tokens > terms.day - self.spent_on(at) - self.reserved + _SLACK:
            return Shortage("day", until_tomorrow(at) if tokens <= terms.day else inf)
        return None

    def take(self, tokens: float, now: float, at: float) -> Stake:
        """Reserve. Whether it fits was asked in the same breath (`lacks`)."""
        stake = Stake(tokens)
        self.running += 1
        self.reserved += tokens
        if self.requests is not None:
            stake.request_piece = self.requests.take(1.0, now)
        if self.tokens is not None:
            stake.token_piece = self.tokens.take(tokens, now)
        return stake

    def settle(self, stake: Stake, used: float, now: float, at: float, requests: float = 1.0) -> None:
        """It has ended and used so many tokens (and counts as so many requests)."""
        if stake.settled:
            return
        stake.settled = True
        self.running -= 1
        self.reserved = self.reserved - stake.tokens if self.running else 0.0
        if self.requests is not None and stake.request_piece is not None:
            self.requests.settle(stake.request_piece, requests, now)
        if self.tokens is not None and stake.token_piece is not None:
            self.tokens.settle(stake.token_piece, used, now)
        self.spent = self.spent_on(at) + used

    def cancel(self, stake: Stake, now: float, at: float) -> None:
        """It was never sent: as if it had not been."""
        self.settle(stake, 0.0, now, at, requests=0.0)

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
        left = self.terms.day - self.spent_on(at) - self.reserved
        return rate if rate is not None and rate[1] <= left else (self.terms.day, max(0.0, left), until_tomorrow(at))

    def retune(self, terms: Terms, now: float) -> None:
        """Other limits from now on. What is counted stays, and what runs."""
        self.requests = _retuned(self.requests, terms.requests, now)
        self.tokens = _retuned(self.tokens, terms.tokens, now)
        self.terms = terms


def until_tomorrow(at: float) -> float:
    """Seconds until the next day of UTC begins."""
    return DAY - at % DAY


def _reading(bucket: Bucket, left: float) -> tuple[float, float, float]:
    return bucket.size, max(0.0, left), (bucket.size - left) * bucket.each


def _retuned(bucket: Bucket | None, pace: Pace | None, now: float) -> Bucket | None:
    if pace is None:
        return None
    if bucket is None:
        return Bucket(pace)
    bucket.retune(pace, now)
    return bucket
