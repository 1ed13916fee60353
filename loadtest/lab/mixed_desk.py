"""Two classes behind the production desk: the traffic and the filler wait, go and are refused as in the gateway.

The idea: `mixed`, with the gateway's `Desk` in the place of its router's choice and its queue of filler. So many items
of the backlog wait at the desk at any time; what is aborted comes back to it, as from the gateway's dispatcher.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from backends.sim.generation import Generation
from gateway.core.errors import HeadwayError, NoEndpoint, Refused
from gateway.core.reservation import Reservation
from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Outcome, Request
from loadtest.lab.alarm import Alarm
from loadtest.lab.mixed import FillFlight, Mixed
from loadtest.lab.router import Flight, Router
from loadtest.lab.scenario import Gate, Scenario
from loadtest.workload import Item
from policies.admission.base import ClassRule
from policies.admission.desk import Desk
from policies.admission.filler import Filler

_REACH, _DUE = 1, 9
WAITING = 64  # items of the backlog that wait at the desk
RULES = (
    ClassRule("interactive"),
    ClassRule("async", priority=0, limit=100_000, wait=86_400.0, order="deadline", filler=True),
)


class Visitor:
    """A flight of the traffic, or an item of the backlog with the request for it, at the desk."""

    __slots__ = ("aborted", "flight", "item", "place", "request", "run")

    avoid: Collection[str] = ()

    def __init__(self, run: MixedDesk, request: Request, flight: Flight | None, place: int, item: Item | None,
                 aborted: int):  # fmt: skip
        self.run, self.request, self.flight = run, request, flight
        self.place, self.item, self.aborted = place, item, aborted

    def chosen(self, decision: Decision, snapshot: Snapshot) -> None:
        """Nothing is recorded here."""

    def called(self, reservation: Reservation | None, error: HeadwayError | None) -> None:
        self.run.called(self, reservation, error)


class MixedDesk(Mixed):
    """The state of one run; `run` it once."""

    def __init__(self, scenario: Scenario, rate: float, policy: str, options: Mapping[str, object], seed: int,
                 gate: Gate, interactive: bool = True):  # fmt: skip
        super().__init__(scenario, rate, policy, options, seed, gate, interactive)
        assert isinstance(self.gate, Filler)
        router = self.router
        self.desk: Desk[Visitor] = Desk(router.fleet, router.policy.pick, RULES, None, self.gate)
        self.now = 0.0
        self._waiting = 0
        self.alarm = Alarm(self.desk, lambda at: self._plan(at, _DUE, None))

    def _handlers(self) -> tuple[Callable[[Any, float], None], ...]:
        return (*super()._handlers(), self._due)

    # -- the way in

    def _place(self, flight: Flight, now: float) -> None:
        self.now = now
        visitor = Visitor(self, flight.request, flight, -1, None, 0)
        try:
            found = self.desk.offer(visitor, flight.request, now)
        except (Refused, NoEndpoint) as error:
            self.called(visitor, None, error)
            return
        if isinstance(found, Reservation):
            self.called(visitor, found, None)
        self._give_way(now)
        self.alarm.set(now)

    def called(self, visitor: Visitor, reservation: Reservation | None, error: HeadwayError | None) -> None:
        """One goes, or will never."""
        now, flight = self.now, visitor.flight
        if flight is None:
            self._waiting -= 1
            assert reservation is not None and visitor.item is not None, f"filler is never refused: {error}"
            flight = FillFlight(visitor.place, visitor.item, visitor.request, self.router, visitor.aborted)
            self._filling[reservation] = flight
            overhead = self.scenario.traffic.overhead * self._jitter.uniform(0.85, 1.15)
        elif reservation is None:
            self._close(flight, met=False)
            return
        else:
            overhead = self.asked.overhead.item(flight.number)
        flight.reservation, flight.at = reservation, now
        self._plan(now + overhead, _REACH, flight)

    def _fill(self, now: float) -> None:
        """Let so many wait, and ask who may go."""
        self.now = now
        while self.is_filling and (self._waiting < WAITING or self._back):
            place, item, aborted = self._next()
            visitor = Visitor(self, self._asked_of(place, item, now), None, place, item, aborted)
            self._waiting += 1
            found = self.desk.offer(visitor, visitor.request, now)
            if isinstance(found, Reservation):
                self.called(visitor, found, None)
        self.desk.changed()
        self.desk.serve(now)
        self.alarm.set(now)

    def _retry(self, router: Router, now: float) -> None:
        """What changed is told at the end of the iteration, by `_fill`."""

    def _due(self, _: None, now: float) -> None:
        self.now = now
        self.alarm.rang(now)

    # -- what comes back

    def _victims(self, now: float) -> list[Reservation]:
        return self.desk.victims(now)

    def _is_over(self, flight: Flight, outcome: Outcome | None, now: float) -> None:
        assert flight.reservation is not None
        self.desk.ended(flight.reservation, flight.request, outcome, now)

    def _finish(self, g: Generation, now: float) -> None:
        super()._finish(g, now)
        self.desk.changed()
