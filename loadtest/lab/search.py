"""The highest rate at which enough requests keep their SLO: g95 and g99, found per seed with few runs.

All rates lie on one grid, each 1 % above the one before, so that searches of several goals, seeds and policies meet at
the same runs. Between a rate that keeps the goal and one that does not, the next is where a line through their
attainments (as log odds, in which a knee is nearly straight) crosses it; the answer is read off that line between two
neighbours of the grid. The same seed draws the same requests for every policy and rate, so ratios per seed are paired.
How a rate is measured is the
caller's; it may break off a run that stays far below every goal, which changes no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from loadtest.lab.figures import Figures

STEP = 1.01  # between neighbours of the grid
FIRST_STRIDE = 4  # grid points; doubled until the goal is between two runs
LOWEST, HIGHEST = -460, 1160  # 0.01 to 100,000 requests/s
_EVEN = 1e-4  # attainment is kept so far from 0 and 1 before its odds are taken

Measure = Callable[[float], Figures]
"""Figures at a rate; `attainment` among them, and `complete` is 0 where the run was broken off."""


@dataclass(frozen=True, slots=True)
class Found:
    """One seed's search: g per goal (NaN where the goal is met nowhere, or everywhere), and all runs by their rate."""

    goals: dict[float, float]
    runs: dict[float, Figures]


def rate_at(place: int) -> float:
    """The rate of a grid point, requests/s, to five figures."""
    return float(f"{STEP**place:.5g}")


def place_of(rate: float) -> int:
    """The grid point nearest to a rate."""
    return round(math.log(rate) / math.log(STEP))


def search(measure: Measure, start: float, goals: tuple[float, ...] = (0.95, 0.99)) -> Found:
    """The highest rate that keeps each goal, by runs that begin at `start` requests/s."""
    runs: dict[int, Figures] = {}

    def look(place: int) -> float:
        if place not in runs:
            runs[place] = measure(rate_at(place))
        return runs[place]["attainment"]

    at = place_of(start)
    found: dict[float, float] = {}
    for goal in sorted(goals):
        found[goal], at = _one_goal(look, runs, at, goal)
    return Found(found, {rate_at(place): runs[place] for place in sorted(runs)})


def _one_goal(look: Callable[[int], float], runs: dict[int, Figures], start: int, goal: float) -> tuple[float, int]:
    """The rate that just keeps the goal, and the grid point from which to look for the next, higher goal."""
    low, high = _bracket(look, runs, start, goal)
    if low is None or high is None:
        return math.nan, start
    while high - low > 1:
        middle = _crossing(runs, low, high, goal)
        place = min(max(round(middle), low + 1), high - 1)
        if look(place) >= goal:
            low = place
        else:
            high = place
    exact = min(max(_crossing(runs, low, high, goal), float(low)), float(high))
    return STEP**exact, low


def _bracket(
    look: Callable[[int], float], runs: dict[int, Figures], start: int, goal: float
) -> tuple[int | None, int | None]:
    """A grid point that keeps the goal and a higher one that does not; None where there is none."""
    look(start)
    stride = FIRST_STRIDE
    while True:
        # Attainment need not fall with every step: what counts is the lowest rate that fails, as for an operator.
        high = min((place for place in runs if look(place) < goal), default=None)
        low = max((place for place in runs if look(place) >= goal and (high is None or place < high)), default=None)
        if low is not None and high is not None:
            return low, high
        ends = min(runs) - stride if low is None else max(runs) + stride
        if not LOWEST <= ends <= HIGHEST:
            return low, high
        look(ends)
        stride *= 2


def _crossing(runs: dict[int, Figures], low: int, high: int, goal: float) -> float:
    """Where the line through two runs crosses the goal, as a grid point; their middle where one was broken off."""
    if not runs[high].get("complete", 1.0) and high - low > 1:
        return (low + high) / 2
    above, below, wanted = (_odds(value) for value in (runs[low]["attainment"], runs[high]["attainment"], goal))
    return low + (high - low) * (above - wanted) / max(above - below, 1e-9)


def _odds(share: float) -> float:
    inside = min(max(share, _EVEN), 1.0 - _EVEN)
    return math.log(inside / (1.0 - inside))
