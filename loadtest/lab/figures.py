"""The figures of one run: a flat mapping of names to numbers, small enough to keep for every run of a study.

Attainment is the share of requests that met both their TTFT and their mean-TPOT SLO, among those that an idle engine
could have served so (B0) and that came after the warm-up. The predictor is judged on streams only, because of a plain
answer nobody sees the first token; TTFT is judged from the dispatch, as it was predicted. Figures over time are kept in
`Windows`, for those who ask how long something took.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from loadtest.lab.record import Flags, Floats, Run

Figures = dict[str, float]
WINDOW = 2.0  # seconds


def figures(run: Run) -> Figures:
    """Everything that the study's tables and bars may ask of a run. Seconds, shares (0 to 1) and counts."""
    counted = run.counted
    found: Figures = {
        "attainment": run.attainment,
        "complete": float(run.complete),
        "refused": _share((run.engine < 0)[run.measured]),
        "held": _share((run.held > 0)[run.measured]),
        "hit": _hit(run),
        "cost": _quantile(run.cost, 50),
        "cost_p99": _quantile(run.cost, 99),
        "preemptions": float(run.preemptions),
        "feasible": _share(run.feasible[run.measured]),
    }
    for name, values in (("ttft", run.ttft), ("tpot", run.tpot)):
        for percent in (50, 95, 99):
            found[f"{name}_p{percent}"] = _quantile(values[counted], percent)
    found |= _errors(run)
    return found


def _share(flags: Flags) -> float:
    return float(flags.mean()) if len(flags) else math.nan


def _quantile(values: Floats, percent: float) -> float:
    kept = values[np.isfinite(values)]
    return float(np.percentile(kept, percent)) if len(kept) else math.nan


def _hit(run: Run) -> float:
    seen = run.measured & (run.cached >= 0)
    total = float(run.prompt[seen].sum())
    return float(run.cached[seen].sum()) / total if total else math.nan


# -- the predictor


def _errors(run: Run) -> Figures:
    """How far the predictions were off, and how often what happened lay in the 90 % interval."""
    number = np.arange(len(run.arrived))
    first, pace = _Judged.ttft(run), _Judged.tpot(run)
    found = {
        "ttft_mape": first.error(run.measured),
        "ttft_mape_100": first.error(number < 100),
        "ttft_mape_500": first.error(number >= 500),
        "ttft_coverage": first.coverage(number >= 500),
        "tpot_mape": pace.error(number >= 500),
        "tpot_coverage": pace.coverage(number >= 500),
    }
    return found


@dataclass(frozen=True, slots=True)
class _Judged:
    """What was predicted (value, low, high) beside what happened, and for which requests both are known."""

    actual: Floats
    predicted: Floats
    known: Flags

    @classmethod
    def ttft(cls, run: Run) -> _Judged:
        return cls._of(run.ttft - run.held, run.predicted[:3], run.stream)

    @classmethod
    def tpot(cls, run: Run) -> _Judged:
        return cls._of(run.tpot, run.predicted[3:], run.stream)

    @classmethod
    def _of(cls, actual: Floats, predicted: Floats, heard: Flags) -> _Judged:
        known: Flags = heard & np.isfinite(actual) & (actual > 0) & np.isfinite(predicted[0])
        return cls(actual, predicted, known)

    def error(self, where: Flags) -> float:
        """The mean absolute error as a share of what happened."""
        used = where & self.known
        actual = self.actual[used]
        return float(np.abs(self.predicted[0][used] / actual - 1.0).mean()) if len(actual) else math.nan

    def coverage(self, where: Flags) -> float:
        """The share of what happened that lay between low and high."""
        used = where & self.known & np.isfinite(self.predicted[1]) & np.isfinite(self.predicted[2])
        low, high = self.predicted[1][used], self.predicted[2][used]
        return _share((self.actual[used] >= low) & (self.actual[used] <= high))


def shifted(run: Run, first: int) -> Figures:
    """The TTFT error around a shift of the workload at request `first`: in the 300 requests after it, in the 300 after
    those, and steadily (from 1,000 requests after it on)."""
    judged, number = _Judged.ttft(run), np.arange(len(run.arrived)) - first
    steady = judged.error(number >= 1000)
    after = judged.error((number >= 300) & (number < 600))
    return {
        "shift_before": judged.error((number < 0) & (number >= -1000)),
        "shift_during": judged.error((number >= 0) & (number < 300)),
        "shift_after": after,
        "shift_steady": steady,
        "shift_ratio": after / steady if steady > 0 else math.nan,
    }


# -- over time


@dataclass(frozen=True, slots=True)
class Windows:
    """Per window of `WINDOW` seconds of arrival: the p95 of TTFT (s), requests, and requests sent to one engine."""

    ttft_p95: list[float]
    requests: list[int]
    sent: list[int]

    def traffic(self, together: int) -> list[float]:
        """The engine's share of the requests of so many windows at a time; what is left over at the end is left out."""
        starts = range(0, len(self.sent) - together + 1, together)
        return [sum(self.sent[i : i + together]) / max(1, sum(self.requests[i : i + together])) for i in starts]


def windows(run: Run, engine: int) -> Windows:
    """The run in windows; `engine` is the one whose traffic is counted."""
    place = (run.arrived / WINDOW).astype(int)
    count = int(place.max()) + 1
    edges = np.searchsorted(place, np.arange(count + 1))
    parts = [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]
    return Windows(
        [_quantile(run.ttft[part], 95) for part in parts],
        [part.stop - part.start for part in parts],
        [int((run.engine[part] == engine).sum()) for part in parts],
    )


@dataclass(frozen=True, slots=True)
class Slowed:
    """One engine of the fleet is slower than the others from `since` to `until` (seconds of the run)."""

    engine: int
    engines: int
    since: float
    until: float
    settle: float = 10.0  # seconds that are given to notice it


def slowed(run: Run, what: Slowed) -> Figures:
    """What a slow engine did to the pool, and what was done about it.

    `slow_ttft_p95`: the pool's p95 after `settle` seconds; `less_traffic`: by how much its traffic is less than the
    mean of the others' meanwhile; `oscillation`: how much its share moves between windows of 5 s, against the others';
    `restored`: its traffic from `settle` after its recovery on, as a share of the others' mean.
    """
    at = run.arrived
    during = (at >= what.since + what.settle) & (at < what.until)
    later = at >= what.until + what.settle
    return {
        "slow_ttft_p95": _quantile(run.ttft[during], 95),
        "first_ttft_p95": _quantile(run.ttft[(at >= what.since) & (at < what.since + what.settle)], 95),
        "less_traffic": 1.0 - _relative(run, what.engine, what.engines, during),
        "oscillation": _oscillation(run, what.engine, what.engines, during),
        "restored": _relative(run, what.engine, what.engines, later),
    }


def _relative(run: Run, engine: int, engines: int, when: Flags) -> float:
    counts = np.bincount(run.engine[when & (run.engine >= 0)], minlength=engines)
    others = float(counts.sum() - counts[engine]) / max(1, engines - 1)
    return float(counts[engine]) / others if others else math.nan


def _oscillation(run: Run, engine: int, engines: int, when: Flags) -> float:
    used = when & (run.engine >= 0)
    if not used.any():
        return math.nan
    place = ((run.arrived[used] - run.arrived[used].min()) / 5.0).astype(int)
    table = np.zeros((int(place.max()) + 1, engines))
    np.add.at(table, (place, run.engine[used]), 1)
    table = table[table.sum(axis=1) > 0.5 * np.median(table.sum(axis=1))]
    spread = (table / table.sum(axis=1, keepdims=True)).std(axis=0)
    others = float(np.delete(spread, engine).mean())
    return float(spread[engine]) / others if others else math.nan
