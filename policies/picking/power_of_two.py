"""The better of two endpoints drawn at random, and of the one that was left over as the best last time.

The idea: two choices instead of one bring the longest queue from log n / log log n down to log log n (Azar, Broder,
Karlin and Upfal, 1994; Mitzenmacher, "The power of two choices in randomized load balancing", 1996), with almost no
information, and the randomness keeps several gateways from running to the same endpoint. Remembering the best loser of
the last draw is worth a further choice and costs none (Mitzenmacher, Prabhakar and Shah, "Load balancing with memory",
2002). Of 256 requests at once on 8 idle endpoints, the busiest endpoint then gets 33 or 34 instead of up to 35.

The two are different endpoints, and their counts are corrected by our own dispatches, which several routers forget.
"""

from __future__ import annotations

import numpy as np

from gateway.core.snapshot import Snapshot
from gateway.core.types import UNKNOWN, Decision, Request
from policies.picking.base import Policy
from policies.picking.options import switch


class PowerOfTwo(Policy):
    """`memory`: compare with the best loser of the last draw too. Off, it is the plain rule."""

    def __init__(self, memory: bool = True):
        self.memory = switch("memory", memory)
        self._kept = -1  # a row, or -1

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        rows, requests, tokens = snapshot.rows, snapshot.requests, snapshot.tokens
        drawn = self._draw(snapshot)
        loads = [(float(requests[i]), float(tokens[i])) for i in drawn]
        best = loads.index(min(loads))
        scores = np.full(len(rows), UNKNOWN)
        for i, load in zip(drawn, loads, strict=True):
            scores[i] = load[0]
        reason = f"{loads[best][0]:.0f} requests there, fewest of {len(drawn)} drawn"
        chosen = drawn[best]
        if self.memory:
            loads[best] = (loads[best][0] + 1.0, loads[best][1])
            self._kept = int(rows[drawn[loads.index(min(loads))]])
        return Decision(int(rows[chosen]), reason, scores)

    def leave(self, row: int) -> None:
        if row == self._kept:
            self._kept = -1

    def _draw(self, snapshot: Snapshot) -> list[int]:
        """Two different positions at random, then the remembered one if it may be chosen and is a third."""
        random, count = snapshot.random.random, len(snapshot)
        if count == 1:
            return [0]
        first = int(random() * count)
        second = int(random() * (count - 1))
        if second >= first:
            second += 1
        drawn = [first, second]
        if self._kept >= 0:
            for kept in (snapshot.rows == self._kept).nonzero()[0].tolist():
                if kept not in drawn:
                    drawn.append(kept)
        return drawn
