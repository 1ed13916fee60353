"""A rollout in virtual time: two pools of simulated engines, and everything between them that production uses.

The idea: whether a canary is judged fairly can only be seen where the truth is known. So the arms are drawn by the
production router, each pool has the production fleet, predictor and policy, residuals come from the production
`Frozen`, and the production judge looks after every single answer and moves the share. Only engines, clock and faults
are simulated. What makes it hard is real: the rate swings, the mix of prompts drifts, a few requests fail on either
side, and at small shares the canary's engines are nearly idle while the others are busy.

Left to others: what is run (`canary_trial`), many runs and what they say (`canary_study`), the rival (`flagger`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from gateway.core.frozen import Frozen
from gateway.core.prediction import Prior
from gateway.core.routes import Arm, Route
from gateway.core.types import UNKNOWN, Endpoint, Outcome
from loadtest.lab.arrivals import Asked
from loadtest.lab.canary_trial import Trial, drifting
from loadtest.lab.canary_watch import Watch
from loadtest.lab.cluster import Station
from loadtest.lab.router import Flight, Router
from loadtest.lab.simulation import Simulation
from policies.routing import Asked as Question
from policies.routing import Router as Arms
from policies.routing.judge import Seen

POLICY = "predicted_latency"
MODEL, RULE = "lab", "rollout"
STABLE, CANARY = 0, 1
ARMS = ("stable", "canary")
FAILS_AFTER = 0.02  # seconds until an error comes back
USERS = 400
LONGEST = 600  # tokens; an answer that has more is taken to have come to its limit
_LATE_FIRST, _LATE_END, _ERROR = 7, 8, 9
_DRAWS = 91


class Observation(NamedTuple):
    """One answer: what the judge was told, and the raw seconds that a rule without a predictor would look at."""

    seen: Seen
    first: float  # to the first token


class Pool(Router):
    """An arm's own fleet, and what is wrong with it."""

    def __init__(self, run: Rollout, arm: int, stations: list[Station], seed: int):
        endpoints: list[Endpoint] = [station.endpoint() for station in stations]
        super().__init__(arm, endpoints, POLICY, {}, seed, Prior(), run.scenario.routers, 1)
        self.stations = stations
        self.faults = run.trial.wrong[arm]
        self._run = run
        self._extra: dict[int, float] = {}  # how much later everything of a flight comes, by its number

    def first_token(self, flight: Flight, now: float) -> None:
        """With `late`, everything of this answer comes later by a share of what its first token took."""
        extra = self.faults.late * (now - flight.at)
        if extra:
            self._extra[flight.number] = extra
            self._run.later(now + extra, _LATE_FIRST, flight)
        else:
            super().first_token(flight, now)

    def late_first(self, flight: Flight, now: float) -> None:
        """The first token that was held back."""
        super().first_token(flight, now)

    def ended(self, flight: Flight, now: float, ttft: float, cached: float, generated: int) -> None:
        """The engine is done with it."""
        extra = self._extra.pop(flight.number, 0.0)
        if extra:
            self._run.later(now + extra, _LATE_END, (flight, ttft + extra, cached, generated))
        else:
            self.end(flight, now, ttft, cached, generated)

    def end(self, flight: Flight, now: float, ttft: float, cached: float, generated: int) -> None:
        """The answer is whole, or breaks off."""
        if self._run.breaks[flight.number]:
            self.settle(flight, now, 200, ttft, float(generated))
            return
        super().ended(flight, now, ttft, cached, generated)
        assert self.outcome is not None
        self._run.saw(flight, self.outcome, now)

    def settle(self, flight: Flight, now: float, status: int, ttft: float = UNKNOWN, tokens: float = UNKNOWN) -> None:
        """No whole answer."""
        reservation = flight.reservation
        assert reservation is not None
        outcome = Outcome(flight.request, reservation.endpoint, reservation.row, status, "upstream_failed",
                          now - flight.at, ttft, output_tokens=tokens)  # fmt: skip
        reservation.settle(now, outcome)
        self.policy.observe(outcome)
        self.holding.wake()
        self._run.saw(flight, outcome, now)


class Rollout(Simulation):
    """The state of one run; `run` it once, then look at the rest.

    `see` is called with each observation of either arm from the canary's beginning on.
    """

    def __init__(self, trial: Trial, seed: int, see: Callable[[Observation], None] | None = None):
        self.trial = trial
        super().__init__(trial.scenario, trial.rate, POLICY, {}, seed, 0.0)
        stable = trial.stable.count
        parts = self.stations[:stable], self.stations[stable:]
        self.pools = [Pool(self, arm, part, seed) for arm, part in enumerate(parts)]
        self.routers = [*self.pools]
        size = len(self.asked)
        draws = np.random.default_rng([seed, _DRAWS])
        self._luck, self._cut = draws.random((2, size)).tolist()
        self._user = draws.integers(1, USERS + 1, size).tolist()
        self._arm = [STABLE] * size
        self._shares = [0.0] * size  # of the canary, when the arm was drawn
        self.breaks = [False] * size
        self._fails = [False] * size
        self._see = see
        self.frozen: Frozen | None = None
        self.began = math.inf
        self.watch: Watch | None = None
        arms = Arm(ARMS[STABLE], ARMS[STABLE]), Arm(ARMS[CANARY], ARMS[CANARY])
        route = Route(arms, RULE, canary=trial.rule)
        self._draws_arms = Arms(MODEL, [route], float(draws.random()), lambda _: self.share)
        self.share = 0.0

    def _drawn(self, rate: float, seed: int) -> Asked:
        return drifting(self.scenario, self.trial.drift, rate, seed)

    def _handlers(self) -> tuple[Callable[[Any, float], None], ...]:
        return (*super()._handlers(), self._late_first, self._late_end, self._error)

    def later(self, at: float, kind: int, what: object) -> None:
        """For a pool that holds something back."""
        self._plan(at, kind, what)

    # -- which arm, and what will go wrong

    def _arrive(self, number: int, now: float) -> None:
        if number == self.trial.warm_up:
            self._begin(now)
        if number >= self.trial.warm_up:
            self._shares[number] = self.share
            self._arm[number] = self._choose(number, now)
        faults, luck = self.trial.wrong[self._arm[number]], self._luck[number]
        self._fails[number] = luck < faults.errors
        if faults.errors <= luck < faults.errors + faults.truncated:
            item = self.asked.items[number]
            self.breaks[number] = True
            self.asked.items[number] = replace(item, output_tokens=max(1, int(self._cut[number] * item.output_tokens)))
        super()._arrive(number, now)

    def _begin(self, now: float) -> None:
        self.began = now
        self.frozen = Frozen.of(*(pool.predictor for pool in self.pools))
        self.watch = Watch(self.trial, now)
        self.share = self.watch.share(now)

    def _choose(self, number: int, now: float) -> int:
        item = self.asked.items[number]
        question = Question(MODEL, "/v1/chat/completions", item.tenant, "", "", float(item.prompt_tokens), True, "",
                            str(self._user[number]), lambda _: None, now)  # fmt: skip
        return ARMS.index(self._draws_arms.route(question).arm)

    def _router(self, number: int) -> Router:
        return self.pools[self._arm[number]]

    def _station(self, router: Router, row: int) -> Station:
        return self.pools[router.number].stations[row]

    def _row(self, station: Station) -> int:
        stable = self.trial.stable.count
        return station.number - stable if station.number >= stable else station.number

    # -- what comes of it

    def _reach(self, flight: Flight, now: float) -> None:
        if self._fails[flight.number]:
            self._plan(now + FAILS_AFTER, _ERROR, flight)
        else:
            super()._reach(flight, now)

    def _error(self, flight: Flight, now: float) -> None:
        self.pools[flight.router.number].settle(flight, now, 500)
        self._close(flight, met=False)
        self._retry(flight.router, now)

    def _late_first(self, flight: Flight, now: float) -> None:
        self.pools[flight.router.number].late_first(flight, now)

    def _late_end(self, what: tuple[Flight, float, float, int], now: float) -> None:
        flight, ttft, cached, generated = what
        self.pools[flight.router.number].end(flight, now, ttft, cached, generated)

    def saw(self, flight: Flight, outcome: Outcome, now: float) -> None:
        """A request of either arm has ended: the judge looks. What was sent before the canary began is not its."""
        number, is_canary = flight.number, flight.router.number == CANARY
        if number < self.trial.warm_up:
            return
        assert flight.reservation is not None and self.frozen is not None and self.watch is not None
        breaks = self.breaks[number]
        left = self.frozen.residual(flight.reservation, outcome, stable=not is_canary)
        is_whole, tokens = outcome.ended == "complete", outcome.output_tokens
        finish = ("length" if tokens > LONGEST else "stop") if is_whole else ""
        seen = Seen(now, is_canary, outcome.endpoint.id, not is_whole and not breaks, breaks, left.ttft, left.tpot,
                    tokens if is_whole else UNKNOWN, finish, self._user[number], self._shares[number])  # fmt: skip
        if self._see is not None:
            self._see(Observation(seen, outcome.ttft))
        self.watch.see(seen)
        self.share = self.watch.share(now)
        if self.watch.is_over:
            self._open = 0
