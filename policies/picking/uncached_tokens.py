"""Where the fewest prompt tokens have to be computed before this request's first token, its own included.

The idea: least work left, with prefill as the only work: an engine prefills in turn, so the tokens that wait there plus
those of this prompt that its cache does not hold are the time to its first token, in tokens. It is the load half of
llm-d's routing since August 2026 ("uncached tokens in flight", its `token-load-scorer`) with the cache inside the
sum instead of a gate in front of it, and it has no constants. Endpoints that are equal in it, as idle ones are, are
told apart by their requests, which the published rule does not do.

It differs from `prefix_affinity` in that answers still to be written do not count: better for the first token, worse
where decoding is the bottleneck. Left out: prompts of others that wait (only their number is known). Its counts are
corrected by our own dispatches in the same step; the published ones are booked after the pick.
"""

from __future__ import annotations

import numpy as np

from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Outcome, Request
from policies.picking.base import Policy
from policies.picking.options import whole
from policies.picking.ties import fewest_of_lowest
from policies.picking.warmth import Caches


class UncachedTokens(Policy):
    """`max_blocks`: the size of the index (150 bytes each; a prompt of 16 KB has 57)."""

    def __init__(self, max_blocks: int = 65_536):
        self._caches = Caches(whole("max_blocks", max_blocks, 1_000, 100_000_000))

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        warmth = self._caches.look(request, snapshot)
        cached = warmth.cached
        scores = snapshot.prefill + np.maximum(request.prompt_tokens - cached, 1.0)
        position = fewest_of_lowest(scores, snapshot.requests, snapshot.random)
        row, held = int(snapshot.rows[position]), float(cached[position])
        todo = float(scores[position])
        reason = f"{todo:.0f} prompt tokens to prefill there, {held:.0f} cached: least of {len(scores)}"
        return Decision(row, reason, scores, held, taken=self._caches.sender(request, warmth, position, row))

    def observe(self, outcome: Outcome) -> None:
        self._caches.observe(outcome)

    def leave(self, row: int) -> None:
        self._caches.leave(row)
