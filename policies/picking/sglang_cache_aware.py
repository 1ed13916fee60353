"""Where most of the prompt is cached, if that is enough of it and the fleet is balanced; else the fewest requests.

The rule of the `cache_aware` policy of SGLang's router (now the SGLang model gateway, and copied by vLLM's router). The
fleet is unbalanced when the busiest endpoint has more than `balance_abs` requests more than the idlest *and* more than
`balance_rel` times as many; then everybody goes to the shortest queue. Otherwise the longest match in an approximate
prefix tree decides if it is more than `threshold` of the prompt. Constants: 0.3, 64 and 1.5, as shipped in 2026;
earlier versions had 0.5, 32 and 1.0001.

Stronger here than published: a miss goes to the fewest requests (early versions: to the smallest tree, busy or not), of
equal matches the one with the fewest requests is taken (theirs: whichever the tree names), and requests of others
count. Left out: their tree keeps text by character where the index here keeps growing blocks. The gate is for the whole
fleet, as published: one hot endpoint ends affinity for all. `prefix_affinity` has none.
"""

from __future__ import annotations

import numpy as np

from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Outcome, Request
from policies.picking.base import EQUAL, Policy, lowest
from policies.picking.options import number, whole
from policies.picking.warmth import Caches


class SglangCacheAware(Policy):
    """`threshold`: the share of the prompt that must match, more than this.

    `balance_abs`, `balance_rel`: by how many requests and how many times the busiest endpoint must be ahead of the
    idlest for caches to be ignored. `max_blocks`: the size of the index (150 bytes each; a prompt of 16 KB has 57).
    """

    def __init__(
        self, threshold: float = 0.3, balance_abs: float = 64, balance_rel: float = 1.5, max_blocks: int = 65_536
    ):
        self.threshold = number("threshold", threshold, 0.0, 1.0)
        self.balance_abs = number("balance_abs", balance_abs, 0.0)
        self.balance_rel = number("balance_rel", balance_rel, 1.0)
        self._caches = Caches(whole("max_blocks", max_blocks, 1_000, 100_000_000))

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        warmth = self._caches.look(request, snapshot)
        requests, share = snapshot.requests, warmth.share
        most, fewest, best = float(requests.max()), float(requests.min()), float(share.max())
        if most - fewest > self.balance_abs and most > self.balance_rel * fewest:
            scores, why = requests.copy(), f"{most:.0f} requests on one and {fewest:.0f} on another: fewest"
        elif best > self.threshold:
            scores, why = np.where(share >= best - EQUAL, requests, np.inf), f"{best:.0%} of the prompt matches, most"
        else:
            scores, why = requests.copy(), f"{best:.0%} of the prompt matches at best: fewest requests"
        position = lowest(scores, snapshot.random)
        row = int(snapshot.rows[position])
        taken = self._caches.sender(request, warmth, position, row)
        return Decision(row, f"{why} of {len(scores)}", scores, float(warmth.cached[position]), taken=taken)

    def observe(self, outcome: Outcome) -> None:
        self._caches.observe(outcome)

    def leave(self, row: int) -> None:
        self._caches.leave(row)
