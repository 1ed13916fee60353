"""The least work left: prompt tokens not yet prefilled and output tokens not yet written. The default.

The idea: least work left (the dispatching rule known as LWL or JSW; Harchol-Balter, "Performance Modeling and Design of
Computer Systems", ch. 24) with tokens as the unit of work, because one long prompt weighs as much as a hundred short
ones. Uncached tokens in flight are the strongest single predictor of the time to first token, and the "token load" rule
built on them is what the better LLM routers fall back to. Near-equal endpoints are told apart at random.

Lengths are estimates made at arrival; the fleet corrects them as tokens come. Caches are the business of
`prefix_affinity` and `sticky_until_saturated`.
"""

from __future__ import annotations

import numpy as np

from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Floats, Request
from policies.picking.base import Policy
from policies.picking.options import number

# At how many places, at least, a stretch of random parts may begin.
STARTS = 1024


class LeastTokens(Policy):
    """`tie`: endpoints within so many tokens of the least loaded one are taken as equal."""

    def __init__(self, tie: float = 1.0):
        self.tie = number("tie", tie, 0.0)
        self._parts = np.empty(0)
        self._drawn = -1

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        tokens = snapshot.tokens
        scores = self.with_ties_broken(tokens, snapshot)
        position = int(scores.argmin())
        reason = f"{tokens.item(position):.0f} tokens left to do there, least of {len(scores)}"
        return Decision(snapshot.rows.item(position), reason, scores)

    def choose(self, tokens: Floats, snapshot: Snapshot) -> int:
        """Position of the least of `tokens` (any number of values), ties at random."""
        return int(self.with_ties_broken(tokens, snapshot).argmin())

    def with_ties_broken(self, tokens: Floats, snapshot: Snapshot) -> Floats:
        """The values, each with less than `tie` added at random.

        The random parts are drawn once, as a long row; each request uses a stretch of it that begins somewhere else.
        Drawing 1,000 of them for every request would cost more than the choice.
        """
        count = len(tokens)
        if self._drawn != count:
            draw = snapshot.random.random
            self._parts = np.array([draw() * self.tie for _ in range(count + max(STARTS, 4 * count))])
            self._drawn = count
        start = int(snapshot.random.random() * (len(self._parts) - count))
        return tokens + self._parts[start : start + count]
