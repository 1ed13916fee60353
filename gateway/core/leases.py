"""One tenant's counts where several gateways share them: each spends from a lease that it took before.

The idea: what has not been taken from the common budget is not spent, so however late anybody hears of anybody, the sum
never exceeds the limit; and what has been taken is spent without asking, so no request waits for a round trip. The
ledger (a script in one Redis) knows what was charged, and how much every gateway keeps: its lease, and what its
requests under way hold of it. Charged and kept together never exceed the limit. A gateway reports what it has charged
in all, says what it keeps, and asks for more; the answer only ever adds, so one that is lost costs nothing but time.
What a gateway gives back it stops using before it says so.

What is charged drains; what is kept does not. So when hardly anything charged is left to drain, each report turns some
of what is held into a charge, the oldest first, as time does in one process (`core.limiter`, with the same proof).

A request that needs more than the lease holds is asked for by name (`need`): it gets all it needs or nothing, so that
two halves do not lie about at two gateways; and when too little is free, the others are told to give up what they do
not use (`claimed`).

When the ledger is lost, the account of this gateway alone decides: it counts everything that was let through here, at
a share of the limits that is one over the number of gateways last seen. A share, because a limit guards the servers,
and the loss of a Redis must not multiply it; a gateway that has never seen the others takes the limit whole.

Left to others: one limit's slice (`core.lease`), the ledger (`gateway.shared.script`), when to report
(`gateway.shared.limits`).
"""

from __future__ import annotations

from math import inf

from gateway.core.lease import AHEAD, EVERY, Given, Lease, Message, Wish, leases_of
from gateway.core.limiter import AGAIN, Account, Pace, Shortage, Stake, Terms, until_tomorrow

REST = 2.0  # seconds between reports of an account at rest: it must not be taken for dead
SOONEST = 0.01  # ... and of one that needs more at once
STALE = 0.25  # seconds after which the ledger is asked again before anybody is refused
NEED = 1.0  # seconds for which a request that got nothing is asked for
_SLACK = 1e-3
_TOKENS = frozenset(("tokens", "day"))  # the limits that count tokens


class LeasedAccount(Account):
    """Spends from leases while the ledger is there (`is_lost` False), else as `Account` alone, at a share.

    What goes through here is counted in both ways at all times: whichever decides is right at once.
    """

    def __init__(self, terms: Terms, is_lost: bool):
        super().__init__(terms)
        self.whole = terms
        self.is_lost = is_lost
        self.is_met = False  # the ledger has answered under its present name
        self.gateways = 1.0
        self.reported_at = -inf
        self._counted_at = 0.0  # when counting of what is taken was begun anew
        self._claimed_until = 0.0
        self.leases = leases_of(terms)

    # --- requests ------------------------------------------------------------------------------------------------

    def lacks(self, tokens: float, now: float, at: float) -> Shortage | None:
        if self.is_lost:
            return self._lacks_alone(tokens, now, at)
        found = None
        for kind, lease in self.leases.items():
            n = tokens if kind in _TOKENS else 1.0
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
        if missing <= _SLACK or now - lease.heard_at > STALE:
            return Shortage(kind, EVERY, short=True)
        if kind == "day":
            return Shortage(kind, until_tomorrow(at))
        return Shortage(kind, missing * lease.each if lease.each else AGAIN)

    def _ask_for(self, tokens: float, now: float) -> None:
        """The next report asks for what this request needs, of every kind: with one alone it could not go."""
        for kind, lease in self.leases.items():
            n = tokens if kind in _TOKENS else 1.0
            lease.need, lease.asked_until = min(n, lease.need or n), now + NEED
            lease.wanted += n

    def _lacks_alone(self, tokens: float, now: float, at: float) -> Shortage | None:
        """By one's own count. What is larger than a share may go when nothing else counts, and is charged whole."""
        found = super().lacks(min(tokens, self.terms.largest), now, at)
        return Shortage(found.what, inf) if found is not None and tokens > self.whole.largest else found

    def take(self, tokens: float, now: float, at: float) -> Stake:
        stake = super().take(tokens, now, at)
        lent = []
        for kind, lease in self.leases.items():
            lent.append((lease, lease.take(tokens if kind in _TOKENS else 1.0, now), kind))
            if lease.left < lease.pace * AHEAD / 3.0:
                self.is_urgent = not self.is_lost
        stake.lent = lent
        return stake

    def settle(self, stake: Stake, used: float, now: float, at: float, requests: float = 1.0) -> None:
        if stake.settled:
            return
        super().settle(stake, used, now, at, requests)
        for lease, piece, kind in stake.lent:
            lease.settle(piece, used if kind in _TOKENS else requests if kind == "requests" else 0.0)

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
        return since >= EVERY and any(
            lease.total != lease.confirmed or lease.need or (lease.each and lease.held.pieces)
            or lease.left > 2.0 * self._target(lease, now) + 1.0
            for lease in self.leases.values()
        )  # fmt: skip

    def _target(self, lease: Lease, now: float) -> float:
        return lease.target(now, self.gateways, now < self._claimed_until)

    def report(self, now: float, at: float, leaving: bool = False) -> Message:
        """What is to be told now. What is given back with it is out of use already."""
        self.reported_at, self.is_urgent = now, False
        took = now - self._counted_at
        if took >= EVERY:
            self._counted_at = now
        message = {}
        for kind, lease in self.leases.items():
            if self.is_lost:
                lease.left = 0.0
                lease.total = lease.confirmed + min(lease.total - lease.confirmed, self._in_debt(kind, now, at))
            wanted = lease.wanted
            lease.count(took)
            lease.convert(now, self.gateways)
            if now >= lease.asked_until:
                lease.need = 0.0
            target = 0.0 if leaving else self._target(lease, now)
            lease.left = max(0.0, min(lease.left, max(target, lease.need)))
            held = lease.held.total
            message[kind] = Wish(
                lease.size, lease.each, lease.total, lease.confirmed, lease.left + held,
                max(0.0, target - lease.left), lease.need + held if lease.need else 0.0, wanted,
            )  # fmt: skip
        return message

    def _in_debt(self, kind: str, now: float, at: float) -> float:
        """What was charged here and still counts: of what was let through alone, the ledger needs to know no more."""
        if kind == "requests" and self.requests is not None:
            return self.requests.charged(now)
        if kind == "tokens" and self.tokens is not None:
            return self.tokens.charged(now)
        return self.spent_on(at) if kind == "day" else 0.0

    def received(self, message: Message, given: Given, now: float) -> None:
        """The ledger has answered this report."""
        if self.is_lost:
            self.is_lost = False
            for lease in self.leases.values():
                lease.left = 0.0
            self.retune(self.whole, now)
        self.is_met = True
        self.gateways = given.gateways
        if given.claimed:
            self._claimed_until = now + NEED
        for kind, told in given.limits.items():
            lease = self.leases[kind]
            lease.left += told.added
            lease.confirmed = message[kind].total
            lease.free, lease.charged, lease.heard_at = told.free, told.charged, now
            if lease.left >= lease.need:
                lease.need = 0.0

    def lost(self, now: float) -> None:
        """Nobody counts for all any more: from now on alone. The leases are given up; the ledger charges them."""
        if not self.is_lost:
            self.is_lost = True
            self.retune(_share(self.whole, self.gateways), now)

    def move(self, terms: Terms, now: float, at: float) -> None:
        """Other limits, under another name in the ledger, which is told all that is charged and held here."""
        fresh = leases_of(terms)
        for kind, lease in fresh.items():
            if kind in self.leases:
                self.leases[kind].move(lease, self._in_debt(kind, now, at))
                fresh[kind] = self.leases[kind]  # requests under way know it
        self.leases = fresh
        self.whole, self.is_met = terms, False
        self.retune(_share(terms, self.gateways) if self.is_lost else terms, now)
        self.reported_at = -inf


def _share(terms: Terms, gateways: float) -> Terms:
    def pace(whole: Pace | None) -> Pace | None:
        return None if whole is None else Pace(whole.amount / gateways, whole.per)

    def count(whole: int | None) -> int | None:
        return None if whole is None else max(1, int(whole / gateways))

    return Terms(pace(terms.requests), pace(terms.tokens), count(terms.concurrency), count(terms.day))
