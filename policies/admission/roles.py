"""Who a desk has to do with: the guest that wants a place, and what decides how much filler there may be."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from gateway.core.errors import HeadwayError
from gateway.core.fleet import Fleet
from gateway.core.reservation import Reservation
from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Outcome, Request
from policies.admission.closed import Look


class Guest(Protocol):
    """Who wants a place. `avoid`: endpoints (ids) that were tried already; `aborted`: how often it had to give way."""

    @property
    def avoid(self) -> Collection[str]:
        """Ids of endpoints that it must not get."""

    @property
    def aborted(self) -> int:
        """How often it had a place as filler and was taken off it."""

    def chosen(self, decision: Decision, snapshot: Snapshot) -> None:
        """This place is about to be taken for it: the last moment to see the fleet as it was."""

    def called(self, reservation: Reservation | None, error: HeadwayError | None) -> None:
        """It has waited and got a place, or a reason why not. Exactly one of the two is given."""


class Filling(Protocol):
    """What decides how much filler a fleet takes; see `filler`."""

    @property
    def look(self) -> Look | None:
        """What the last one that was asked could have."""

    def came(self, request: Request, now: float) -> None:
        """A request that is no filler has come."""

    def cleared(self, decision: Decision, fleet: Fleet, now: float) -> Decision:
        """The decision for one that is no filler, with what is predicted once filler has given way there."""

    def there(self, row: int) -> float:
        """How many requests of it are on an endpoint."""

    def open_rows(self, request: Request, snapshot: Snapshot, now: float, aborted: int = 0) -> Snapshot | None:
        """The snapshot without the endpoints that this request may not go to now; None: nowhere now."""

    def admitted(self, reservation: Reservation, request: Request, now: float, aborted: int = 0) -> None:
        """A filler request has got this place."""

    def taken(self, reservation: Reservation, request: Request, now: float) -> None:
        """A request that is no filler has got this place."""

    def ended(self, reservation: Reservation, outcome: Outcome | None, now: float) -> None:
        """A place of either kind was given back."""

    def victims(self, fleet: Fleet, now: float) -> list[Reservation]:
        """Filler that must give way, if any."""
