"""What lets asynchronous work go in the lab: the project's own filler, and what others do.

`static`: so many per endpoint, always. `threshold`: an endpoint takes more while max(queue / 5, KV / 0.8) is below x
(the saturation of llm-d's router, which its asynchronous processor asks), as a gateway sees it: by the last scrape,
with what it has sent since as queued. `threshold_now`: the same told the truth of this moment, which nobody sees.
`none`: nothing goes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gateway.core.fleet import Fleet
from gateway.core.reservation import Reservation
from gateway.core.snapshot import Snapshot
from gateway.core.types import Floats, Outcome, Request
from loadtest.lab.cluster import Station
from loadtest.lab.scenario import Fill, Gate, ScenarioError
from policies.admission.filler import Filler

_QUEUE, _KV = 5.0, 0.8  # what that router calls full
GATES = ("headway", "static", "threshold", "threshold_now", "none")


class Gatekeeper(Protocol):
    """As `policies.admission.filler.Filler`, which is one."""

    def taken(self, reservation: Reservation, request: Request, now: float) -> None: ...
    def admitted(self, reservation: Reservation, request: Request, now: float, aborted: int = 0) -> None: ...
    def ended(self, reservation: Reservation, outcome: Outcome | None, now: float) -> None: ...
    def open_rows(self, request: Request, snapshot: Snapshot, now: float, aborted: int = 0) -> Snapshot | None: ...
    def victims(self, fleet: Fleet, now: float) -> list[Reservation]: ...


class Baseline:
    """A gate that looks at nothing but how much is there, and never takes anything back."""

    def __init__(self, count: int):
        self._there: Floats = np.zeros(count)

    def taken(self, reservation: Reservation, request: Request, now: float) -> None:
        pass

    def admitted(self, reservation: Reservation, request: Request, now: float, aborted: int = 0) -> None:
        self._there[reservation.row] += 1.0

    def ended(self, reservation: Reservation, outcome: Outcome | None, now: float) -> None:
        if outcome is not None and outcome.request.filler:
            self._there[reservation.row] -= 1.0

    def open_rows(self, request: Request, snapshot: Snapshot, now: float, aborted: int = 0) -> Snapshot | None:
        open_ = self._room()[snapshot.rows] > 0.0
        return Snapshot(snapshot.fleet, now, snapshot.rows[open_], False) if open_.any() else None

    def victims(self, fleet: Fleet, now: float) -> list[Reservation]:
        return []

    def _room(self) -> Floats:
        return np.zeros_like(self._there)


class Static(Baseline):
    """At most `cap` per endpoint."""

    def __init__(self, count: int, cap: float):
        super().__init__(count)
        self._cap = cap

    def _room(self) -> Floats:
        return self._cap - self._there


class Threshold(Baseline):
    """While max(queue / 5, KV / 0.8) < x by the last scrape; what was sent since counts as queued."""

    def __init__(self, x: float, fleet: Fleet):
        super().__init__(len(fleet.at))
        self._x, self._fleet = x, fleet
        self._since, self._said = np.zeros(len(fleet.at)), fleet.at.copy()

    def admitted(self, reservation: Reservation, request: Request, now: float, aborted: int = 0) -> None:
        self._since[reservation.row] += 1.0

    def ended(self, reservation: Reservation, outcome: Outcome | None, now: float) -> None:
        pass

    def _room(self) -> Floats:
        fleet = self._fleet
        news = fleet.at != self._said
        self._since[news], self._said[news] = 0.0, fleet.at[news]
        queue = np.nan_to_num(fleet.waiting) + self._since
        return self._x - np.maximum(queue / _QUEUE, np.nan_to_num(fleet.kv_used) / _KV)


class ThresholdNow(Baseline):
    """The same by the engines' own state; what is on its way there counts as queued."""

    def __init__(self, stations: Sequence[Station], x: float, fleet: Fleet):
        super().__init__(len(stations))
        self._stations, self._x, self._fleet = stations, x, fleet

    def _room(self) -> Floats:
        said = []
        for station in self._stations:
            engine = station.engine
            coming = self._fleet.ours.item(station.number) - engine.in_flight
            queue = len(engine.waiting) + max(0.0, coming)
            said.append(self._x - max(queue / _QUEUE, engine.pool.usage / _KV))
        return np.array(said)


def gatekeeper(gate: Gate, fill: Fill, stations: Sequence[Station], fleet: Fleet) -> Gatekeeper:
    """The gate of a run. Raises ScenarioError for one that does not exist."""
    if gate.gate == "headway":
        return Filler(fill)
    if gate.gate == "static":
        return Static(len(stations), gate.x or math.inf)
    if gate.gate == "threshold":
        return Threshold(gate.x, fleet)
    if gate.gate == "threshold_now":
        return ThresholdNow(stations, gate.x, fleet)
    if gate.gate == "none":
        return Baseline(len(stations))
    raise ScenarioError(f"fill.gates: there is no gate {gate.gate!r}; there are {', '.join(GATES)}")
