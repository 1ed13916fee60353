"""How many requests a pool may have in flight, and of which class: the limits of the operator, and those found out.

Three limits hold at once: the pool's own, an endpoint's own (the fleet sees to that), and for an endpoint without one,
while nobody predicts what it carries, what the time between tokens says (`limit`). Of the first two a class may have a
share reserved, which others do not get.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from gateway.core.fleet import Fleet
from gateway.core.predictor import Predictor
from gateway.core.snapshot import Snapshot
from policies.admission.base import ClassRule
from policies.admission.limit import AdaptiveLimit

FEW = 200  # streams that have ended before a predictor is trusted to know what an endpoint carries


class Places:
    """Of one pool; counts what is in flight. `limit` is the pool's, in requests (None: none)."""

    def __init__(self, fleet: Fleet):
        self.adaptive = AdaptiveLimit()
        self.inflight: dict[str, int] = {}
        self._fleet = fleet
        self._all = 0
        self._limit = math.inf
        self._reserved: Mapping[str, float] = {}

    def reconfigure(self, rules: Iterable[ClassRule], limit: int | None) -> None:
        """Another configuration; what is in flight stays counted."""
        self._limit = math.inf if limit is None else limit
        self._reserved = {rule.name: rule.reserve for rule in rules if rule.reserve > 0.0}

    def take(self, klass: str) -> None:
        """One of this class goes."""
        self._all += 1
        self.inflight[klass] = self.inflight.get(klass, 0) + 1

    def give_back(self, klass: str) -> None:
        """One of this class has ended."""
        self._all -= 1
        self.inflight[klass] -= 1

    def free(self, klass: str, snapshot: Snapshot, part: float) -> Snapshot | None:
        """The snapshot without the endpoints that are full; None where there is no room for this class.

        `part`: of each limit, as much as this request may use.
        """
        if (self._limit < math.inf or self._reserved) and self._all >= part * self._open_to(klass, snapshot):
            return None
        if part == 1.0 and self._is_known(self._fleet.predictor):
            return snapshot
        return self._within_limits(snapshot, part)

    def _is_known(self, predictor: Predictor | None) -> bool:
        """Whether predictions say what an endpoint carries."""
        return predictor is not None and predictor.calibrated and predictor.learnt.tpot.samples >= FEW

    def _open_to(self, klass: str, snapshot: Snapshot) -> float:
        """How many requests may be in flight for one of this class to go: others' reserves are kept free."""
        limit = self._limit
        if self._reserved and limit == math.inf:
            limit = float(self._fleet.limit[snapshot.rows].sum())  # infinite as soon as one has no limit
        kept = 0.0
        for name, share in self._reserved.items():
            if name != klass and limit < math.inf:
                kept += max(0.0, share * limit - self.inflight.get(name, 0))
        return limit - kept

    def _within_limits(self, snapshot: Snapshot, part: float) -> Snapshot | None:
        """Without those that have this part of what they carry, as far as the time between tokens tells."""
        fleet, rows = self._fleet, snapshot.rows
        if part == 1.0 and fleet.requests.max() < self.adaptive.lowest:
            return snapshot
        self.adaptive.reach(len(fleet.ours))
        # A limit that the operator set is for us, and stands in place of what was found out, which is for all.
        is_set = fleet.limit[rows] < math.inf
        there = np.where(is_set, fleet.ours[rows], fleet.requests[rows])
        room = there < part * np.where(is_set, fleet.limit[rows], self.adaptive.limits[rows])
        if room.all():
            return snapshot
        return Snapshot(fleet, snapshot.now, rows[room], False) if room.any() else None
