"""A picking policy for tests that would rather wait while everybody is busy, so that who is held is known."""

from __future__ import annotations

import math

from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Request
from policies.picking.base import Policy


class Patient(Policy):
    """The one with the fewest of our requests; a later choice while that has `busy` of them. `wait` in seconds."""

    def __init__(self, wait: float = 60.0, busy: int = 1):
        self.wait = wait if wait < 1000.0 else math.inf
        self.busy = busy

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        position = int(snapshot.ours.argmin())
        is_busy = snapshot.ours[position] >= self.busy
        return Decision(int(snapshot.rows[position]), "the least busy", wait=self.wait if is_busy else 0.0)
