"""How warm each candidate's cache is for a prompt: what the prefix policies share.

A `PrefixIndex` and what it was asked for each request in flight, so that the answers can teach it. Sent prompts are
entered at once, before the engine has seen them: that is what keeps a burst of equal prompts together. Prompts that are
looked at and not sent are not entered: a decision's `taken` enters them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from gateway.core.prefixes import PrefixIndex, hash_blocks
from gateway.core.snapshot import Snapshot
from gateway.core.types import Floats, Outcome, Request, nothing

# Predictions that are kept for answers that never come. Each outcome takes its own away, so this is not reached.
MOST_PENDING = 16_384


class Warmth(NamedTuple):
    """For one request: `share` of the prompt's bytes that match, `trust` in it; one value per candidate."""

    chains: Sequence[int]
    share: Floats
    trust: Floats
    prompt_tokens: float

    @property
    def cached(self) -> Floats:
        """Tokens of the prompt that each candidate probably holds."""
        cached = self.share * self.trust
        cached *= self.prompt_tokens
        return cached


class Caches:
    """What is known of the caches of one pool."""

    def __init__(self, max_blocks: int):
        self._index = PrefixIndex(max_blocks)
        self._pending: OrderedDict[tuple[str, int], tuple[Sequence[int], float]] = OrderedDict()

    def look(self, request: Request, snapshot: Snapshot) -> Warmth:
        """How warm each candidate is for this request."""
        size = len(snapshot.fleet.ours)
        chains = hash_blocks(request.prompt, request.model)
        share = snapshot.column(self._index.match(chains, size, len(request.prompt)))
        trust = snapshot.column(self._index.reliability(size))
        return Warmth(chains, share, trust, request.prompt_tokens)

    def sender(self, request: Request, warmth: Warmth, position: int, row: int) -> Callable[[], None]:
        """What is to be called when the request goes to this candidate: see `Decision.taken`."""
        return partial(self._send, request, warmth, position, row) if warmth.chains else nothing

    def _send(self, request: Request, warmth: Warmth, position: int, row: int) -> None:
        """From now on this candidate is taken to hold its prompt."""
        self._index.insert(warmth.chains, row)
        self._pending[request.id, row] = (warmth.chains, float(warmth.share[position]))
        if len(self._pending) > MOST_PENDING:
            self._pending.popitem(last=False)

    def observe(self, outcome: Outcome) -> None:
        """Learn how much was really cached; take back what did not reach the engine."""
        chains, share = self._pending.pop((outcome.request.id, outcome.row), ((), 0.0))
        if not chains:
            return
        if outcome.ended in ("upstream_failed", "saturated") and outcome.ttft != outcome.ttft:
            self._index.withdraw(chains, outcome.row)
        else:
            self._index.learn(outcome.row, share * outcome.prompt_tokens, outcome.cached_tokens)

    def leave(self, row: int) -> None:
        """The endpoint in this row is gone."""
        self._index.forget(row)
