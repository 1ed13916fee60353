"""One gateway of the lab: the production fleet table, predictor, output lengths and policy, fed as the gateway does it.

Nothing is decided here. What the gateway's proxy and relay do with sockets is done with events: look, pick and take in
one step; the first token, every sixteenth event and the end move the fleet's columns along; a plain answer is heard
only when it ends. Several of these share one set of engines and know of each other only what a scrape tells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random
from time import perf_counter

from gateway.core.fleet import Fleet
from gateway.core.health import Evidence, Rule
from gateway.core.lengths import Lengths
from gateway.core.prediction import Prior
from gateway.core.predictor import Predictor
from gateway.core.reservation import Reservation
from gateway.core.types import UNKNOWN, Decision, Endpoint, Outcome, Request
from loadtest.lab.holding import Holding
from loadtest.lab.scenario import Routers
from policies.picking import create

_PROGRESS = 16  # events between updates of what is left to come, as in the gateway
_STALE = 3.0  # scrape intervals after which a figure is no longer believed, as in the gateway
ROUTE = "lab"
UNSEEN = -1  # the residue of a flight of which nothing comes now


class Flight:
    """One request on its way, as its router sees it."""

    __slots__ = (
        "at", "cost", "held_until", "marked", "number", "picks", "prompt_tokens", "request", "reservation", "residue",
        "router",
    )  # fmt: skip

    def __init__(self, number: int, prompt_tokens: float, request: Request, router: Router):
        self.number = number
        self.prompt_tokens = prompt_tokens  # as the engine will count them
        self.request = request
        self.router = router
        self.reservation: Reservation | None = None
        self.at = 0.0  # dispatched
        self.held_until = math.inf
        self.marked = 0
        self.residue = UNSEEN  # at which of an engine's iterations, modulo tokens per event, its events come
        self.picks = 0
        self.cost = 0.0


class Router:
    """Call `place` for each request, then what comes of it. All times are the run's clock."""

    def __init__(self, number: int, endpoints: list[Endpoint], policy: str, options: Mapping[str, object], seed: int,
                 prior: Prior, known: Routers, tokens_per_event: int):  # fmt: skip
        self.number = number
        self.policy = create(policy, options)
        self.fleet = Fleet("lab", Rule(), Random(f"{seed} fleet {number}"), size=max(8, len(endpoints)))
        self.fleet.stale_after = _STALE * known.scrape.every if known.scrape.every else math.inf
        self.predictor: Predictor | None = None
        if self.policy.predicts:
            self.predictor = self.fleet.predictor = Predictor(prior)
        self.fleet.update(endpoints, 0.0, fresh=True)
        self.lengths = Lengths()
        self.holding: Holding[Flight] = Holding()
        self.outcome: Outcome | None = None  # the last one that was complete
        self._may_hold = known.may_hold
        self._tokens_per_event = tokens_per_event
        self._tells_cached = known.tells_cached
        if [self.fleet.row_of(endpoint.id) for endpoint in endpoints] != list(range(len(endpoints))):
            raise AssertionError("rows are not in the order of the engines")

    def expected_output(self, tenant: str) -> float:
        """What the gateway would expect of an answer."""
        return self.lengths.expected(ROUTE, tenant)

    def place(self, flight: Flight, now: float) -> bool:
        """Look, pick, take; False if it is held instead. Raises Refused."""
        fleet, request = self.fleet, flight.request
        may_wait = self._may_hold and now < flight.held_until
        if not may_wait:
            request = request._replace(may_wait=False)
        began = perf_counter()
        decision: Decision = self.policy.pick(request, fleet.snapshot(now))
        flight.picks += 1
        if may_wait and decision.wait > 0.0:
            flight.cost += perf_counter() - began
            flight.held_until = min(flight.held_until, now + decision.wait)
            self.holding.push(flight, request, flight.held_until)
            return False
        decision.taken()
        flight.reservation = fleet.reserve(decision, request, now)
        flight.cost += perf_counter() - began
        flight.at = now
        return True

    # -- what comes back

    def beat(self, row: int, now: float) -> None:
        """A token of some stream came from there."""
        if self.predictor is not None:
            self.predictor.beat(row, now)

    def first_token(self, flight: Flight, now: float) -> None:
        """The first token of a stream."""
        reservation = flight.reservation
        assert reservation is not None
        reservation.first_token(now)
        self.fleet.see(reservation.row, Evidence.SUCCESS, now)
        self.holding.wake()

    def progress(self, flight: Flight, generated: int, now: float) -> None:
        """So many tokens have been generated; of them the gateway counts events."""
        events = 1 + (generated - 1) // self._tokens_per_event
        if events - flight.marked >= _PROGRESS:
            assert flight.reservation is not None
            flight.marked = events
            flight.reservation.progress(events, now)

    def ended(self, flight: Flight, now: float, ttft: float, cached: float, generated: int) -> None:
        """The answer is complete. `ttft` is from the dispatch; of a plain answer only the end is heard."""
        reservation, request = flight.reservation, flight.request
        assert reservation is not None
        duration = now - flight.at
        if not request.stream:
            ttft = duration
            reservation.first_token(now)
            self.fleet.see(reservation.row, Evidence.SUCCESS, now)
        prompt = flight.prompt_tokens
        outcome = Outcome(request, reservation.endpoint, reservation.row, 200, "complete", duration, ttft, prompt,
                          cached if self._tells_cached else UNKNOWN, float(generated))  # fmt: skip
        self.outcome = outcome
        reservation.settle(now, outcome)
        self.policy.observe(outcome)
        self.lengths.learn(ROUTE, request.tenant, len(request.prompt), prompt, float(generated))
        self.holding.wake()

    def refused(self, flight: Flight, now: float, full: bool) -> None:
        """The engine would not have it: it is full, or the request can never fit."""
        reservation, request = flight.reservation, flight.request
        assert reservation is not None
        status, ended = (429, "saturated") if full else (400, "complete")
        outcome = Outcome(request, reservation.endpoint, reservation.row, status, ended, now - flight.at)
        reservation.settle(now, outcome)
        if full:
            self.fleet.saturated(reservation.row, now + 1.0)
        self.policy.observe(outcome)
        self.holding.wake()
