"""One pool of the lab with the gateway's desk before it, and who stands there.

The idea: `router` has the production fleet, predictor and policy; here the production desk decides who goes, who waits
and who is refused, as `gateway.lane` puts them together. Left to others: engines and the ways between pools
(`several`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Protocol

from gateway.core.errors import HeadwayError
from gateway.core.prediction import Prior
from gateway.core.reservation import Reservation
from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision
from gateway.plan.values import PoolPlan, Setting
from gateway.priors import prior_of
from loadtest.lab.alarm import Alarm
from loadtest.lab.cluster import Station
from loadtest.lab.router import Flight, Router
from loadtest.lab.scenario import Routers, Scrape
from policies.admission.base import Waiting
from policies.admission.desk import Desk
from policies.admission.filler import Filler

DUE = 7  # what `Run.later` is asked for when a desk wants to be looked at


class Run(Protocol):
    """Who runs the requests: `several`."""

    def later(self, at: float, kind: int, what: object) -> None:
        """Something is due then."""

    def chosen(self, flight: Flight, decision: Decision, snapshot: Snapshot) -> None:
        """It is about to take this place."""

    def called(self, visitor: Visitor, reservation: Reservation | None, error: HeadwayError | None) -> None:
        """It has waited, and goes or will not."""


class Visitor:
    """A flight at a desk, and in the queue there once it waits."""

    __slots__ = ("aborted", "flight", "at", "run", "waiting")

    avoid: Collection[str] = ()

    def __init__(self, run: Run, flight: Flight, at: int, aborted: int):
        self.run, self.flight, self.at, self.aborted = run, flight, at, aborted
        self.waiting: Waiting[Visitor] | None = None

    def chosen(self, decision: Decision, snapshot: Snapshot) -> None:
        self.run.chosen(self.flight, decision, snapshot)

    def called(self, reservation: Reservation | None, error: HeadwayError | None) -> None:
        self.waiting = None
        self.run.called(self, reservation, error)


class Gate(Router):
    """One pool: its fleet and policy as in the lab, its desk as in the gateway, its part of the engines."""

    def __init__(self, run: Run, number: int, plan: PoolPlan, stations: list[Station], setting: Setting, seed: int):
        prior = prior_of(plan.prior) if plan.prior else Prior()
        known = Routers(scrape=Scrape(every=plan.scrape), prior=plan.prior)
        endpoints = [replace(station.endpoint(), id=engine.name or station.endpoint().id)
                     for station, engine in zip(stations, plan.engines, strict=True)]  # fmt: skip
        super().__init__(number, endpoints, plan.policy, plan.options, seed, prior, known, 1)
        self.plan, self.stations = plan, stations
        self.first = stations[0].number if stations else 0
        rule = setting.filler
        filler = Filler(rule) if rule is not None else None
        self.desk: Desk[Visitor] = Desk(self.fleet, self.policy.pick, setting.rules, plan.limit, filler)
        self.alarm = Alarm(self.desk, lambda at: run.later(at, DUE, self))
