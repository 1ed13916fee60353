"""A run behind the production desk: the same code that the gateway asks who goes, who waits and who is refused.

The idea: `simulation` with the gateway's `Desk` in the place of its router's choice. Whoever may not go waits at the
desk and is called when its turn has come; who is refused has an answer in no time, and with it a reason and when to
come back. Tenants and deadlines are drawn here, from streams of their own, so that the requests are the same with and
without them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from backends.sim.generation import Generation
from gateway.core.errors import HeadwayError, NoEndpoint, Refused
from gateway.core.reservation import Reservation
from gateway.core.snapshot import Snapshot
from gateway.core.types import UNKNOWN, Decision, Request
from loadtest.lab.alarm import Alarm
from loadtest.lab.plan import OURS
from loadtest.lab.record import Flags, Floats
from loadtest.lab.router import Flight, Router
from loadtest.lab.scenario import Scenario
from loadtest.lab.simulation import Simulation
from policies.admission.base import ClassRule
from policies.admission.desk import Desk

_DESK, _SWEEP = 7, 8
SWEEP = 0.1  # seconds
GREEDY = "tenant-0"
CLASS = "interactive"


class Visitor:
    """A flight at the desk."""

    __slots__ = ("flight", "run")

    avoid: Collection[str] = ()
    aborted = 0

    def __init__(self, flight: Flight, run: Desked):
        self.flight, self.run = flight, run

    def chosen(self, decision: Decision, snapshot: Snapshot) -> None:
        self.flight.picks += 1

    def called(self, reservation: Reservation | None, error: HeadwayError | None) -> None:
        if reservation is not None:
            self.run.go(self.flight, reservation)
        else:
            assert error is not None
            self.run.refuse(self.flight, error)


class Desked(Simulation):
    """The state of one run; `run` it once. What was refused, when and why, can be looked at afterwards.

    `greedy` False leaves out what the first tenant asks for beyond its share.
    """

    def __init__(self, scenario: Scenario, rate: float, seed: int, greedy: bool = True):
        super().__init__(scenario, rate, OURS, {}, seed, 0.0)
        rules, size = scenario.admission, len(self.asked)
        self.now = 0.0
        self.desk: Desk[Visitor] = Desk(
            self.routers[0].fleet, self.routers[0].policy.pick,
            [ClassRule(CLASS, limit=rules.limit, wait=rules.wait, order=rules.order)],
        )  # fmt: skip
        self.refused_at: Floats = np.full(size, np.nan)
        self.come_back: Floats = np.full(size, np.nan)
        self.hopeless: Flags = np.zeros(size, np.bool_)
        self.reason = [""] * size
        self.stated: Floats = np.full(size, np.nan)  # seconds that one in a hundred should exceed, when it was sent
        draws = np.random.default_rng([seed, 77])
        self.deadline: Floats = np.full(size, np.nan)
        if rules.deadlines[1] > 0.0:
            self.deadline = self.asked.arrived + draws.uniform(*rules.deadlines, size)
        self.tenant = self._tenants(draws, size)
        self.absent: Flags = np.zeros(size, np.bool_)
        if not greedy:
            own = draws.random(size) < 1.0 / max(1.0, rules.greedy)
            self.absent = np.array([name == GREEDY for name in self.tenant], np.bool_) & ~own
            self._measured = [measured and not out for measured, out in zip(self._measured, self.absent, strict=True)]
            self._open = sum(self._measured)
        self.alarm = Alarm(self.desk, lambda at: self._plan(at, _DESK, None))

    def _tenants(self, draws: np.random.Generator, size: int) -> list[str]:
        rules = self.scenario.admission
        if not rules.tenants:
            return [""] * size
        weights = np.ones(rules.tenants)
        weights[0] = max(1.0, rules.greedy)
        return [f"tenant-{n}" for n in draws.choice(rules.tenants, size, p=weights / weights.sum())]

    def _handlers(self) -> tuple[Callable[[Any, float], None], ...]:
        self._plan(0.0, _SWEEP, None)
        return (*super()._handlers(), self._due, self._sweep)

    # -- the way in

    def _arrive(self, number: int, now: float) -> None:
        if not self.absent[number]:
            super()._arrive(number, now)

    def _request(self, number: int, now: float) -> Request:
        request, deadline = super()._request(number, now), self.deadline.item(number)
        if deadline == deadline:  # what is wanted by then has no other promise
            request = request._replace(deadline=deadline, ttft_slo=UNKNOWN, tpot_slo=UNKNOWN)
        return request._replace(tenant=self.tenant[number] or request.tenant)

    def _place(self, flight: Flight, now: float) -> None:
        self.now = now
        try:
            found = self.desk.offer(Visitor(flight, self), flight.request, now)
        except (Refused, NoEndpoint) as error:
            self.refuse(flight, error)
            return
        if isinstance(found, Reservation):
            self.go(flight, found)
        self.alarm.set(now)

    def go(self, flight: Flight, reservation: Reservation) -> None:
        """A place was taken for it."""
        now, number, request = self.now, flight.number, flight.request
        flight.reservation, flight.at = reservation, now
        if (forecast := reservation.forecast) is not None:
            whole = forecast.ttft + forecast.tpot * request.output_tokens
            self.stated[number] = whole * self.desk.judge.finish.stated(request)
        self._plan(now + self.asked.overhead.item(number), 1, flight)

    def refuse(self, flight: Flight, error: HeadwayError) -> None:
        """It gets an answer now, and no place."""
        number = flight.number
        self.refused_at[number] = self.now
        self.reason[number] = error.reason if isinstance(error, Refused) else "no_endpoint"
        if isinstance(error, Refused) and error.retry_after is not None:
            self.come_back[number] = error.retry_after
        self.hopeless[number] = getattr(error, "should_retry", None) is False
        self._close(flight, met=False)

    # -- turns

    def _retry(self, router: Router, now: float) -> None:
        self.now = now
        self.desk.changed()
        self.desk.serve(now)
        self.alarm.set(now)

    def _sweep(self, _: None, now: float) -> None:
        self._retry(self.routers[0], now)
        self._plan(now + SWEEP, _SWEEP, None)

    def _due(self, _: None, now: float) -> None:
        self.now = now
        self.alarm.rang(now)

    def _finish(self, g: Generation, now: float) -> None:
        flight: Flight = g.tag
        super()._finish(g, now)
        assert flight.reservation is not None
        self.desk.ended(flight.reservation, flight.request, flight.router.outcome, now)
