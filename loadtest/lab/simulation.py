"""Runs a scenario once: a heap of moments, and the engines, routers and scrapes that happen at them.

Events at one moment happen in the order in which they were planned, and all randomness comes from streams that are
named after what they are for, so a run is the same every time it is made. (The prefix index hashes bytes with a key of
this process; only two prompts with the same 64-bit hash could make a difference.)

The gateway's own time is taken as zero and so is the way back: what a policy costs is measured beside it (`Run.cost`).
TTFT counts from the arrival at the router to the engine's first token, for plain answers too, whose router does not see
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any

import numpy as np

from backends.sim.generation import DoesNotFit, Generation, QueueFull, SimRequest, Step
from gateway.core.errors import Refused
from gateway.core.prediction import Prior
from gateway.core.types import UNKNOWN, Load, Request
from gateway.priors import prior_of
from loadtest.lab.arrivals import Asked, draw
from loadtest.lab.cluster import Station, build, keys
from loadtest.lab.record import Run, blank
from loadtest.lab.router import Flight, Router
from loadtest.lab.scenario import Scenario
from loadtest.workload import Item

_JITTER = 0.1  # of a scrape interval, as in the gateway
_STEP, _REACH, _ASK, _TOLD, _HELD, _PACE, _FORGET = range(7)


def simulate(scenario: Scenario, rate: float, policy: str, options: Mapping[str, object] | None = None, seed: int = 0,
             stop_below: float = 0.0) -> Run:  # fmt: skip
    """One run at `rate` requests per second.

    With `stop_below` it stops as soon as the share of measured requests that meet both SLOs can no longer reach it.
    Raises ScenarioError for a scenario that cannot be run, ValueError for a policy that does not exist.
    """
    return Simulation(scenario, rate, policy, options or {}, seed, stop_below).run()


def prompt_bytes(item: Item, number: int) -> bytes:
    """Four bytes per token; two prompts share what their blocks share and nothing else."""
    names = np.full(-(-item.prompt_tokens // 2), -1 - number, np.int64)
    if item.blocks:
        each = item.block_size // 2
        shared = np.repeat(np.array(item.blocks, np.int64), each)[: len(names)]
        names[: len(shared)] = shared
    return names.tobytes()[: 4 * item.prompt_tokens]


class Simulation:
    """The state of one run; `run` it once. `stations` and `routers` can be looked at afterwards."""

    def __init__(self, scenario: Scenario, rate: float, policy: str, options: Mapping[str, object], seed: int,
                 stop_below: float):  # fmt: skip
        self.scenario = scenario
        self.asked: Asked = self._drawn(rate, seed)
        self.stations: list[Station] = build(scenario, seed)
        endpoints = [station.endpoint() for station in self.stations]
        known = scenario.routers
        prior = prior_of(known.prior) if known.prior else Prior()
        self.routers = [
            Router(number, endpoints, policy, options, seed, prior, known, scenario.traffic.tokens_per_event)
            for number in range(known.count)
        ]
        self.run_ = blank(scenario, policy, rate, seed, self.asked)
        self._heap: list[tuple[float, int, int, object]] = []
        self._serial = count()
        self._random = Random(f"{seed} scrapes")
        self._measured = self.run_.measured.tolist()
        self._open = sum(self._measured)
        counted = self.run_.measured & self.run_.feasible
        self._counted = counted.tolist()
        self._may_miss = math.floor((1.0 - stop_below) * int(counted.sum()) + 1e-9) if stop_below else math.inf
        self._missed = [False] * len(self.asked)

    def _drawn(self, rate: float, seed: int) -> Asked:
        return draw(self.scenario, rate, seed)

    def run(self) -> Run:
        """Until every measured request has its answer, or too many have missed."""
        self._plan_scrapes()
        for station in self.stations:
            for at, factor in station.group.pace[1:]:
                self._plan(at, _PACE, (station, factor))
        handlers = self._handlers()
        arrivals = [*self.asked.arrived.tolist(), math.inf]
        heap, coming, now = self._heap, 0, 0.0
        while self._open > 0 and self._may_miss >= 0:
            if arrivals[coming] <= heap[0][0] if heap else True:
                now = arrivals[coming]
                self._arrive(coming, now)
                coming += 1
                continue
            now, _, kind, what = heappop(heap)
            handlers[kind](what, now)
        run = self.run_
        run.seconds, run.complete = now, self._open == 0
        run.preemptions = sum(station.engine.preemptions for station in self.stations)
        return run

    def _handlers(self) -> tuple[Callable[[Any, float], None], ...]:
        """What is done at a moment, by its kind."""
        return (self._step, self._reach, self._ask, self._told, self._retry, self._pace, self._forget)

    def _plan(self, at: float, kind: int, what: object) -> None:
        heappush(self._heap, (at, next(self._serial), kind, what))

    # -- the way in

    def _arrive(self, number: int, now: float) -> None:
        request, prompt = self._request(number, now), self.asked.items[number].prompt_tokens
        self._place(Flight(number, prompt, request, self._router(number)), now)

    def _router(self, number: int) -> Router:
        return self.routers[int(self.asked.router[number])]

    def _request(self, number: int, now: float) -> Request:
        asked, item = self.asked, self.asked.items[number]
        router = self._router(number)
        told = self.scenario.slo.told
        tenant = item.tenant or "anonymous"
        return Request(
            id=str(number), model="lab", arrived=now, prompt=prompt_bytes(item, number),
            prompt_tokens=max(1.0, item.prompt_tokens * asked.guess.item(number)),
            output_tokens=router.expected_output(tenant), stream=bool(asked.stream[number]), session=item.session,
            tenant=tenant, ttft_slo=asked.ttft_slo.item(number) if told else UNKNOWN,
            tpot_slo=asked.tpot_slo.item(number) if told else UNKNOWN,
        )  # fmt: skip

    def _place(self, flight: Flight, now: float) -> None:
        try:
            placed = flight.router.place(flight, now)
        except Refused:
            self._close(flight, met=False)
            return
        if placed:
            self._plan(now + self.asked.overhead.item(flight.number), _REACH, flight)
        else:
            self._plan(flight.held_until, _HELD, flight.router)

    def _retry(self, router: Router, now: float) -> None:
        """Those held whose time is over, and the most urgent if something has changed."""
        if not len(router.holding):
            return
        for held in router.holding.due(now):
            self._place(held.item, now)

    def _reach(self, flight: Flight, now: float) -> None:
        """The request is in the engine's queue."""
        reservation = flight.reservation
        assert reservation is not None
        station, item = self._station(flight.router, reservation.row), self.asked.items[flight.number]
        engine = station.engine
        request = SimRequest(flight.request.id, item.prompt_tokens, item.output_tokens,
                             keys(item, station.group.block_size))  # fmt: skip
        idle = engine.next_event_at() == math.inf
        try:
            engine.submit(request, now, flight)
        except (DoesNotFit, QueueFull) as error:
            flight.router.refused(flight, now, isinstance(error, QueueFull))
            self._close(flight, met=False)
            self._retry(flight.router, now)
            return
        if idle:
            self._plan(now, _STEP, station)

    # -- the engines: every router knows all of them, in their order

    def _station(self, router: Router, row: int) -> Station:
        return self.stations[row]

    def _row(self, station: Station) -> int:
        return station.number

    def _step(self, station: Station, now: float) -> None:
        step = station.engine.step(now)
        station.publish(step)
        if step.tokens:
            self._relay(station, step)
        due = station.engine.next_event_at()
        if due < math.inf:
            self._plan(due, _STEP, station)

    def _relay(self, station: Station, step: Step) -> None:
        """What the routers hear of an iteration: its beat, first tokens, every sixteenth token, ends."""
        now = step.at
        if station.suspended:
            station.resume()
        for g in step.first:
            flight: Flight = g.tag
            self._note_first(flight, g, now)
            if flight.request.stream:
                station.began(flight)
                flight.router.first_token(flight, now)
        for number in station.seen_by():
            self.routers[number].beat(self._row(station), now)
        for g in step.paced:
            if g.tag.request.stream:
                g.tag.router.progress(g.tag, g.generated, now)
        for g in step.finished:
            if g.tag.request.stream:
                station.ceased(g.tag)
            self._finish(g, now)
        for g in step.preempted:
            station.interrupted(g)
        if step.first or step.finished:
            for router in self.routers:
                self._retry(router, now)

    def _note_first(self, flight: Flight, g: Generation, now: float) -> None:
        run, number = self.run_, flight.number
        run.ttft[number] = ttft = now - flight.request.arrived
        run.cached[number] = g.cached_tokens
        if ttft > self.asked.ttft_slo[number]:
            self._miss(number)

    def _finish(self, g: Generation, now: float) -> None:
        flight: Flight = g.tag
        run, number = self.run_, flight.number
        run.e2e[number] = now - flight.request.arrived
        if g.generated > 1:
            run.tpot[number] = (now - g.first_token_at) / (g.generated - 1)
        flight.router.ended(flight, now, g.first_token_at - flight.at, float(g.cached_tokens), g.generated)
        self._close(flight, met=not run.tpot[number] > self.asked.tpot_slo[number])

    def _miss(self, number: int) -> None:
        if self._counted[number] and not self._missed[number]:
            self._missed[number] = True
            self._may_miss -= 1

    def _close(self, flight: Flight, met: bool) -> None:
        """The request has its answer, or will have none."""
        run, number = self.run_, flight.number
        self._open -= self._measured[number]
        if not met:
            self._miss(number)
        run.cost[number], run.picks[number] = flight.cost, flight.picks
        reservation = flight.reservation
        if reservation is None:
            return
        run.engine[number] = reservation.row
        run.held[number] = flight.at - flight.request.arrived
        if (f := reservation.forecast) is not None:
            run.predicted[:, number] = f.ttft, f.ttft_low, f.ttft_high, f.tpot, f.tpot_low, f.tpot_high

    # -- what the routers are told

    def _plan_scrapes(self) -> None:
        every = self.scenario.routers.scrape.every
        if every:
            for router in self.routers:
                self._plan(every, _FORGET, router)
                for station in self.stations:
                    self._plan(self._random.random() * every, _ASK, (router, station))

    def _ask(self, pair: tuple[Router, Station], now: float) -> None:
        """A scrape is sent; the page is that of this moment and comes a little later."""
        router, station = pair
        scrape = self.scenario.routers.scrape
        fails = self._random.random() < scrape.missing or scrape.out_from <= now < scrape.out_to
        jitter = self._random.uniform(1.0 - _JITTER, 1.0 + _JITTER)
        if not fails:
            at = now + scrape.delay
            self._plan(at, _TOLD, (router, station.number, station.load(at), router.fleet.ours.item(station.number)))
        self._plan(now + scrape.every * jitter, _ASK, pair)

    def _told(self, what: tuple[Router, int, Load, float], now: float) -> None:
        router, row, load, ours_then = what
        router.fleet.observe(row, load, ours_then)

    def _forget(self, router: Router, now: float) -> None:
        router.fleet.forget_stale(now)
        self._plan(now + self.scenario.routers.scrape.every, _FORGET, router)

    def _pace(self, what: tuple[Station, float], now: float) -> None:
        station, factor = what
        station.engine.pace = factor
