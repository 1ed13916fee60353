"""Two classes on one fleet: the scenario's traffic, and a backlog of asynchronous work that never ends.

The idea: everything of `simulation`, and beside it filler that a gate lets go. It is asked again whenever the gateway
hears something (a first token, an end, an abort) and every 100 ms. Who is aborted goes back to the front of the backlog
and is sent again; what it had been given is kept by the engine's prefix cache for as long as that lasts, and counted as
wasted as far as it has to be done again.

For each try of an item is kept when it was sent, when its first token came and when it ended, and the tokens it cost.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import heappop
from random import Random
from typing import Any

import numpy as np

from backends.sim.generation import Generation, SimRequest, Step
from gateway.core.errors import NoEndpoint, Refused
from gateway.core.reservation import Reservation
from gateway.core.types import Outcome, Request
from loadtest.lab.cluster import Station, keys
from loadtest.lab.gates import gatekeeper
from loadtest.lab.record import Floats, Run
from loadtest.lab.router import Flight, Router
from loadtest.lab.scenario import Gate, Scenario
from loadtest.lab.simulation import Simulation, prompt_bytes
from loadtest.workload import Item

_ABORT, _SWEEP = 7, 8
SWEEP = 0.1  # seconds
_BEHIND = 1  # the filler's priority at an engine that schedules by it; the others have 0, which goes first
FIRST = 10_000_000  # prompts of the filler are numbered from here
TENANT = "batch"
_BLOCK = 16


@dataclass(slots=True)
class Tries:
    """What became of each try of an item; lists of one value each. Times are NaN for what did not happen."""

    sent: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    prompt: list[float] = field(default_factory=list)  # tokens computed, those found in the cache left out
    found: list[float] = field(default_factory=list)  # tokens found in the cache
    output: list[float] = field(default_factory=list)
    complete: list[bool] = field(default_factory=list)

    def columns(self) -> dict[str, Floats]:
        """As arrays."""
        return {name: np.array(getattr(self, name), np.float64) for name in self.__slots__}


class FillFlight(Flight):
    """One try of an item."""

    __slots__ = ("aborted", "gone", "item", "noted", "place")

    def __init__(self, place: int, item: Item, request: Request, router: Router, aborted: int):
        super().__init__(-1, item.prompt_tokens, request, router)
        self.place = place  # in the backlog's numbering
        self.item = item
        self.aborted = aborted
        self.gone = False  # aborted by the gateway
        self.noted = False


class Mixed(Simulation):
    """The state of one run; `run` it once. `tries` is what the backlog got; `interactive` False: no other traffic."""

    def __init__(self, scenario: Scenario, rate: float, policy: str, options: Mapping[str, object], seed: int,
                 gate: Gate, interactive: bool = True):  # fmt: skip
        super().__init__(scenario, rate, policy, options, seed, 0.0)
        self.fill, self.tries = scenario.fill, Tries()
        self.router = self.routers[0]
        self.gate = gatekeeper(gate, self.fill, self.stations, self.router.fleet)
        self.interactive = interactive
        self.until = self._horizon()
        self._back: deque[tuple[int, Item, int]] = deque()
        self._lengths = Random(f"{seed} filler")
        self._jitter = Random(f"{seed} filler overhead")
        self._made = self._sent = 0
        self._filling: dict[object, FillFlight] = {}  # by reservation
        self.is_filling = gate.gate != "none"

    def _horizon(self) -> float:
        """The end of the last cycle of bursts, of which there are as many as the requests make, or the last arrival."""
        traffic, run = self.scenario.traffic, self.run_
        if not traffic.on:
            return float(run.arrived[-1])
        return max(1, round(len(run.arrived) / run.rate / traffic.on)) * (traffic.on + traffic.off)

    def run(self) -> Run:
        """Until the horizon."""
        self._plan_scrapes()
        self._plan(0.0, _SWEEP, None)
        handlers = self._handlers()
        arrivals = [*(self.asked.arrived.tolist() if self.interactive else ()), math.inf]
        heap, coming, now = self._heap, 0, 0.0
        while now < self.until:
            if arrivals[coming] <= heap[0][0]:
                now = arrivals[coming]
                self._arrive(coming, now)
                coming += 1
                continue
            now, _, kind, what = heappop(heap)
            handlers[kind](what, now)
        for flight in self._filling.values():  # they would have come to their end
            assert flight.reservation is not None
            engine = self.stations[flight.reservation.row].engine
            self._note_try(flight, engine.find(flight.request.id), now, complete=True)
        self.run_.seconds, self.run_.complete = now, True
        self.run_.preemptions = sum(station.engine.preemptions for station in self.stations)
        return self.run_

    def _handlers(self) -> tuple[Callable[[Any, float], None], ...]:
        return (*super()._handlers(), self._leave, self._sweep)

    # -- the filler's way in

    def _sweep(self, _: None, now: float) -> None:
        self._give_way(now)
        self._fill(now)
        self._plan(now + SWEEP, _SWEEP, None)

    def _fill(self, now: float) -> None:
        """Send as much of the backlog as the gate lets go."""
        if not self.is_filling or len(self.router.holding):
            return
        fleet = self.router.fleet
        while True:
            place, item, aborted = self._next()
            request = self._asked_of(place, item, now)
            try:
                open_ = self.gate.open_rows(request, fleet.snapshot(now), now, aborted)
            except (Refused, NoEndpoint):
                open_ = None
            if open_ is None:
                self._back.appendleft((place, item, aborted))
                return
            decision = self.router.policy.pick(request, open_)
            flight = FillFlight(place, item, request, self.router, aborted)
            decision.taken()
            flight.reservation = fleet.reserve(decision, request, now)
            flight.at = now
            self._filling[flight.reservation] = flight
            self.gate.admitted(flight.reservation, request, now, aborted)
            overhead = self.scenario.traffic.overhead * self._jitter.uniform(0.85, 1.15)
            self._plan(now + overhead, 1, flight)

    def _next(self) -> tuple[int, Item, int]:
        if self._back:
            return self._back.popleft()
        self._made += 1
        prompt, output = (self._length(shape) for shape in (self.fill.prompt, self.fill.output))
        blocks = tuple(FIRST * self._made + i for i in range(prompt // _BLOCK))
        return self._made, Item(0.0, prompt, output, TENANT, blocks=blocks, block_size=_BLOCK), 0

    def _length(self, shape: tuple[float, float]) -> int:
        mean, cv = shape
        if cv <= 0.0:
            return int(mean)
        sigma = math.sqrt(math.log1p(cv * cv))
        return max(1, int(self._lengths.lognormvariate(math.log(mean) - sigma * sigma / 2.0, sigma)))

    def _asked_of(self, place: int, item: Item, now: float) -> Request:
        self._sent += 1
        streams = self.fill.streams > 0.0 and place % 1000 < 1000 * self.fill.streams
        return Request(
            id=f"f{self._sent}", model="lab", arrived=now, prompt=prompt_bytes(item, place),
            prompt_tokens=float(item.prompt_tokens), output_tokens=self.router.expected_output(TENANT), stream=streams,
            tenant=TENANT, klass="async", may_wait=False, filler=True,
        )  # fmt: skip

    def _reach(self, flight: Flight, now: float) -> None:
        if not isinstance(flight, FillFlight):
            super()._reach(flight, now)
            return
        if flight.gone:
            return
        assert flight.reservation is not None
        station, item = self.stations[flight.reservation.row], flight.item
        idle = station.engine.next_event_at() == math.inf
        station.engine.submit(SimRequest(flight.request.id, item.prompt_tokens, item.output_tokens,
                                         keys(item, station.group.block_size), _BEHIND), now, flight)  # fmt: skip
        if idle:
            self._plan(now, 0, station)

    # -- the others

    def _place(self, flight: Flight, now: float) -> None:
        super()._place(flight, now)
        if flight.reservation is not None:
            self.gate.taken(flight.reservation, flight.request, now)
            self._give_way(now)

    def _give_way(self, now: float) -> None:
        """Abort what the gate wants back; its engine hears of it a little later."""
        for reservation in self._victims(now):
            flight = self._filling.pop(reservation)
            flight.gone = True
            outcome = Outcome(flight.request, reservation.endpoint, reservation.row, 0, "cancelled", now - flight.at)
            self._settle(flight, outcome, now)
            self._back.appendleft((flight.place, flight.item, flight.aborted + 1))
            self._plan(now + self.fill.leave, _ABORT, flight)

    def _victims(self, now: float) -> list[Reservation]:
        return self.gate.victims(self.router.fleet, now)

    def _is_over(self, flight: Flight, outcome: Outcome | None, now: float) -> None:
        """Its place has been given back."""
        assert flight.reservation is not None
        self.gate.ended(flight.reservation, outcome, now)

    def _settle(self, flight: FillFlight, outcome: Outcome, now: float) -> None:
        assert flight.reservation is not None
        flight.reservation.settle(now, outcome)
        self.router.policy.observe(outcome)
        self._is_over(flight, outcome, now)

    def _leave(self, flight: FillFlight, now: float) -> None:
        """An abort has come to its engine."""
        assert flight.reservation is not None
        station = self.stations[flight.reservation.row]
        generation = station.engine.find(flight.request.id)
        if generation is not None:
            station.drop(generation)
            station.engine.abort(flight.request.id, now)
        self._note_try(flight, generation, now, complete=False)

    def _note_try(self, flight: FillFlight, g: Generation | None, now: float, complete: bool) -> None:
        if flight.noted:  # its end was under way when it was aborted
            return
        flight.noted = True
        tries = self.tries
        tries.sent.append(flight.at)
        tries.first.append(g.first_token_at if g is not None and g.first_token_at >= 0.0 else math.nan)
        tries.ended.append(now)
        found = max(0, g.cached_tokens) if g is not None else 0
        tries.prompt.append(float(max(0, min(g.position, g.prompt_tokens) - found)) if g is not None else 0.0)
        tries.found.append(float(found))
        tries.output.append(float(g.generated) if g is not None else 0.0)
        tries.complete.append(complete)

    # -- what comes back

    def _relay(self, station: Station, step: Step) -> None:
        super()._relay(station, step)
        if step.first or step.finished:
            self._fill(step.at)

    def _note_first(self, flight: Flight, g: Generation, now: float) -> None:
        if not isinstance(flight, FillFlight):
            super()._note_first(flight, g, now)

    def _finish(self, g: Generation, now: float) -> None:
        flight: Flight = g.tag
        if not isinstance(flight, FillFlight):
            super()._finish(g, now)
            self._is_over(flight, self.router.outcome, now)
            return
        self._note_try(flight, g, now, complete=not flight.gone)
        if flight.gone:
            return
        assert flight.reservation is not None
        del self._filling[flight.reservation]
        flight.router.ended(flight, now, g.first_token_at - flight.at, float(g.cached_tokens), g.generated)
        self._is_over(flight, self.router.outcome, now)
