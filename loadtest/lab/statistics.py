"""How sure a figure is: means and paired ratios over seeds with their 95 % intervals, and when a bar counts as met.

Two policies are compared on the same requests, seed by seed, so what the seeds share cancels. Ratios are averaged as
logarithms (a ratio and its inverse are then equally far from 1) and the interval is Student's t (Gosset, Biometrika
1908), because a study has five seeds, not fifty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

ENOUGH = 5  # seeds
SLACK = 0.01  # a bar is met when the interval lies above the bar less one percent of it (at most 0.01)


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure over `count` seeds and where it lies with 95 % confidence; `low` and `high` are NaN for one seed."""

    value: float
    low: float
    high: float
    count: int

    @property
    def margin(self) -> float:
        """Half the interval's length."""
        return (self.high - self.low) / 2


NOTHING = Interval(math.nan, math.nan, math.nan, 0)


def mean(values: Sequence[float]) -> Interval:
    """The arithmetic mean of one value per seed; NaN values are left out."""
    kept = np.array([value for value in values if not math.isnan(value)])
    if not len(kept):
        return NOTHING
    centre = float(kept.mean())
    reach = _reach(kept)
    return Interval(centre, centre - reach, centre + reach, len(kept))


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """The geometric mean of ours/theirs, one pair per seed in the same order. Pairs with a NaN or a 0 are left out."""
    pairs = zip(ours, theirs, strict=True)
    logs = np.array([math.log(a / b) for a, b in pairs if a > 0 and b > 0])
    if not len(logs):
        return NOTHING
    centre, reach = float(logs.mean()), _reach(logs)
    return Interval(math.exp(centre), math.exp(centre - reach), math.exp(centre + reach), len(logs))


def _reach(values: np.ndarray) -> float:
    if len(values) < 2:
        return math.nan
    return t_quantile(0.975, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))


def is_at_least(interval: Interval, bar: float) -> bool | None:
    """Whether the interval lies above the bar - 1 %.

    None when that is open: the figure itself is there, and fewer seeds than `ENOUGH` make the interval too wide.
    """
    wanted = bar - SLACK * min(1.0, abs(bar))
    if interval.low >= wanted:
        return True
    return None if interval.count < ENOUGH and not interval.value < wanted else False


def is_at_most(interval: Interval, bar: float) -> bool | None:
    """Whether the interval lies below the bar + 1 %; None as in `is_at_least`."""
    wanted = bar + SLACK * min(1.0, abs(bar))
    if interval.high <= wanted:
        return True
    return None if interval.count < ENOUGH and not interval.value > wanted else False


@cache
def t_quantile(probability: float, freedom: int) -> float:
    """The value that Student's t with `freedom` degrees of freedom stays below with `probability` (above 0.5).

    Bisection on the integral of the density; exact to about 1e-6.
    """
    if not 0.5 < probability < 1 or freedom < 1:
        raise ValueError("probability must lie in (0.5, 1), freedom must be at least 1")
    low, high = 0.0, 1.0
    while _t_below(high, freedom) < probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if _t_below(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _t_below(value: float, freedom: int) -> float:
    # With x = sqrt(f) tan(u) the density becomes cos(u)^(f-1), smooth on a finite range.
    nodes, weights = np.polynomial.legendre.leggauss(64)
    angle = math.atan(value / math.sqrt(freedom))
    at = angle / 2 * (nodes + 1)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return 0.5 + scale * angle / 2 * float(weights @ np.cos(at) ** (freedom - 1))
