"""Each in turn: the candidate that has waited longest for a request.

The idea: a moving index over a list that changes length favours whoever stands after a gap. Remembering when each row
was last served does not: rows may come, go, be avoided or ejected, and no candidate is served twice before another
candidate has been served once. Least recently used, as a fair queue of one class would (Nagle, "On packet switches with
infinite storage", RFC 970, 1985).

It looks at no load. It is here as the yardstick, and for servers whose requests are all alike.
"""

from __future__ import annotations

import numpy as np

from gateway.core.fleet import Snapshot
from gateway.core.types import Decision, Request
from policies.picking.base import Policy, lowest


class RoundRobin(Policy):
    """No options."""

    def __init__(self) -> None:
        self._turn = 0.0
        self._served = np.zeros(8)  # the turn in which each row was last served; 0: never

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        rows = snapshot.rows
        served = self._served
        if len(snapshot.fleet.ours) > len(served):
            served = self._served = np.concatenate((served, np.zeros(len(snapshot.fleet.ours) - len(served))))
        waited = served[rows]
        row = int(rows[lowest(waited, snapshot.random)])
        self._turn += 1.0
        served[row] = self._turn
        return Decision(row, f"next in turn of {len(rows)}", waited)

    def leave(self, row: int) -> None:
        if row < len(self._served):
            self._served[row] = 0.0
