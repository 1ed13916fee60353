"""The least work left: prompt tokens not yet prefilled and output tokens not yet written. The default.

The idea: least work left (the dispatching rule known as LWL or JSW; Harchol-Balter, "Performance Modeling and Design of
Computer Systems", ch. 24) with tokens as the unit of work, because one long prompt weighs as much as a hundred short
ones. Uncached tokens in flight are the strongest single predictor of the time to first token, and the "token load" rule
built on them is what the better LLM routers fall back to. Near-equal endpoints are told apart by their number of
requests, then at random.

Lengths are estimates made at arrival; the fleet corrects them as tokens come. Caches are the business of
`prefix_affinity` and `sticky_until_saturated`.
"""

from __future__ import annotations

import numpy as np

from gateway.core.fleet import Snapshot
from gateway.core.types import Decision, Floats, Request
from policies.picking.base import Policy, lowest
from policies.picking.options import number


class LeastTokens(Policy):
    """`tie`: endpoints within so many tokens of the least loaded one are taken as equal."""

    def __init__(self, tie: float = 1.0):
        self.tie = number("tie", tie, 0.0)

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        tokens = snapshot.tokens
        position = self.choose(tokens, snapshot)
        reason = f"{tokens.item(position):.0f} tokens left to do there, least of {len(tokens)}"
        return Decision(snapshot.rows.item(position), reason, tokens.copy())

    def choose(self, tokens: Floats, snapshot: Snapshot) -> int:
        """Position of the least of `tokens` (one value per candidate); ties by requests, then at random."""
        position = int(tokens.argmin())
        close = tokens <= tokens.item(position) + self.tie
        count = np.count_nonzero(close)
        if count == 1:
            return position
        if not count:  # NaN
            return lowest(tokens, snapshot.random, self.tie)
        ties = close.nonzero()[0]
        return int(ties[lowest(snapshot.requests[ties], snapshot.random)])
