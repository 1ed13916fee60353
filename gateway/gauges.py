"""The gauges: what is true at the moment somebody asks, read from those who know it and kept nowhere.

An endpoint's gauges are gone with it. What is not known (NaN) has no sample.

Left to others: names and labels (`metric_table`), the text (`metrics`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from gateway.core.fleet import Fleet
from gateway.core.health import State
from gateway.jobs.model import Stats

Labels = tuple[str, ...]
Samples = list[tuple[Labels, float]]

STATES: Mapping[State, int] = {
    State.HEALTHY: 0, State.SUSPECT: 1, State.TRIAL: 2, State.EJECTED: 3, State.DOWN: 4,
}  # fmt: skip
"""What `headway_endpoint_state` says: the higher, the worse. An endpoint that leaves the pool is `LEAVING`."""
LEAVING = 5
PHASES = ("running", "paused", "promoted", "rolled_back")
"""What `headway_canary_phase` says: 0 to 3."""

# A fleet's columns by the gauge that shows them; what is NaN there has no sample.
_COLUMNS = (("waiting", "waiting"), ("running", "running"), ("kv_used", "kv_used"), ("inflight", "ours"))


class Queued(NamedTuple):
    """One class at one pool: how many wait, the oldest how long (s), what drains (tokens/s), and how many run."""

    waiting: int
    oldest: float
    drain: float
    inflight: int


class Filled(NamedTuple):
    """Filler at one pool: how many run, how many were stopped so far to make room, and what it does to the others.

    `ttft` and `tpot`: the others' mean beside filler over their mean without it; `correction`: measured over predicted
    effect; `use`: the share of a promise that filler may use up. NaN where nothing was seen.
    """

    inflight: int
    aborted: int
    ttft: float
    tpot: float
    correction: float
    use: float


@dataclass(slots=True)
class Gauges:
    """Where to look.

    `fleets`, `queues` (by class) and `fillers` are by pool; `at_risk`, by class, counts asynchronous requests that are
    expected to miss their deadline. `canaries`: share and phase, by model and rule. `counts` are counters that others
    keep: name, labels, value. `clock` is the fleets' clock.
    """

    fleets: Callable[[], Mapping[str, Fleet]] = dict
    queues: Callable[[], Mapping[str, Mapping[str, Queued]]] = dict
    fillers: Callable[[], Mapping[str, Filled]] = dict
    jobs: Callable[[], Stats | None] = lambda: None
    at_risk: Callable[[], Mapping[str, int]] = dict
    connections: Callable[[], int] | None = None
    log_dropped: Callable[[], int] = int
    clock: Callable[[], float] = time.monotonic
    canaries: Callable[[], Mapping[tuple[str, str], tuple[float, str]]] = dict
    counts: Callable[[], Iterable[tuple[str, Labels, float]]] = tuple

    def samples(self, name: str) -> Samples:
        """Of one metric of the table; none for a name that is not known here."""
        if name == "headway_connections" and self.connections is not None:
            return [((), float(self.connections()))]
        if name == "headway_canary_share":
            return [(key, share) for key, (share, _) in self.canaries().items()]
        if name == "headway_canary_phase":
            return [(key, float(PHASES.index(phase))) for key, (_, phase) in self.canaries().items()]
        if name == "headway_queue_requests":
            return self._queue_gauge()
        if name.startswith("headway_filler_"):
            return list(self._filler_gauge(name.removeprefix("headway_filler_")))
        if name == "headway_jobs":
            return self._jobs_gauge()
        if name == "headway_jobs_at_risk":
            return [((klass,), float(count)) for klass, count in self.at_risk().items()]
        if name == "headway_endpoint_pace":
            return list(self._pace_gauge())
        if name.startswith("headway_endpoint_"):
            return list(self._endpoint_gauge(name.removeprefix("headway_endpoint_")))
        if name.startswith("headway_prediction_"):
            return list(self._prediction_gauge(name.removeprefix("headway_prediction_")))
        return []

    def _pace_gauge(self) -> Iterator[tuple[Labels, float]]:
        for pool, fleet in self.fleets().items():
            if fleet.predictor is not None:
                paces = fleet.predictor.report().paces
                for row, endpoint in fleet.members():
                    if math.isfinite(paces.get(row, math.nan)):
                        yield (pool, endpoint.id), paces[row]

    def _prediction_gauge(self, what: str) -> Iterator[tuple[Labels, float]]:
        for pool, fleet in self.fleets().items():
            if fleet.predictor is None:
                continue
            report = fleet.predictor.report()
            if what == "calibrated":
                yield (pool,), float(report.calibrated)
            else:
                error = (("ttft", report.ttft_error), ("tpot", report.tpot_error))
                coverage = (("ttft", report.ttft_coverage), ("tpot", report.tpot_coverage))
                for of, value in error if what == "error" else coverage:
                    if math.isfinite(value):
                        yield (pool, of), value

    def _endpoint_gauge(self, what: str) -> Iterator[tuple[Labels, float]]:
        now, column = self.clock(), dict(_COLUMNS).get(what)
        for pool, fleet in self.fleets().items():
            for row, endpoint in fleet.members():
                if column is not None:
                    value = float(getattr(fleet, column)[row])
                elif what == "inflight_tokens":
                    value = float(fleet.prefill[row] + fleet.output[row])
                elif what == "age_seconds":
                    value = now - float(fleet.at[row])
                else:
                    value = LEAVING if fleet.is_leaving(row) else STATES[fleet.health(row).state]
                if math.isfinite(value):
                    yield (pool, endpoint.id), value

    def _queue_gauge(self) -> Samples:
        """A class that waits in several pools is summed."""
        waiting: dict[str, float] = {}
        for queues in self.queues().values():
            for klass, queue in queues.items():
                waiting[klass] = waiting.get(klass, 0.0) + queue.waiting
        return [((klass,), count) for klass, count in waiting.items()]

    def _filler_gauge(self, what: str) -> Iterator[tuple[Labels, float]]:
        for pool, filled in self.fillers().items():
            if what == "inflight":
                yield (pool,), float(filled.inflight)
                continue
            for of, ratio in (("ttft", filled.ttft), ("tpot", filled.tpot)):
                if math.isfinite(ratio):
                    yield (pool, of), ratio

    def _jobs_gauge(self) -> Samples:
        stats = self.jobs()
        if stats is None:
            return []
        found: dict[Labels, float] = {}
        for queue in stats.queues:
            for state, count in (("waiting", queue.waiting), ("claimed", queue.claimed)):
                found[queue.klass, state] = found.get((queue.klass, state), 0.0) + count
        return list(found.items())
