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
# Where restraint begins and is whole, in multiples of an equal share; and the share of all others from which on they
# are protected wholly. Below it, nearly all the traffic is one tenant's, and holding it back would serve few.
FROM, WHOLE, PROTECTED = 1.25, 2.25, 0.25
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

    def used(self, tenant: str) -> float:
        """A figure that grows with what it was charged, to be compared with that of others at the same moment."""
        return self._used.get(tenant, 0.0)

    def tokens(self, used: float, now: float) -> float:
        """So much of `used`, in tokens as of now."""
        return used * math.exp((self._zero - now) / MEMORY)

    def restraint(self, tenant: str, now: float) -> float:
        """How much this tenant should give way, 0 (not at all) to 1: it had several times an equal share lately."""
        if len(self._used) < 2:
            return 0.0
        if now - self._counted_at > 1.0:
            self._count(now)
        total = self._total
        if self._active < 2 or total <= 0.0:
            return 0.0
        share = self._used.get(tenant, 0.0) / total
        over = (share * self._active - FROM) / (WHOLE - FROM)
        if over <= 0.0:
            return 0.0
        return min(1.0, over) * min(1.0, (1.0 - share) / PROTECTED)

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
