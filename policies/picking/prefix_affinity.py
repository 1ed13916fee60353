"""The least work left, this request's included: an endpoint that holds its prefix has less to do for it.

The idea: what a cache saves is counted in tokens, as the work that waits is, so the two can be weighed. A cached token
is worth one that this request need not wait for, and by default half a token more, because what is computed a second
time delays others: that is what keeps a burst together. The prompt stays where its prefix is until that endpoint is
further behind than this, and then the prefix spreads to a second one by itself. The balance is that of Preble ("Preble:
efficient distributed prompt scheduling for LLM serving", ICLR 2025: exploit if more is cached than not, else explore),
the cost that of NVIDIA Dynamo's KV router (new prefill blocks + active blocks). The caches are guessed from where
prompts were sent (`gateway/core/prefixes.py`) and the guess is corrected by the engines' answers.

No threshold and no gate for the whole fleet: one hot endpoint does not end affinity for all, as it does where the gate
is the difference between the busiest and the idlest.
"""

from __future__ import annotations

from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Outcome, Request
from policies.picking.base import Policy
from policies.picking.least_tokens import LeastTokens
from policies.picking.options import number, whole
from policies.picking.warmth import Caches


class PrefixAffinity(Policy):
    """`weight`: how many tokens of waiting work one cached token is worth. 1 looks at this request alone, more is
    stickier, 0 is `least_tokens`.

    `max_blocks`: the size of the index (150 bytes each; a prompt of 16 KB has 57).
    """

    def __init__(self, weight: float = 1.5, max_blocks: int = 65_536):
        self.weight = number("weight", weight, 0.0, 100.0)
        self._caches = Caches(whole("max_blocks", max_blocks, 1_000, 100_000_000))
        self._least = LeastTokens()

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        warmth = self._caches.look(request, snapshot)
        cached = warmth.cached
        tokens = snapshot.tokens
        scores = tokens - self.weight * cached
        position = self._least.choose(scores, snapshot)
        row, held = int(snapshot.rows[position]), float(cached[position])
        reason = f"{float(tokens[position]):.0f} tokens left to do there, {held:.0f} cached: best of {len(scores)}"
        return Decision(row, reason, scores, held, taken=self._caches.sender(request, warmth, position, row))

    def observe(self, outcome: Outcome) -> None:
        self._caches.observe(outcome)

    def leave(self, row: int) -> None:
        self._caches.leave(row)
