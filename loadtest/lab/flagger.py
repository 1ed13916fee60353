"""The rival: a rule on the figures of one-minute windows, as progressive delivery controllers have it.

Flagger (fluxcd/flagger, its documentation and `pkg/controller/scheduler.go`) asks its metrics once an interval: is the
canary's p99 of the request duration at most so much, is its success rate at least so much? A check that says no, or
finds no values, counts; when so many have counted over the whole analysis the canary is rolled back. It looks at the
canary alone, at raw figures, and its thresholds are the operator's to guess.

Here it gets the best of everything: it acts at the end of the window and not one interval later, it sees the time to
the first token and streams that broke (a mesh sees neither, the status is 200), and its thresholds are not guessed but
tuned on runs of equal arms, each metric alone with all of the false alarms that are allowed, for the number of checks
that then finds the fault soonest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.lab.record import Floats

WINDOW = 60.0  # seconds
CHECKS = (1, 2, 3, 5, 10)  # failed ones until it is rolled back
METRICS = ("p99", "errors", "truncated", "failures")
"""Of the canary in a window: p99 of the time to the first token; shares of errors, of broken streams, of both."""

Windows = dict[str, list[float]]
"""By metric, one value per window; NaN where there was no traffic."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """A rule: more than `most` of `metric` in `checks` windows. `alarms`: the share of false ones where tuned."""

    metric: str
    checks: int
    most: float
    alarms: float


def windows(at: Floats, seconds: Floats, failed: Floats, truncated: Floats, began: float, ended: float) -> Windows:
    """The canary's windows from `began` on; arrays with one value per answer of its: when it ended, its first token's
    time (NaN: none), 1 for an error, 1 for a broken stream. A window that is not over at `ended` does not count."""
    found: Windows = {metric: [] for metric in METRICS}
    for number in range(int((ended - began) // WINDOW)):
        start = began + number * WINDOW
        there = (at >= start) & (at < start + WINDOW)
        first = seconds[there & ~np.isnan(seconds)]
        found["p99"].append(float(np.percentile(first, 99.0)) if len(first) else math.nan)
        errors, broken = (float(values[there].mean()) if there.any() else math.nan for values in (failed, truncated))
        for metric, value in (("errors", errors), ("truncated", broken), ("failures", errors + broken)):
            found[metric].append(value)
    return found


def rolled_back(values: Sequence[float], checks: int, most: float) -> float:
    """Seconds from the beginning to the alarm; infinite if there is none. A window without values fails its check."""
    failed = 0
    for number, value in enumerate(values, 1):
        failed += not value <= most
        if failed >= checks:
            return number * WINDOW
    return math.inf


def tune(equal: Sequence[Windows], metric: str, checks: int, alarms: int) -> Tuned:
    """The lowest threshold with at most so many false alarms on runs of equal arms."""
    # Each run alarms for thresholds below its `checks`-th highest window.
    worst = sorted((_highest(run[metric], checks) for run in equal), reverse=True)
    most = worst[alarms] if alarms < len(worst) else -math.inf
    return Tuned(metric, checks, most, sum(value > most for value in worst) / len(worst))


def best(equal: Sequence[Windows], harmed: Sequence[Windows], alarms: int,
         metrics: Sequence[str] = METRICS) -> tuple[Tuned, list[float]]:  # fmt: skip
    """Of all tuned rules the one with the lowest median time to roll back, and its times (seconds)."""
    found = []
    for metric in metrics:
        for checks in CHECKS:
            rule = tune(equal, metric, checks, alarms)
            found.append((rule, [rolled_back(run[metric], checks, rule.most) for run in harmed]))
    return min(found, key=lambda pair: (float(np.median(pair[1])), float(np.mean(np.minimum(pair[1], 1e6)))))


def _highest(values: Sequence[float], place: int) -> float:
    """The `place`-th highest; a window without values is higher than all."""
    ordered = sorted((math.inf if math.isnan(value) else value for value in values), reverse=True)
    return ordered[place - 1] if place <= len(ordered) else -math.inf
