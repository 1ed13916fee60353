"""One tenant's counts where several gateways share them: each spends from a lease that it took before.

The idea: what has not been taken from the common budget is not spent, so however late anybody hears of anybody, the sum
never exceeds the limit; and what has been taken is spent without asking, so no request waits for a round trip. The
ledger (a script in one Redis) knows the debt of each rate and how much every gateway keeps of it. What is kept does not
drain: debt + all that is kept never exceeds the size. A gateway reports what it used, says what it keeps, and asks for
more; the answer only ever adds. What it gives back it stops using before it says so.

How much to ask for: what the recent pace needs until the report after the next, the largest request of late, and a
small floor for the first request after a silence. A request that needs more than that is asked for by name (`need`): it
gets all it needs or nothing, so that two halves do not lie about at two gateways; and when nothing is free, the others
are told to give up their floors (`claimed`).

When the ledger is lost, the account of this gateway alone decides: it counts everything that was let through here, at
a share of the limits that is one over the number of gateways last seen. A share, because a limit guards the servers,
and the loss of a Redis must not multiply it; a gateway that has never seen the others takes the limit whole.

Left to others: the ledger (`gateway.shared.script`), when to report (`gateway.shared.limits`).
"""

from __future__ import annotations

from math import exp, inf
from typing import NamedTuple

from gateway.core.limiter import AGAIN, Account, Pace, Shortage, Stake, Terms, until_tomorrow

EVERY = 0.1  # seconds between reports of an account in use,
REST = 2.0  # ... of one that is not: it must not be taken for dead,
SOONEST = 0.01  # ... and of one that needs more at once
AHEAD = 0.3  # seconds that a lease should last: a report is due every 0.1 s, and may be late
MEMORY = 1.0  # seconds in which the remembered pace falls to 1/e
RECENT = 10.0  # seconds for which the largest request is remembered,
LARGEST = 0.125  # ... and how much of a limit is kept for another like it
FLOOR = 1.0 / 16.0  # of a limit that a lease is at least,
FLOOR_OF_DAY = 1.0 / 256.0  # ... of a day's: what lies idle near its end is refused until tomorrow
CROWD = 4.0  # gateways, beyond which the floors shrink: together a quarter of the limit at most
STALE = 0.25  # seconds after which the ledger is asked again before anybody is refused
NEED = 1.0  # seconds for which a request that got nothing is asked for
_SLACK = 1e-3


class Block:
    """All that was let through between two reports: one piece on the ledger's line of time, known from its answer."""

    __slots__ = ("back", "end", "line", "moved")

    def __init__(self) -> None:
        self.line = 0.0  # the line it lies on; 0: not known yet
        self.end = self.moved = 0.0
        self.back = 0.0  # tokens of it that were not used


class Lease:
    """A slice of one limit. `left` may be spent; `total` counts all that was ever spent, less what came back."""

    __slots__ = ("asked_until", "confirmed", "each", "floor", "free", "free_at", "largest", "largest_at", "left",
                 "need", "pace", "size", "taken", "total", "wanted")  # fmt: skip

    def __init__(self, kind: str, size: float, each: float):
        self.size = size
        self.each = each  # seconds in which one more is there; 0: it is no rate
        self.floor = FLOOR_OF_DAY if kind == "day" else FLOOR
        self.left = 0.0
        self.total = self.confirmed = 0.0
        self.taken = 0.0  # of late, whatever came back
        self.pace = 0.0  # spent a second, of late
        self.largest = self.largest_at = 0.0
        self.need = self.asked_until = 0.0
        self.wanted = 0.0  # by all that got nothing since the last report
        self.free, self.free_at = size, 0.0  # what nobody keeps, by the last answer

    def take(self, n: float, now: float) -> None:
        self.left -= n
        self.total += n
        self.taken += n
        if n >= self.largest or now - self.largest_at > RECENT:
            self.largest, self.largest_at = n, now

    def count(self, took: float) -> None:
        """Remember the pace: `took` seconds have gone since `taken` was begun anew."""
        self.wanted = 0.0
        if took >= EVERY:
            self.pace += (self.taken / took - self.pace) * (1.0 - exp(-took / MEMORY))
            self.taken = 0.0

    def spend(self, n: float) -> None:
        """n more than had been taken, or less."""
        self.left -= n
        self.total += n

    def free_by(self, now: float) -> float:
        """What nobody keeps by now, if nobody has taken of it since."""
        return self.free + ((now - self.free_at) / self.each if self.each else 0.0)

    def target(self, now: float, gateways: float, claimed: bool) -> float:
        """What it would like to have, a whole number: a part of a request is of no use to anybody."""
        if claimed:
            return float(int(min(self.size, self.pace * EVERY))) if self.each else 0.0
        floor = self.size * self.floor / max(1.0, gateways / CROWD)
        largest = min(self.largest, self.size * LARGEST) if now - self.largest_at < RECENT else 0.0
        return float(int(min(self.size, max(floor, self.pace * AHEAD + largest))))


class Wish(NamedTuple):
    """What a report says of one limit: how large it is, and what was used in all (of which `base` was answered).

    `keep` is held from now on, and `ask` would be welcome beyond it. `need` is all or nothing: with it the smallest
    request that waits can go, and `wanted` is what all that wait come to.
    """

    size: float
    each: float
    total: float
    base: float
    keep: float
    ask: float
    need: float
    wanted: float


class Message(NamedTuple):
    """One report. `back`: line, end, moved and tokens of each block of which something was not used.

    `owed`: what is in the wishes' totals because it was let through alone.
    """

    wishes: dict[str, Wish]
    back: list[tuple[float, float, float, float]]
    block: Block
    owed: dict[str, float]


class Given(NamedTuple):
    """The ledger's answer: what was added to each lease and is free beyond it, and where the report's block lies."""

    known: bool  # it knew this gateway
    gateways: float
    claimed: bool
    line: float
    end: float
    moved: float
    added: dict[str, tuple[float, float]]


class LeasedAccount(Account):
    """Spends from leases while the ledger is there (`is_lost` False), else as `Account` alone, at a share.

    `own` limits are counted here in any case: that is what stands when the ledger is lost.
    """

    def __init__(self, terms: Terms, is_lost: bool):
        super().__init__(terms)
        self.whole = terms
        self.is_lost = is_lost
        self.gateways = 1.0
        self.reported_at = -inf
        self._counted_at = 0.0  # when counting of what is taken was begun anew
        self._claimed_until = 0.0
        self._block = Block()
        self._returning: list[Block] = []
        self._alone_requests = self._alone_tokens = 0.0  # let through while the ledger was lost
        self.leases = _leases(terms)

    # --- requests ------------------------------------------------------------------------------------------------

    def lacks(self, tokens: float, now: float, at: float) -> Shortage | None:
        if self.is_lost:
            return self._lacks_alone(tokens, now, at)
        found = None
        for kind, lease in self.leases.items():
            n = tokens if kind in ("tokens", "day") else 1.0
            if lease.left + _SLACK < n:
                missing = self._missing(kind, lease, n, now, at)
                if found is None or (found.short and not missing.short):
                    found = missing
        if found is not None and found.wait < inf:
            self._ask_for(tokens, now)
            self.is_urgent = self.is_urgent or found.short
        return found

    def _missing(self, kind: str, lease: Lease, n: float, now: float, at: float) -> Shortage:
        """The lease does not hold n: is it worth asking for more, or when will it be?"""
        if n > lease.size:
            return Shortage(kind, inf)
        missing = n - lease.left - lease.free_by(now)  # (at most so much is free)
        if missing <= _SLACK or now - lease.free_at > STALE:
            return Shortage(kind, EVERY, short=True)
        if kind == "day":
            return Shortage(kind, until_tomorrow(at))
        return Shortage(kind, missing * lease.each if lease.each else AGAIN)

    def _ask_for(self, tokens: float, now: float) -> None:
        """The next report asks for what this request needs, of every kind: with one alone it could not go."""
        for kind, lease in self.leases.items():
            n = tokens if kind in ("tokens", "day") else 1.0
            lease.need, lease.asked_until = min(n, lease.need or n), now + NEED
            lease.wanted += n

    def _lacks_alone(self, tokens: float, now: float, at: float) -> Shortage | None:
        """By one's own count. What is larger than a share may go when nothing else counts, and is charged whole."""
        found = super().lacks(min(tokens, self.terms.largest), now, at)
        return Shortage(found.what, inf) if found is not None and tokens > self.whole.largest else found

    def take(self, tokens: float, now: float, at: float) -> Stake:
        stake = super().take(tokens, now, at)
        if self.is_lost:
            self._alone_requests += 1.0
            self._alone_tokens += tokens
            return stake
        for kind, lease in self.leases.items():
            lease.take(tokens if kind in ("tokens", "day") else 1.0, now)
            if lease.left < lease.pace * AHEAD / 3.0:
                self.is_urgent = True
        stake.block = self._block
        return stake

    def settle(self, stake: Stake, used: float, now: float, at: float) -> None:
        if stake.settled:
            return
        super().settle(stake, used, now, at)
        lease = self.leases.get("concurrency")
        if lease is not None and not self.is_lost:
            lease.left += 1.0
        more = used - stake.tokens
        if stake.block is None and self.is_lost:
            self._alone_tokens += more
            return
        lease = self.leases.get("day")
        if lease is not None and (more > 0.0 or stake.day == self.day):
            lease.spend(more)
        lease = self.leases.get("tokens")
        if lease is not None and (more > 0.0 or stake.block is self._block):
            lease.spend(more)  # what nobody has been told of yet is as if it had been known
        elif lease is not None and more < 0.0 and isinstance(stake.block, Block):
            if stake.block.back == 0.0:
                self._returning.append(stake.block)
            stake.block.back -= more

    def cancel(self, stake: Stake, now: float, at: float) -> None:
        lease = self.leases.get("requests")
        if lease is not None and not stake.settled and stake.block is self._block:
            lease.spend(-1.0)
        super().cancel(stake, now, at)

    # --- what is said to clients ---------------------------------------------------------------------------------

    def requests_left(self, now: float) -> tuple[float, float, float] | None:
        return super().requests_left(now) if self.is_lost else self._rate_left("requests", now)

    def tokens_left(self, now: float, at: float) -> tuple[float, float, float] | None:
        if self.is_lost:
            return super().tokens_left(now, at)
        rate, lease = self._rate_left("tokens", now), self.leases.get("day")
        if lease is None:
            return rate
        left = max(0.0, min(lease.size, lease.left + lease.free))
        return rate if rate is not None and rate[1] <= left else (lease.size, left, until_tomorrow(at))

    def _rate_left(self, kind: str, now: float) -> tuple[float, float, float] | None:
        lease = self.leases.get(kind)
        if lease is None:
            return None
        left = max(0.0, min(lease.size, lease.left + lease.free_by(now)))
        return lease.size, left, (lease.size - left) * lease.each

    # --- reports -------------------------------------------------------------------------------------------------

    def is_due(self, now: float) -> bool:
        """Whether there is something to report: at once, every so often while it is used, now and then at rest."""
        since = now - self.reported_at
        if self.is_urgent or since >= REST:
            return since >= SOONEST
        return since >= EVERY and (bool(self._returning) or any(
            lease.total != lease.confirmed or lease.need or lease.left > 2.0 * self._target(lease, now) + 1.0
            for lease in self.leases.values()
        ))  # fmt: skip

    def _target(self, lease: Lease, now: float) -> float:
        return lease.target(now, self.gateways, now < self._claimed_until)

    def report(self, now: float, at: float, leaving: bool = False) -> Message:
        """What is to be told now. What is given back with it is out of use already."""
        self.reported_at, self.is_urgent = now, False
        took = now - self._counted_at
        if took >= EVERY:
            self._counted_at = now
        wishes, owed = {}, {kind: self._owed(kind, now, at) for kind in self.leases}
        for kind, lease in self.leases.items():
            wanted = lease.wanted
            lease.count(took)
            if now >= lease.asked_until:
                lease.need = 0.0
            target = 0.0 if leaving else self._target(lease, now)
            lease.left = max(0.0, min(lease.left, max(target, lease.need)))
            running = float(self.running) if kind == "concurrency" else 0.0
            wishes[kind] = Wish(
                lease.size, lease.each, lease.total + owed[kind],
                lease.confirmed, lease.left + running, max(0.0, target - lease.left),
                lease.need + running if lease.need else 0.0, wanted,
            )  # fmt: skip
        block, self._block = self._block, Block()
        return Message(wishes, self._returned(), block, owed)

    def _returned(self) -> list[tuple[float, float, float, float]]:
        """What was not used of blocks that were reported; nothing of one whose report got no answer."""
        back = [(block.line, block.end, block.moved, block.back) for block in self._returning if block.line]
        for block in self._returning:
            block.back = 0.0
        self._returning = []
        return back

    def _owed(self, kind: str, now: float, at: float) -> float:
        """What was let through alone and the ledger should count: of rates, what is still in debt here."""
        if kind == "requests" and self.requests is not None:
            return min(self._alone_requests, self.requests.debt(now))
        if kind == "tokens" and self.tokens is not None:
            return min(self._alone_tokens, self.tokens.debt(now))
        return min(self._alone_tokens, self.spent_on(at)) if kind == "day" else 0.0

    def received(self, message: Message, given: Given, now: float) -> None:
        """The ledger has answered this report."""
        if self.is_lost:
            self.is_lost = False
            self.retune(self.whole, now)
        self._alone_requests = self._alone_tokens = 0.0
        for kind, owed in message.owed.items():
            self.leases[kind].total += owed
        self.gateways = given.gateways
        if given.claimed:
            self._claimed_until = now + NEED
        block = message.block
        block.line, block.end, block.moved = given.line, given.end, given.moved
        for kind, (added, free) in given.added.items():
            lease = self.leases[kind]
            lease.left += added
            lease.confirmed = message.wishes[kind].total
            lease.free, lease.free_at = free, now
            if lease.left >= lease.need:
                lease.need = 0.0

    def lost(self, now: float) -> None:
        """Nobody counts for all any more: from now on alone. The leases are given up; the ledger charges them."""
        if self.is_lost:
            return
        self.is_lost = True
        for lease in self.leases.values():
            lease.left = lease.need = 0.0
        self.retune(_share(self.whole, self.gateways), now)

    def move(self, terms: Terms, now: float) -> None:
        """Other limits, under another name in the ledger, which is told all that is counted here."""
        self.whole = terms
        self.leases = _leases(terms)
        self._block, self._returning = Block(), []
        self._alone_requests = self._alone_tokens = inf
        self.retune(_share(terms, self.gateways) if self.is_lost else terms, now)
        self.reported_at = -inf


def _leases(terms: Terms) -> dict[str, Lease]:
    """One for each limit there is, in the order in which they refuse."""
    found = {}
    if terms.concurrency is not None:
        found["concurrency"] = Lease("concurrency", float(terms.concurrency), 0.0)
    for kind, pace in (("requests", terms.requests), ("tokens", terms.tokens)):
        if pace is not None:
            found[kind] = Lease(kind, max(1.0, pace.amount), pace.per / pace.amount)
    if terms.day is not None:
        found["day"] = Lease("day", float(terms.day), 0.0)
    return found


def _share(terms: Terms, gateways: float) -> Terms:
    def pace(whole: Pace | None) -> Pace | None:
        return None if whole is None else Pace(whole.amount / gateways, whole.per)

    def count(whole: int | None) -> int | None:
        return None if whole is None else max(1, int(whole / gateways))

    return Terms(pace(terms.requests), pace(terms.tokens), count(terms.concurrency), count(terms.day))
