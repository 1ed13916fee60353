"""How fast requests are let go at a pool, by class, and how many are turned away: what tells of drain and overload.

The idea: sums that fade, kept relative to a moment, so that nothing is touched for it; what is added later just weighs
more. What goes at once counts like what has waited, since it takes of the same fleet.
"""

from __future__ import annotations

import math

FLOW_MEMORY = 2.0  # seconds over which what leaves is averaged
STEP = 0.01  # seconds in which nothing fades
# A class that was let go at less than this share of the pool's pace is thought to go at that.
LEAST_PART = 0.1
BEHIND = "behind "  # before the name of a class, what goes behind the others of it


class Flow:
    """How much was dispatched lately, in cost per second: of each class and in all."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._all = 0.0
        self._counted = 0.0
        self._away = 0.0  # how many were refused on arrival
        self._zero = 0.0
        self._growth, self._grown_at = 1.0, -math.inf
        self._began = math.inf

    def note(self, klass: str, cost: float, now: float, behind: bool = False) -> None:
        """So much was dispatched; `behind`: of what goes behind all others of its class."""
        if now - self._grown_at > STEP:
            self._grow(now)
        grown = self._growth
        self._sums[klass] = self._sums.get(klass, 0.0) + grown * cost
        if behind:
            self._sums[BEHIND + klass] = self._sums.get(BEHIND + klass, 0.0) + grown * cost
        self._all += grown * cost
        self._counted += grown

    def turn_away(self, now: float) -> None:
        """One was refused when it came."""
        if now - self._grown_at > STEP:
            self._grow(now)
        self._away += self._growth

    @property
    def turned_away(self) -> float:
        """The share of those that came lately who were refused on arrival."""
        return self._away / (self._away + self._counted) if self._away else 0.0

    def _grow(self, now: float) -> None:
        """How much weighs what is dispatched now: all that was fades, so it is kept relative to a moment, and grows."""
        passed = now - self._zero
        if passed > 100.0 * FLOW_MEMORY:
            fade = math.exp(max(-700.0, -passed / FLOW_MEMORY))
            self._sums = {name: kept * fade for name, kept in self._sums.items()}
            self._all *= fade
            self._counted *= fade
            self._away *= fade
            self._zero, passed = now, 0.0
        if self._began == math.inf:
            self._began = now
        self._growth, self._grown_at = math.exp(passed / FLOW_MEMORY), now

    def rate(self, klass: str, now: float) -> float:
        """Cost per second at which this class is let go; 0 where nothing has been."""
        own, whole = self._sums.get(klass, 0.0), self._all
        return self._per_second(max(own, LEAST_PART * whole), now)

    def requests(self, now: float) -> float:
        """Requests per second of all classes."""
        return self._per_second(self._counted, now)

    def _per_second(self, grown: float, now: float) -> float:
        if not grown:
            return 0.0
        # In the first seconds not all of the memory has been lived.
        lived = 1.0 - math.exp(-max(0.25, now - self._began) / FLOW_MEMORY)
        return grown * math.exp(max(-700.0, (self._zero - now) / FLOW_MEMORY)) / (FLOW_MEMORY * lived)
