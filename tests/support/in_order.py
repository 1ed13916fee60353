"""A picking policy for tests: always the first endpoint that may be chosen, so that who is asked first is known."""

from __future__ import annotations

from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Request
from policies.picking.base import Policy


class InOrder(Policy):
    """The lowest row of the snapshot."""

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        return Decision(int(snapshot.rows[0]), "the first of them")
