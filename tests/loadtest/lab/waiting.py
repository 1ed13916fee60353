"""Policies that only tests need: what a choice looks like when waiting is better, or when all go to one engine."""

from __future__ import annotations

from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Request
from policies.picking.base import Policy


class First(Policy):
    """Always the first candidate."""

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        return Decision(int(snapshot.rows[0]), "first")


class Patient(Policy):
    """Waits up to `wait` seconds for an engine without requests."""

    def __init__(self, wait: float = 0.2):
        self.wait = wait

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        position = int(snapshot.ours.argmin())
        wait = self.wait if snapshot.ours[position] > 0.0 else 0.0
        return Decision(int(snapshot.rows[position]), "patient", wait=wait)
