"""Says in the log when a pool's predictions become good enough to pick by, and when they no longer are.

The idea: a predictor judges itself; an operator wants to hear of a change, once, with the figures it was judged by. A
predictor that has only just begun is no news; one that has seen enough and is still not good is.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.core.fleet import Fleet
from gateway.core.intervals import FEW
from gateway.logs import Events

ENOUGH = 200  # predictions compared, from which a predictor that is not calibrated is worth an alarm


class CalibrationWatch:
    """`look` at the fleets about once a second. Remembers what it said last of each pool."""

    def __init__(self, events: Events):
        self._events = events
        self._said: dict[str, bool] = {}

    def look(self, fleets: Mapping[str, Fleet]) -> None:
        """Log what has changed since the last look."""
        for pool in self._said.keys() - fleets.keys():
            del self._said[pool]
        for pool, fleet in fleets.items():
            if fleet.predictor is None:
                self._said.pop(pool, None)
                continue
            is_good = fleet.predictor.calibrated
            if is_good is self._said.get(pool):
                continue
            report = fleet.predictor.report()
            if pool not in self._said and report.samples < (FEW if is_good else ENOUGH):
                continue
            self._said[pool] = is_good
            level, event = ("info", "predictor_calibrated") if is_good else ("warning", "predictor_uncalibrated")
            self._events.log(level, event, pool=pool, samples=report.samples, ttft_error=report.ttft_error,
                             ttft_coverage=report.ttft_coverage, tpot_error=report.tpot_error,
                             tpot_coverage=report.tpot_coverage)  # fmt: skip
