"""Who has been served how much lately: the measure of fairness between tenants.

Each dispatch is charged to its tenant in tokens, and what was charged fades with `MEMORY`: the counters of Sheng et al.
("Fairness in Serving Large Language Models", OSDI'24) are lifted when a tenant comes back, so that nobody saves up
for years; fading does the same without having to know who is idle, and counts what went at once, without a queue, too.
Two tenants that always have something waiting get equal shares, since the one that had less is served first.

Everything fades alike, so nothing is ever touched for it: charges are kept relative to a moment, and grow instead.
"""

from __future__ import annotations

import math

MEMORY = 10.0  # seconds after which a charge counts for 1/e
STEP = 0.02  # seconds in which nothing fades: an exponential for each request would be a good part of its price
RENEW = 300.0  # seconds after which charges get a new moment they are relative to
ACTIVE = 0.005  # of all that was charged lately: who had less is not one of those it is shared among
GREEDY = 1.5  # times an equal share: who asks for more is held to what leaves the others as they were
LEFT = 0.8  # of an equal share: so much it gets all the same
# The share of all others from which on they are protected. Below it, nearly all the traffic is one tenant's, and to
# hold it back would serve few.
PROTECTED = 0.05
TENANTS = 4096  # remembered; the least served are forgotten first


class Shares:
    """Of one pool. Not thread-safe."""

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        self._total = 0.0
        self._zero = 0.0
        self._growth, self._grown_at = 1.0, -math.inf
        self._counted_at = -math.inf
        self._active = 1
        self.era = 0  # how often what is used was made relative to another moment: figures of two eras do not compare

    def charge(self, tenant: str, cost: float, now: float) -> None:
        """So many tokens went to this tenant."""
        if now - self._grown_at > STEP:
            self._grow(now)
        grown = cost * self._growth
        self._used[tenant] = self._used.get(tenant, 0.0) + grown
        self._total += grown

    @property
    def is_shared(self) -> bool:
        """Whether there has been more than one tenant."""
        return len(self._used) > 1

    def used(self, tenant: str) -> float:
        """A figure that grows with what it was charged, to be compared with that of others at the same moment."""
        return self._used.get(tenant, 0.0)

    def tokens(self, used: float, now: float) -> float:
        """So much of `used`, in tokens as of now."""
        return used * math.exp((self._zero - now) / MEMORY)

    def exceeds(self, tenant: str, times: float, now: float) -> bool:
        """Whether this tenant had more than so many times an equal share lately, and others are there to notice."""
        if len(self._used) < 2:
            return False
        if now - self._counted_at > 1.0:
            self._count(now)
        used, total = self._used.get(tenant, 0.0), self._total
        return used * self._active > times * total and total - used > PROTECTED * total

    def table(self) -> dict[str, float]:
        """The share of each tenant in what was charged lately."""
        return {tenant: used / self._total for tenant, used in self._used.items()} if self._total > 0.0 else {}

    def _count(self, now: float) -> None:
        """How many it is shared among; who has not come for long is forgotten."""
        self._counted_at = now
        least = ACTIVE * self._total
        self._active = sum(used >= least for used in self._used.values())
        if len(self._used) > 2 * self._active + 16:
            kept = sorted(self._used.items(), key=lambda one: -one[1])[:TENANTS]
            self._used = {tenant: used for tenant, used in kept if used >= least / 100.0}
            self._total = sum(self._used.values())

    def _grow(self, now: float) -> None:
        """How much a charge made now weighs."""
        if now - self._zero > RENEW:
            self._renew(now)
        self._growth, self._grown_at = math.exp((now - self._zero) / MEMORY), now

    def _renew(self, now: float) -> None:
        factor = math.exp(max(-500.0, (self._zero - now) / MEMORY))
        self._used = {tenant: used * factor for tenant, used in self._used.items() if used * factor > 1e-6}
        self._total = sum(self._used.values())
        self._zero = now
        self.era += 1
