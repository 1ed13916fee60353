"""Where the prefix is, until that endpoint's prompts in flight are too many; then where the least tokens are.

The idea: a warm cache is worth nearly any queue short of saturation, because a prompt sent elsewhere is computed again
and pushes something out of the cache there. So the choice is made among the endpoints that hold most of it and have
no more than so many uncached tokens in flight beyond the least loaded endpoint: a lead of R x T, where R is the rate at
which an endpoint prefills (tokens per second) and T the time to first token that is still tolerable. Of those, and of
all if there are none, the one with the least tokens left to do is taken. Published by llm-d in August 2026
(`prefix-cache-affinity-filter`, then `token-load-scorer`), where it equals or beats their trained latency predictor
wherever prefill is the bottleneck.

The default lead is the published one: 286,720 = 20,480 tokens/s (Qwen3-32B on two H100) x 14 s, which favours
throughput. For a time to first token of 2 s and 10,000 tokens/s, set `max_lead_tokens: 20000`. The published threshold
is 0.8; the default here is "more is cached than not", as in Preble, because with 0.8 a conversation leaves its endpoint
whenever its last message is longer than a quarter of what was said before. Stronger than published besides: each warm
endpoint must stay within the lead (there the best one does, for all), one whose cache keeps failing is not waited for,
and counts change in the step of the choice.
"""

from __future__ import annotations

import numpy as np

from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Outcome, Request
from policies.picking.base import Policy
from policies.picking.least_tokens import LeastTokens
from policies.picking.options import number, whole
from policies.picking.warmth import Caches

# A cache that has held less than this share of what was expected of it is not worth waiting for: it is too small for
# its traffic, or it is switched off. Between this and 1 stickiness stays, since leaving would evict even more.
BELIEVED = 0.2


class StickyUntilSaturated(Policy):
    """`threshold`: the share of the prompt that an endpoint must hold to be warm.

    `max_lead_tokens`: how many more uncached prompt tokens in flight the best warm endpoint may have than the least
    loaded one. `max_blocks`: the size of the index (150 bytes each; a prompt of 16 KB has 57).
    """

    def __init__(self, threshold: float = 0.5, max_lead_tokens: float = 286_720, max_blocks: int = 65_536):
        self.threshold = number("threshold", threshold, 0.01, 1.0)
        self.max_lead = number("max_lead_tokens", max_lead_tokens, 0.0)
        self._caches = Caches(whole("max_blocks", max_blocks, 1_000, 100_000_000))
        self._least = LeastTokens()

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        warmth = self._caches.look(request, snapshot)
        warm = (warmth.share >= self.threshold) & (warmth.trust >= BELIEVED)
        scores = tokens = snapshot.tokens
        why = "no endpoint is warm"
        if warm.any():
            prefill = snapshot.prefill
            least = float(prefill.min())
            near = warm & (prefill <= least + self.max_lead)
            if near.any():
                scores = np.where(near, tokens, np.inf)
            else:
                why = f"the warm one leads by {float(prefill[warm].min()) - least:.0f} prompt tokens"
        position = self._least.choose(scores, snapshot)
        if scores is tokens:
            why += f"; {float(tokens[position]):.0f} tokens left to do there, least of {len(scores)}"
        else:
            why = f"warm, {float(prefill[position]) - least:.0f} prompt tokens ahead of the least loaded"
        row = int(snapshot.rows[position])
        taken = self._caches.sender(request, warmth, position, row)
        return Decision(row, why, scores.copy(), float(warmth.cached[position]), taken=taken)

    def observe(self, outcome: Outcome) -> None:
        self._caches.observe(outcome)

    def leave(self, row: int) -> None:
        self._caches.leave(row)
