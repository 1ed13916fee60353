"""Carries out a plan: bounds, searches, runs at a common rate, the curve of the picture; on a few processes at once.

A study is a list of small tasks whose figures are kept (see `memory`), so one that was interrupted goes on. The first
seed is searched from the fluid bound, the others from where the first one ended. Nothing is left out for looking bad:
every policy of the plan is measured on every seed.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from loadtest.lab.arrivals import draw
from loadtest.lab.bounds import cache_ceiling, fluid_capacity, pooled
from loadtest.lab.desked_study import Desks, study_desks
from loadtest.lab.figures import Figures, Slowed, Windows
from loadtest.lab.mixed_study import Studied, study_mixed
from loadtest.lab.plan import FLUID, POOLED, Plan
from loadtest.lab.scenario import Scenario
from loadtest.lab.search import Found, place_of, rate_at, search
from loadtest.lab.statistics import Interval, mean, paired_ratio
from loadtest.lab.trial import PLAIN, Choice, View, measured, watched

GOALS = {"g95": 0.95, "g99": 0.99}
START = 0.85  # of the fluid bound: where the first search begins
POOLED_CHOICE = Choice("round_robin", label=POOLED)
FIRST_SEED = 101  # not those that policies were tried on while they were written
CURVE_SEEDS = 2  # are enough for a line
SAMPLE = 20_000  # requests that the bounds are taken from

Say = Callable[[str], None]


@dataclass(slots=True)
class Row:
    """What one policy did: lists hold one value per seed, NaN where there is none."""

    choice: Choice
    goals: dict[str, list[float]] = field(default_factory=dict)
    common: list[Figures] = field(default_factory=list)
    curve: list[tuple[float, float]] = field(default_factory=list)  # rate and mean attainment
    windows: Windows | None = None

    def values(self, figure: str) -> list[float]:
        """A figure by its name, per seed."""
        if figure in self.goals:
            return self.goals[figure]
        return [figures.get(figure, math.nan) for figures in self.common]

    def mean(self, figure: str) -> Interval:
        """Its mean over seeds."""
        return mean(self.values(figure))


@dataclass(slots=True)
class Result:
    """A plan and what came of it. `rows` are the policies, ours first; `reference` is the pooled server."""

    plan: Plan
    rate: float  # the common one, requests/s
    fluid: float
    ceiling: float  # B4: share of prompt tokens
    unbounded: float  # the same with a cache without end
    rows: list[Row]
    reference: Row | None = None
    seconds: float = 0.0
    desks: Desks | None = None  # where a desk is studied: rows are then its loads
    mixed: Studied | None = None  # where a backlog runs beside the traffic: rows are then its gates

    def row(self, name: str) -> Row | None:
        """A policy's row, or the pooled server's."""
        rows = self.rows + ([self.reference] if self.reference else [])
        return next((row for row in rows if row.choice.name == name), None)

    def ratio(self, figure: str, ours: str, over: str) -> Interval:
        """Paired by seed; over the fluid bound, which has no seeds, every seed is divided by it."""
        mine = self.row(ours)
        if mine is None:
            return mean([])
        values = mine.values(figure)
        if over == FLUID:
            return paired_ratio(values, [self.fluid] * len(values))
        theirs = self.row(over)
        return paired_ratio(values, theirs.values(figure)) if theirs else mean([])


class Crew:
    """Does tasks on `jobs` processes, or here if there is one, and says when each is done."""

    def __init__(self, jobs: int, say: Say):
        self._pool = ProcessPoolExecutor(jobs) if jobs > 1 else None
        self._say = say

    def do(self, tasks: Iterable[tuple[str, Callable[..., object], tuple[object, ...]]]) -> list[object]:
        """The results in the order of the tasks (what is said of it, function, arguments)."""
        if self._pool is None:
            return [self._told(words, time.monotonic(), task(*given)) for words, task, given in tasks]
        began = time.monotonic()
        waiting: list[tuple[str, Future[object]]] = [(w, self._pool.submit(t, *given)) for w, t, given in tasks]
        return [self._told(words, began, future.result()) for words, future in waiting]

    def _told(self, words: str, began: float, result: object) -> object:
        self._say(f"{words} ({time.monotonic() - began:.0f} s)")
        return result

    def close(self) -> None:
        """Stop, without waiting for what was not begun."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def crew(jobs: int, say: Say) -> Iterator[Crew]:
    """A crew that is dismissed at the end, whatever that is."""
    made = Crew(jobs, say)
    try:
        yield made
    finally:
        made.close()


def default_jobs() -> int:
    """Two processes, or one where there is one core."""
    return min(2, os.cpu_count() or 1)


def complain(words: str) -> None:
    """Progress goes to standard error: what is asked for goes to standard output."""
    print(words, file=sys.stderr, flush=True)


# -- the tasks, which run in other processes


def find(scenario: Scenario, choice: Choice, seed: int, start: float, folder: Path | None, view: View) -> Found:
    """One seed's search. The pooled server is judged by other SLOs than it runs under, so it is never broken off."""
    may_break = view.judged_as is None
    return search(lambda rate: measured(scenario, choice, rate, seed, folder, may_break, view), start,
                  tuple(GOALS.values()))  # fmt: skip


# -- the study


def study(plan: Plan, workers: Crew, folder: Path | None) -> Result:
    """Carry out a plan. Raises ScenarioError if it cannot be run."""
    began = time.monotonic()
    if plan.fill.gates:
        return _mixed(plan, workers, folder)
    if plan.admission.loads:
        desks = study_desks(plan, seeds_of(plan), workers.do, folder)
        rows = [Row(choice, common=found) for choice, found in desks.rows]
        return Result(plan, desks.fluid, desks.fluid, 0.0, 0.0, rows, seconds=desks.seconds, desks=desks)
    scenario = plan.scenario
    fluid, ceiling, unbounded = bounds_of(scenario)
    rate = plan.study.rate or float(f"{plan.study.load * fluid:.4g}")
    result = Result(plan, rate, fluid, ceiling, unbounded, [Row(choice) for choice in plan.choices])
    wide = pooled(scenario)
    if wide is not None:
        result.reference = Row(POOLED_CHOICE)
    parties = [(row, scenario, view_of(plan)) for row in result.rows]
    if wide is not None and result.reference is not None:
        parties.append((result.reference, wide, View(judged_as=scenario)))
    if plan.study.search:
        _search(plan, parties, fluid, workers, folder)
    _at_common_rate(plan, parties, rate, workers, folder)
    if plan.study.search:
        _curves(plan, parties, workers, folder)
    _slow(plan, result, workers, folder)
    result.seconds = time.monotonic() - began
    return result


def _mixed(plan: Plan, workers: Crew, folder: Path | None) -> Result:
    done = study_mixed(plan, seeds_of(plan), workers.do, folder)
    rows = [Row(choice, common=found) for choice, found in done.rows]
    fluid = fluid_capacity(plan.scenario, draw(plan.scenario, 1.0, FIRST_SEED))
    return Result(plan, plan.study.rate, fluid, 0.0, 0.0, rows, seconds=done.seconds, mixed=done)


def bounds_of(scenario: Scenario) -> tuple[float, float, float]:
    """B1 (requests/s, with the hits of B4), B4, and B4 for a cache without end, from a long sample of requests."""
    longer = replace(scenario, requests=max(scenario.requests, SAMPLE))
    cold = fluid_capacity(scenario, draw(longer, 1.0, FIRST_SEED))
    # How many sessions are open at once, and so what a cache holds of them, depends on the rate.
    asked = draw(longer, cold, FIRST_SEED)
    ceiling = cache_ceiling(scenario, asked)
    return fluid_capacity(scenario, asked, ceiling.cached), ceiling.ratio, cache_ceiling(scenario, asked, True).ratio


Party = tuple[Row, Scenario, View]


def seeds_of(plan: Plan) -> range:
    """The seeds of a plan."""
    return range(FIRST_SEED, FIRST_SEED + plan.study.seeds)


def view_of(plan: Plan) -> View:
    """What else a plan wants of each run."""
    shift = round(plan.requests * plan.traffic.later_from) if plan.study.shift and plan.traffic.later else -1
    slow = slow_engine(plan.scenario)
    return View(shift=shift, slow=slow) if slow or shift >= 0 else PLAIN


def slow_engine(scenario: Scenario) -> Slowed | None:
    """The first engine whose pace changes, and when it does; None if none does."""
    number, engines = 0, sum(group.count for group in scenario.groups)
    for group in scenario.groups:
        if len(group.pace) > 1:
            until = group.pace[2][0] if len(group.pace) > 2 else math.inf
            return Slowed(number, engines, group.pace[1][0], until)
        number += group.count
    return None


def _search(plan: Plan, parties: Sequence[Party], fluid: float, workers: Crew, folder: Path | None) -> None:
    name, seeds = plan.name, seeds_of(plan)
    start = plan.study.start or START * fluid
    first = workers.do(
        (f"{name}: {row.choice.name}, seed {seeds[0]}", find, (scenario, row.choice, seeds[0], start, folder, view))
        for row, scenario, view in parties
    )
    later = []
    for (row, scenario, view), found in zip(parties, first, strict=True):
        assert isinstance(found, Found)
        _keep(row, found)
        near = found.goals[GOALS["g95"]]
        near = start if math.isnan(near) else near
        later += [(f"{name}: {row.choice.name}, seed {seed}", find, (scenario, row.choice, seed, near, folder, view))
                  for seed in seeds[1:]]  # fmt: skip
    done = iter(workers.do(later))
    for row, _, _ in parties:
        for _seed in seeds[1:]:
            found = next(done)
            assert isinstance(found, Found)
            _keep(row, found)


def _keep(row: Row, found: Found) -> None:
    for name, goal in GOALS.items():
        row.goals.setdefault(name, []).append(found.goals[goal])


def _at_common_rate(plan: Plan, parties: Sequence[Party], rate: float, workers: Crew, folder: Path | None) -> None:
    tasks = [(f"{plan.name}: {row.choice.name}, seed {seed} at {rate:g}/s", measured,
              (scenario, row.choice, rate, seed, folder, False, view))
             for row, scenario, view in parties for seed in seeds_of(plan)]  # fmt: skip
    done = iter(workers.do(tasks))
    for row, _, _ in parties:
        for _seed in seeds_of(plan):
            figures = next(done)
            assert isinstance(figures, dict)
            row.common.append(figures)


def _curves(plan: Plan, parties: Sequence[Party], workers: Crew, folder: Path | None) -> None:
    """The lines of the picture, at rates that all policies share."""
    ours = parties[0][0].goals["g95"][0]
    if math.isnan(ours):
        return
    rates = [rate_at(place_of(share * ours)) for share in plan.study.curve]
    drawn = [party for party in parties if party[0].choice is not POOLED_CHOICE]
    seeds = seeds_of(plan)[:CURVE_SEEDS]
    tasks = [(f"{plan.name}: {row.choice.name}, seed {seed} at {rate:g}/s", measured,
              (scenario, row.choice, rate, seed, folder, False, view))
             for row, scenario, view in drawn for rate in rates for seed in seeds]  # fmt: skip
    done = iter(workers.do(tasks))
    for row, _, _ in drawn:
        for rate in rates:
            shares = [figures["attainment"] for _ in seeds if isinstance(figures := next(done), dict)]
            row.curve.append((rate, sum(shares) / len(shares)))


def _slow(plan: Plan, result: Result, workers: Crew, folder: Path | None) -> None:
    """Beside a fleet with a slow engine: the fleet without that engine, at the same rate; and our run over time."""
    slow = slow_engine(plan.scenario)
    if slow is None:
        return
    smaller = without(plan.scenario, slow)
    view = View(slow=replace(slow, engine=0, engines=slow.engines - 1))
    tasks = [(f"{plan.name}: {row.choice.name}, seed {seed} without the slow one", measured,
              (smaller, row.choice, result.rate, seed, folder, False, view))
             for row in result.rows for seed in seeds_of(plan)]  # fmt: skip
    done = iter(workers.do(tasks))
    for row in result.rows:
        for figures in row.common:
            alone = next(done)
            assert isinstance(alone, dict)
            for name in ("slow_ttft_p95", "first_ttft_p95"):
                figures[f"{name}_ratio"] = figures[name] / alone[name] if alone[name] else math.nan
    shown = workers.do(
        (f"{plan.name}: {row.choice.name} over time", watched,
         (plan.scenario, row.choice, result.rate, FIRST_SEED, slow, folder))
        for row in result.rows
    )  # fmt: skip
    for row, seen in zip(result.rows, shown, strict=True):
        assert isinstance(seen, Windows)
        row.windows = seen


def without(scenario: Scenario, slow: Slowed) -> Scenario:
    """The fleet without its slow engine."""
    groups, first = [], 0
    for group in scenario.groups:
        here = first <= slow.engine < first + group.count
        if not here or group.count > 1:
            groups.append(replace(group, count=group.count - 1) if here else group)
        first += group.count
    return replace(scenario, groups=tuple(groups))
