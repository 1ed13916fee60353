"""Runs requests through several pools behind one gateway: the production desk of each, and the ways between them.

The idea: `simulation` with one router for each pool, which knows that pool's engines only, and the gateway's `Desk` in
front of it. A request is offered to the first of its pools; where that one refuses it or nobody is there, to the next;
who has waited for a while looks for a free place in the others, as in the gateway's proxy. Filler that has to give way
is taken off its engine and waits again.

Left to others: where a request may go, and what comes out of many runs (`foresight`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from backends.sim.generation import Generation
from gateway.core.errors import HeadwayError, NoEndpoint, Refused
from gateway.core.lengths import Lengths
from gateway.core.reservation import Reservation
from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Outcome, Request
from gateway.plan.values import Call, Engine, Setting
from loadtest.lab.arrivals import Asked
from loadtest.lab.cluster import Station
from loadtest.lab.gate import Gate, Visitor
from loadtest.lab.record import Floats
from loadtest.lab.router import ROUTE, Flight, Router
from loadtest.lab.scenario import Group, Routers, Scenario, Scrape
from loadtest.lab.simulation import Simulation, prompt_bytes
from loadtest.workload import Item

_REACH, _ASK, _FORGET = 1, 2, 6
_SWEEP, _ELSEWHERE, _ABORT = 8, 9, 10
SWEEP = 0.1  # seconds
LOOK_AGAIN = 0.05  # seconds: who waits looks for a place in other pools no more often, as in the gateway
BLOCK = 16  # tokens
LEAVE = 0.015  # seconds from an abort to its engine


class Several(Simulation):
    """The state of one run; `run` it once. `run_` has what came of each call; `pool` which pool had it, -1: none."""

    def __init__(self, setting: Setting, seed: int):
        self.setting = setting
        self.seed = seed
        self.now = 0.0
        self._items = [_item(call) for call in setting.calls]
        groups = tuple(_group(engine) for plan in setting.pools for engine in plan.engines)
        known = Routers(count=len(setting.pools), scrape=Scrape(every=0.0))
        scenario = Scenario("plan", groups, routers=known, requests=len(setting.calls), warm_up=0.0, cool_down=0.0)
        super().__init__(scenario, 1.0, "least_inflight", {}, seed, 0.0)
        self.gates, first = list[Gate](), 0
        for number, plan in enumerate(setting.pools):
            count = len(plan.engines)
            self.gates.append(Gate(self, number, plan, self.stations[first : first + count], setting, seed))
            first += count
        self.routers = [*self.gates]
        self._named = {gate.plan.name: gate for gate in self.gates}
        self._gate_of = [gate for gate in self.gates for _ in gate.stations]
        self._ways = [tuple(self._named[name] for name in call.pools if name in self._named) for call in setting.calls]
        self._lengths = {call.model: Lengths() for call in setting.calls}
        self.pool = np.full(len(setting.calls), -1, np.int64)
        self.reason = [""] * len(setting.calls)
        self._filling: dict[Reservation, Visitor] = {}
        self._gone: set[Reservation] = set()
        draws = np.random.default_rng([seed, 61])
        self._draws = draws.normal(0.0, self.scenario.traffic.overhead_noise, len(setting.calls)).tolist()

    def _drawn(self, rate: float, seed: int) -> Asked:
        """The calls: nothing of them is drawn."""
        calls = self.setting.calls
        items = self._items
        size = len(calls)

        def column(values: list[float]) -> Floats:
            return np.array(values, np.float64)

        promised = [column([getattr(call, name) for call in calls]) for name in ("ttft_slo", "tpot_slo")]
        return Asked(
            items=items, arrived=column([item.at for item in items]),
            prompt=np.array([item.prompt_tokens for item in items], np.int64),
            output=np.array([item.output_tokens for item in items], np.int64), overhead=np.zeros(size),
            router=np.zeros(size, np.int64), stream=np.array([call.stream for call in calls], np.bool_),
            guess=np.ones(size), ttft_slo=promised[0], tpot_slo=promised[1], feasible=np.ones(size, np.bool_),
        )  # fmt: skip

    def _handlers(self) -> tuple[Callable[[Any, float], None], ...]:
        self._plan(0.0, _SWEEP, None)
        return (*super()._handlers(), self._due, self._sweep, self._elsewhere, self._abort)

    def later(self, at: float, kind: int, what: object) -> None:
        """Something is due then."""
        self._plan(at, kind, what)

    # -- the pools' parts of the engines

    def _station(self, router: Router, row: int) -> Station:
        assert isinstance(router, Gate)
        return router.stations[row]

    def _row(self, station: Station) -> int:
        return station.number - self._gate_of[station.number].first

    def _plan_scrapes(self) -> None:
        for gate in self.gates:
            every = gate.plan.scrape
            if every:
                self._plan(every, _FORGET, gate)
                for station in gate.stations:
                    self._plan(self._random.random() * every, _ASK, (gate, station))

    def _ask(self, pair: tuple[Router, Station], now: float) -> None:
        gate, station = pair
        assert isinstance(gate, Gate)
        row, at = self._row(station), now + self.scenario.routers.scrape.delay
        self._plan(at, 3, (gate, row, station.load(at), gate.fleet.ours.item(row)))
        self._plan(now + gate.plan.scrape * self._random.uniform(0.9, 1.1), _ASK, pair)

    def _forget(self, router: Router, now: float) -> None:
        assert isinstance(router, Gate)
        router.fleet.forget_stale(now)
        self._plan(now + router.plan.scrape, _FORGET, router)

    # -- the way in

    def _arrive(self, number: int, now: float) -> None:
        way = self._ways[number]
        flight = Flight(number, self.asked.items[number].prompt_tokens, self._request(number, now), self.gates[0])
        self.now = now
        if not way:
            self._refuse(flight, "no_route")
            return
        self._offer(flight, 0, 0)

    def _request(self, number: int, now: float) -> Request:
        call, item = self.setting.calls[number], self.asked.items[number]
        tenant = item.tenant or "anonymous"
        guess = call.guess if call.guess > 0.0 else float(item.prompt_tokens)
        return Request(
            id=str(number), model=call.model, arrived=now, prompt=prompt_bytes(item, number),
            prompt_tokens=max(1.0, guess), output_tokens=self._lengths[call.model].expected(ROUTE, tenant),
            stream=call.stream, session=item.session, tenant=tenant, klass=call.klass, ttft_slo=call.ttft_slo,
            tpot_slo=call.tpot_slo, filler=call.filler,
        )  # fmt: skip

    def _offer(self, flight: Flight, first: int, aborted: int) -> None:
        """A place in the first of its pools, from number `first` on, that has one or lets it wait."""
        way, refused = self._ways[flight.number], ""
        for at in range(first, len(way)):
            gate = way[at]
            visitor = Visitor(self, flight, at, aborted)
            try:
                found = gate.desk.offer(visitor, flight.request, self.now)
            except NoEndpoint:
                continue
            except Refused as error:
                refused = refused or error.reason
                continue
            if isinstance(found, Reservation):
                self._go(visitor, found)
            else:
                visitor.waiting = found
                self._look_elsewhere(visitor)
            self._give_way(gate)
            gate.alarm.set(self.now)
            return
        self._refuse(flight, refused or "no_endpoint")

    def called(self, visitor: Visitor, reservation: Reservation | None, error: HeadwayError | None) -> None:
        """One that waited goes, or can wait no longer: then it may yet have a place elsewhere."""
        if reservation is not None:
            self._go(visitor, reservation)
        elif visitor.at + 1 < len(self._ways[visitor.flight.number]):
            self._offer(visitor.flight, visitor.at + 1, visitor.aborted)
        else:
            self._refuse(visitor.flight, error.reason if isinstance(error, Refused) else "no_endpoint")

    def _look_elsewhere(self, visitor: Visitor) -> None:
        if visitor.at == 0 and len(self._ways[visitor.flight.number]) > 1:
            after = max(LOOK_AGAIN, self.setting.calls[visitor.flight.number].after)
            self._plan(self.now + after, _ELSEWHERE, visitor)

    def _elsewhere(self, visitor: Visitor, now: float) -> None:
        """It still waits at its first pool: is there a free place in another?"""
        self.now = now
        waiting, way = visitor.waiting, self._ways[visitor.flight.number]
        if waiting is None:
            return
        for at in range(1, len(way)):
            other = Visitor(self, visitor.flight, at, visitor.aborted)
            if len(way[at].desk):
                continue
            try:
                found = way[at].desk.route(other, visitor.flight.request, now, may_hold=False)
            except NoEndpoint:
                continue
            if isinstance(found, Reservation):
                way[0].desk.leave(waiting)
                visitor.waiting = None
                self._go(other, found)
                return
        self._look_elsewhere(visitor)

    def _go(self, visitor: Visitor, reservation: Reservation) -> None:
        """A place was taken for it."""
        flight, gate = visitor.flight, self._ways[visitor.flight.number][visitor.at]
        flight.reservation, flight.router, flight.at = reservation, gate, self.now
        self.pool[flight.number] = gate.number
        if flight.request.filler:
            self._filling[reservation] = visitor
        overhead = gate.plan.overhead * max(0.1, 1.0 + self._draws[flight.number])
        self._plan(self.now + overhead, _REACH, flight)

    def _refuse(self, flight: Flight, reason: str) -> None:
        self.reason[flight.number] = reason
        self._close(flight, met=False)

    def chosen(self, flight: Flight, decision: Decision, snapshot: Snapshot) -> None:
        """For whoever wants to look on."""
        flight.picks += 1

    # -- filler gives way

    def _give_way(self, gate: Gate) -> None:
        for reservation in gate.desk.victims(self.now):
            visitor = self._filling.pop(reservation)
            flight, now = visitor.flight, self.now
            outcome = Outcome(flight.request, reservation.endpoint, reservation.row, 0, "cancelled", now - flight.at)
            reservation.settle(now, outcome)
            gate.policy.observe(outcome)
            gate.desk.ended(reservation, flight.request, outcome, now)
            self._gone.add(reservation)
            self._plan(now + LEAVE, _ABORT, visitor)

    def _abort(self, visitor: Visitor, now: float) -> None:
        """It has left its engine, and waits again."""
        self.now, flight = now, visitor.flight
        assert flight.reservation is not None
        station = self._station(flight.router, flight.reservation.row)
        generation = station.engine.find(flight.request.id)
        if generation is not None and generation.tag is flight:
            station.drop(generation)
            station.engine.abort(flight.request.id, now)
        again = Flight(flight.number, flight.prompt_tokens, flight.request, flight.router)
        self._offer(again, 0, visitor.aborted + 1)

    def _reach(self, flight: Flight, now: float) -> None:
        if flight.reservation not in self._gone:
            super()._reach(flight, now)

    # -- turns

    def _retry(self, router: Router, now: float) -> None:
        assert isinstance(router, Gate)
        if len(router.desk):
            self.now = now
            router.desk.changed()
            router.desk.serve(now)
            router.alarm.set(now)

    def _sweep(self, _: None, now: float) -> None:
        for gate in self.gates:
            self._retry(gate, now)
            self._give_way(gate)
        self._plan(now + SWEEP, _SWEEP, None)

    def _due(self, gate: Gate, now: float) -> None:
        self.now = now
        gate.alarm.rang(now)

    # -- what comes back

    def _note_first(self, flight: Flight, g: Generation, now: float) -> None:
        if flight.reservation not in self._gone:
            super()._note_first(flight, g, now)

    def _finish(self, g: Generation, now: float) -> None:
        flight: Flight = g.tag
        assert flight.reservation is not None
        if flight.reservation in self._gone:
            return
        self._filling.pop(flight.reservation, None)
        super()._finish(g, now)
        gate, request = flight.router, flight.request
        assert isinstance(gate, Gate)
        self._lengths[request.model].learn(ROUTE, request.tenant, len(request.prompt), flight.prompt_tokens,
                                           float(g.generated))  # fmt: skip
        gate.desk.ended(flight.reservation, request, gate.outcome, now)
        self.now = now


def _item(call: Call) -> Item:
    return Item(call.at, call.prompt_tokens, call.output_tokens, call.tenant, call.session, BLOCK, call.blocks)


def _group(engine: Engine) -> Group:
    return Group(engine.profile, 1, ((0.0, engine.pace),), (), engine.chunk, engine.max_seqs, engine.kv_tokens,
                 noise=engine.noise, max_concurrency=engine.limit)  # fmt: skip
