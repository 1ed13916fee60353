"""Blocks of prompt to prefill plus blocks of KV cache in use: the least, or a draw that favours it.

The rule of NVIDIA Dynamo's KV router: cost = weight x max(prefill blocks that wait + this prompt's - what is cached, 0)
+ blocks of the requests that are there, and the lowest cost wins; with a temperature above 0 one is drawn by the
softmax of the costs, scaled to 0..1 over the candidates. Source: its documentation ("Routing Concepts"), its scheduler.
Constants: weight 1, temperature 0, full credit for a cached block, blocks of 16 tokens.

A block in use is a prompt and the answer as far as it is written, from dispatch to end. Those books are kept here, per
request, since the fleet counts work that is left and not memory that is held; requests of others are taken to hold a
mean request each. Stronger than published: books and caches change in the step of the choice; ties go to the fewest
requests. Left out: credit for caches on host and disk, its decay, and blocks that running requests share (theirs are
counted once; here each has its own).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import numpy as np

from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Floats, Outcome, Request
from policies.picking.base import Policy
from policies.picking.options import number, whole
from policies.picking.ties import fewest_of_lowest
from policies.picking.warmth import MOST_PENDING, Caches


class DynamoKv(Policy):
    """`overlap_weight`: blocks in use that one block to prefill is worth. `temperature`: 0 is the lowest cost, 1 little
    more than chance. `block`: tokens in one block of the engine's cache.

    `max_blocks`: the size of the index (150 bytes each; a prompt of 16 KB has 57).
    """

    def __init__(
        self, overlap_weight: float = 1.0, temperature: float = 0.0, block: int = 16, max_blocks: int = 65_536
    ):
        self.overlap_weight = number("overlap_weight", overlap_weight, 0.0, 1_000.0)
        self.temperature = number("temperature", temperature, 0.0, 100.0)
        self.block = whole("block", block, 1, 4096)
        self._caches = Caches(whole("max_blocks", max_blocks, 1_000, 100_000_000))
        self._held = Held()

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        warmth = self._caches.look(request, snapshot)
        cached = warmth.cached
        prefill = np.maximum(snapshot.prefill + (request.prompt_tokens - cached), 0.0)
        costs = (self.overlap_weight * prefill + self._held.tokens(snapshot) + request.prompt_tokens) / self.block
        position = self._draw(costs, snapshot)
        row = int(snapshot.rows[position])
        taken = partial(self._goes, request, row, self._caches.sender(request, warmth, position, row))
        blocks = float(prefill[position]) / self.block
        reason = f"cost {float(costs[position]):.0f} blocks, {blocks:.0f} of them to prefill: "
        reason += f"lowest of {len(costs)}" if self.temperature == 0.0 else f"drawn of {len(costs)}"
        return Decision(row, reason, costs, float(cached[position]), taken=taken)

    def _goes(self, request: Request, row: int, send: Callable[[], None]) -> None:
        send()
        self._held.add(request, row)

    def observe(self, outcome: Outcome) -> None:
        self._caches.observe(outcome)
        self._held.end(outcome.request.id, outcome.row)

    def leave(self, row: int) -> None:
        self._caches.leave(row)
        self._held.leave(row)

    def _draw(self, costs: Floats, snapshot: Snapshot) -> int:
        least, most = float(costs.min()), float(costs.max())
        if self.temperature == 0.0 or not 0.0 < most - least < np.inf:
            return fewest_of_lowest(costs, snapshot.requests, snapshot.random)
        chances = np.exp((least - costs) / ((most - least) * self.temperature)).cumsum()
        return min(int(chances.searchsorted(snapshot.random.random() * chances[-1], "right")), len(costs) - 1)


class Held:
    """Tokens of KV cache that our requests hold, by row: prompts and what is written of the answers."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._booked = np.zeros(8)  # prompt and the whole expected answer

    def tokens(self, snapshot: Snapshot) -> Floats:
        """One value per candidate: ours, and a mean request for each of others'."""
        fleet = snapshot.fleet
        missing = len(fleet.ours) - len(self._booked)
        if missing > 0:
            self._booked = np.append(self._booked, np.zeros(missing))
        unwritten, others = snapshot.column(fleet.output), snapshot.requests - snapshot.ours
        return np.maximum(self._booked[snapshot.rows] - unwritten, 0.0) + others * fleet.mean_tokens

    def add(self, request: Request, row: int) -> None:
        """The request goes to this row. One that is picked again for it counts once."""
        self.end(request.id, row)
        tokens = request.prompt_tokens + request.output_tokens
        self._open[request.id, row] = tokens
        self._booked[row] += tokens
        if len(self._open) > MOST_PENDING:
            self.end(*next(iter(self._open)))

    def end(self, request_id: str, row: int) -> None:
        """The request's blocks are free again. One that was not added here changes nothing."""
        tokens = self._open.pop((request_id, row), 0.0)
        if tokens:
            self._booked[row] = max(0.0, self._booked[row] - tokens)

    def leave(self, row: int) -> None:
        """The endpoint in this row is gone."""
        if row < len(self._booked):
            self._booked[row] = 0.0
