"""How many requests an endpoint gets when nothing predicts what it can carry: a limit that adapts.

The idea is that of concurrency limits from latency (TCP Vegas; Netflix's concurrency-limits, Gradient2), with the time
between tokens as the round trip: it is short on an idle engine and grows with the batch, and unlike the time of a whole
answer it does not depend on how much a model writes. An engine gains from batching, so the time between tokens may grow
to `TOLERANCE` times the shortest before there are too many; beyond that, one more request slows all others down and
brings little. Where a pace is promised, nearly that is the most.

    limit <- (1 - w) limit + w (limit * clamp(most / lately, 0.5, 1) + sqrt(limit))
    most   = min(TOLERANCE * least, PROMISED * promise)

It moves only when answers end on an endpoint that has at least half of its limit: an idle one proves nothing. A plain
answer tells no time between tokens and only lets it grow.

The same limits guard a predictor that has seen few answers end, or lost its calibration. How fast tokens come is learnt
only when streams end, seconds after they began, and a fleet that is offered several times what it carries is past help
by then.
"""

from __future__ import annotations

import math

import numpy as np

from gateway.core.types import Floats

START, LEAST, MOST = 64.0, 4.0, 8192.0  # requests at one endpoint
TOLERANCE = 4.0
WEIGHT = 0.05
FOLLOW = 0.1  # weight of one answer in what the time between tokens was lately
FORGET = 1.00001  # how fast the shortest is forgotten, an answer at a time: an engine may be changed under its address
PROMISED = 0.9  # of a promise: the streams of one endpoint are not equally fast
FEW = 8.0  # tokens; shorter answers tell no pace


class AdaptiveLimit:
    """Limits of one pool by row. Not thread-safe."""

    def __init__(self) -> None:
        self.limits: Floats = np.full(8, START)
        self.lowest = START  # of them
        self._least: dict[int, float] = {}
        self._lately: dict[int, float] = {}

    def observe(self, row: int, gap: float, promised: float, tokens: float, inflight: float) -> None:
        """An answer of so many tokens ended among `inflight` requests.

        `gap`: seconds between its tokens; `promised`: what they may be (NaN: not told, not promised).
        """
        gradient = 1.0
        if gap > 0.0 and tokens >= FEW:
            least = self._least[row] = min(self._least.get(row, math.inf) * FORGET, gap)
            before = self._lately.get(row, gap)
            lately = self._lately[row] = before + FOLLOW * (gap - before)
            most = TOLERANCE * least
            if PROMISED * promised < most:
                most = max(PROMISED * promised, least)
            gradient = min(1.0, max(0.5, most / lately))
        self.reach(row + 1)
        limit = self.limits.item(row)
        if inflight < limit / 2.0:
            return
        wanted = limit * gradient + math.sqrt(limit)
        self.limits[row] = min(MOST, max(LEAST, limit + WEIGHT * (wanted - limit)))
        self.lowest = float(self.limits.min())

    def forget(self, row: int) -> None:
        """The endpoint in this row is gone."""
        self._least.pop(row, None)
        self._lately.pop(row, None)
        if row < len(self.limits):
            self.limits[row] = START
            self.lowest = float(self.limits.min())

    def reach(self, size: int) -> None:
        """Make room for rows below `size`."""
        if size > len(self.limits):
            self.limits = np.concatenate((self.limits, np.full(size - len(self.limits), START)))

    def limit(self, row: int) -> float:
        """How many requests the endpoint in this row carries."""
        return self.limits.item(row) if row < len(self.limits) else START
