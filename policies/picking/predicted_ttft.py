"""The shortest predicted time to this request's own first token.

The idea: a prediction weighs prompts that wait, the batch, the cache and how fast that server is, all in seconds.
It is the rule of Mooncake's conductor (FAST 2025: transfer + queue + prefill given the hit) and of every router that
predicts and then serves each request its own best; the prediction here is the gateway's (`gateway/core/predictor.py`),
better than any that was published with the rule. Endpoints within 2 % of the best are equal, since nobody predicts
better than that: of two of them, drawn at random, the one with fewer requests is taken, which keeps gateways with the
same figures apart (Mitzenmacher, "How useful is old information?", 2000).

What it leaves out is what this request does to others: that is `predicted_latency`, and this its yardstick.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Floats, Outcome, Request
from policies.picking.base import Policy, lowest
from policies.picking.options import number, whole
from policies.picking.warmth import Caches


class PredictedTtft(Policy):
    """`tie`: endpoints within this share of the best prediction are equal.

    `max_blocks`: the size of the index (150 bytes each; a prompt of 16 KB has 57).
    """

    predicts: ClassVar[bool] = True

    def __init__(self, tie: float = 0.02, max_blocks: int = 65_536):
        self.tie = number("tie", tie, 0.0, 10.0)
        self._caches = Caches(whole("max_blocks", max_blocks, 1_000, 100_000_000))

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        predictor = snapshot.fleet.predictor
        assert predictor is not None, "a policy that predicts is given a predictor"
        warmth = self._caches.look(request, snapshot)
        cached = warmth.cached
        prediction = predictor.predict(request, snapshot, cached)
        scores = prediction.ttft.copy()
        position = self._choose(scores, snapshot)
        row = int(snapshot.rows[position])
        taken = self._caches.sender(request, warmth, position, row)
        reason = f"first token predicted in {float(scores[position]) * 1e3:.0f} ms there, shortest of {len(scores)}"
        forecast = predictor.forecast(prediction, position)
        return Decision(row, reason, scores, float(cached[position]), forecast, taken=taken)

    def observe(self, outcome: Outcome) -> None:
        self._caches.observe(outcome)

    def leave(self, row: int) -> None:
        self._caches.leave(row)

    def _choose(self, ttft: Floats, snapshot: Snapshot) -> int:
        random = snapshot.random
        near = (ttft <= float(np.fmin.reduce(ttft)) * (1.0 + self.tie)).nonzero()[0]
        if len(near) <= 1:
            return lowest(ttft, random)
        first = int(random.random() * len(near))
        second = (first + 1 + int(random.random() * (len(near) - 1))) % len(near)
        requests = snapshot.requests
        one, other = int(near[first]), int(near[second])
        return one if requests[one] <= requests[other] else other
