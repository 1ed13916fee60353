"""Each in turn, whoever comes and goes.

The idea: a moving index over a list that changes favours whoever stands after a gap. Here each row has a pass, the turn
that it may take next, and the candidate with the lowest one is served; serving adds 1. With a fixed set that is plain
round robin, in an order that is random but stays. One that was left out keeps its turn, at most one, so that an
endpoint back from a long absence is not flooded. It is stride scheduling with equal tickets (Waldspurger and Weihl,
"Stride scheduling: deterministic proportional-share resource management", 1995).

It looks at no load. It is here as the yardstick, and for servers whose requests are all alike.
"""

from __future__ import annotations

import numpy as np

from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Request
from policies.picking.base import Policy


class RoundRobin(Policy):
    """No options."""

    def __init__(self) -> None:
        self._turn = 0.0  # the highest pass that was served
        self._passes = np.empty(0)  # by row; the fraction is the row's place in the order

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        rows = snapshot.rows
        missing = len(snapshot.fleet.ours) - len(self._passes)
        if missing > 0:
            self._passes = np.append(self._passes, [snapshot.random.random() for _ in range(missing)])
        passes = np.maximum(self._passes[rows], self._turn - 1.0)
        position = int(passes.argmin())
        row, turn = int(rows[position]), float(passes[position])
        self._turn = max(self._turn, turn)
        self._passes[row] = turn + 1.0
        return Decision(row, f"next in turn of {len(rows)}", passes)

    def leave(self, row: int) -> None:
        if row < len(self._passes):
            self._passes[row] %= 1.0
