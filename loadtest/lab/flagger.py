"""The rival: a rule on the figures of one-minute windows, as progressive delivery controllers have it.

Flagger (fluxcd/flagger, its documentation and `pkg/controller/scheduler.go`) asks its metrics once an interval: is the
canary's p99 of the request duration at most so much, is its success rate at least so much? A check in which either
says no, or finds no values, counts; when so many have counted over the whole analysis the canary is rolled back. It
looks at the canary alone, at raw figures, and its thresholds are the operator's to guess.

Here it gets the best of everything: it acts at the end of the window and not one interval later, it sees the time to
the first token and streams that broke (a mesh sees neither, the status is 200), and its thresholds are not guessed but
tuned on runs of equal arms, for the number of checks that then finds the fault soonest. `ALONE` are rules that nobody
would run, since they look for one fault and are blind to the others: they show how much is left to gain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.lab.record import Floats

WINDOW = 60.0  # seconds
CHECKS = (1, 2, 3, 5, 10)  # failed ones until it is rolled back
METRICS = ("p99", "failures", "errors", "truncated")
"""Of the canary in a window: p99 of the time to the first token; shares of answers that failed (either way), of errors,
of broken streams."""
RULE = (("p99", "failures"),)
ALONE = tuple((metric,) for metric in METRICS)

Windows = dict[str, list[float]]
"""By metric, one value per window; NaN where there was no traffic."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """A rule: more than `most` (by metric) in `checks` windows. `alarms`: the share of false ones where tuned."""

    checks: int
    most: Mapping[str, float]
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


def rolled_back(run: Windows, checks: int, most: Mapping[str, float]) -> float:
    """Seconds from the beginning to the alarm; infinite if there is none. A window without values fails its check."""
    failed = 0
    for number, values in enumerate(zip(*(run[metric] for metric in most), strict=True), 1):
        failed += not all(value <= limit for value, limit in zip(values, most.values(), strict=True))
        if failed >= checks:
            return number * WINDOW
    return math.inf


def tune(equal: Sequence[Windows], metrics: Sequence[str], checks: int, alarms: int) -> Tuned:
    """The lowest thresholds with at most so many false alarms on runs of equal arms; each metric of several is exceeded
    in equally many windows there."""
    pooled = {metric: sorted((v for run in equal for v in run[metric] if not math.isnan(v)), reverse=True)
              for metric in metrics}  # fmt: skip

    def rule(place: int) -> Tuned:
        most = {metric: values[place] if values else math.inf for metric, values in pooled.items()}
        wrong = sum(rolled_back(run, checks, most) < math.inf for run in equal)
        return Tuned(checks, most, wrong / len(equal))

    low, high = 0, min(map(len, pooled.values())) - 1
    while low < high:  # the last place that is allowed
        middle = (low + high + 1) // 2
        low, high = (middle, high) if rule(middle).alarms * len(equal) <= alarms + 0.5 else (low, middle - 1)
    return rule(low)


def best(equal: Sequence[Windows], harmed: Sequence[Windows], alarms: int,
         kinds: Sequence[Sequence[str]] = RULE) -> tuple[Tuned, list[float]]:  # fmt: skip
    """Of all tuned rules of these kinds (metrics) the one with the lowest median time to roll back, and its times."""
    found = []
    for metrics in kinds:
        for checks in CHECKS:
            rule = tune(equal, metrics, checks, alarms)
            found.append((rule, [rolled_back(run, checks, rule.most) for run in harmed]))
    return min(found, key=lambda pair: (float(np.median(pair[1])), float(np.mean(np.minimum(pair[1], 1e6)))))
