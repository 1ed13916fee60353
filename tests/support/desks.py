"""What the tests of the desk share: a fleet and a policy whose predictions a test sets, and short ways to ask."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from gateway.core.errors import Refused
from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.reservation import Reservation
from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Endpoint, Outcome, Request
from policies.admission.base import ClassRule, Waiting
from policies.admission.desk import Desk
from tests.support.waiting import Caller, Oracle, ask, foresee

RULES = (ClassRule("interactive", 10, 100, 10.0, "fair"), ClassRule("bulk", 0, 1000, 100.0, "deadline"))


class Tap:
    """A filler's control that is open or shut."""

    def __init__(self) -> None:
        self.open, self.log, self.running = True, list[str](), list[Reservation]()
        self.look = None

    def came(self, request: Request, now: float) -> None:
        self.log.append("came")

    def cleared(self, decision: Decision, fleet: Fleet, now: float) -> Decision:
        return decision

    def there(self, row: int) -> float:
        return 0.0

    def open_rows(self, request: Request, snapshot: Snapshot, now: float, aborted: int = 0) -> Snapshot | None:
        self.log.append(f"asked {aborted}")
        return snapshot if self.open else None

    def admitted(self, reservation: Reservation, request: Request, now: float, aborted: int = 0) -> None:
        self.running.append(reservation)

    def taken(self, reservation: Reservation, request: Request, now: float) -> None:
        self.log.append("taken")

    def ended(self, reservation: Reservation, outcome: Outcome | None, now: float) -> None:
        self.log.append("ended")

    def victims(self, fleet: Fleet, now: float) -> list[Reservation]:
        return [] if self.open else self.running


class Least:
    """Picks the endpoint with the fewest of ours; its tokens come slower with each request there."""

    def __init__(self, base: float = 0.01, each: float = 0.001, ttft: float = 0.1, wait: float = 0.0):
        self.base, self.each, self.ttft, self.wait = base, each, ttft, wait
        self.asked: list[Request] = []

    def __call__(self, request: Request, snapshot: Snapshot) -> Decision:
        self.asked.append(request)
        position = int(snapshot.ours.argmin())
        there = float(snapshot.ours[position])
        forecast = foresee(self.ttft, self.base + self.each * there)
        return Decision(int(snapshot.rows[position]), "x", forecast=forecast, wait=self.wait)


def fleet_of(count: int = 2, limit: int | None = None, predicts: bool = True) -> Fleet:
    fleet = Fleet("p", Rule(), Random(1))
    fleet.update([Endpoint(f"e{n}", f"http://e{n}", "p", "vllm", max_concurrency=limit) for n in range(count)], 0.0,
                 fresh=True)  # fmt: skip
    fleet.predictor = Oracle() if predicts else None  # type: ignore[assignment]
    return fleet


def desk_of(fleet: Fleet, pick: Callable[[Request, Snapshot], Decision] | None = None,
            rules: tuple[ClassRule, ...] = RULES, **more) -> Desk[Caller]:  # fmt: skip
    return Desk(fleet, pick or Least(), rules, **{"excess": Tap(), **more})


def give_back(desk: Desk[Caller], place: Reservation, now: float, request: Request | None = None) -> None:
    place.settle(now)
    desk.ended(place, request or ask(), None, now)


def fill(desk: Desk[Caller], count: int, now: float = 0.0, **more) -> list[Reservation]:
    places = [desk.offer(Caller(f"f{n}"), ask(f"f{n}", arrived=now, **more), now) for n in range(count)]
    assert all(isinstance(place, Reservation) for place in places)
    return places  # type: ignore[return-value]


def must_wait(desk: Desk[Caller], caller: Caller, request: Request, now: float) -> Waiting[Caller]:
    found = desk.offer(caller, request, now)
    assert isinstance(found, Waiting)
    return found


def refusal(desk: Desk[Caller], request: Request, now: float) -> Refused:
    with pytest.raises(Refused) as caught:
        desk.offer(Caller(), request, now)
    return caught.value
