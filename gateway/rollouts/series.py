"""What was said of a canary, point by point, for its report: all of a rollout in bounded memory.

The idea: a rollout takes an hour or a month. Points are as dense as there is room for: when there are too many, every
other judgement goes, and from then on they are taken half as often. What happened (a step, a command, a rollback) is
never thinned, only bounded.

Left to others: the lines on disk, from which it is read back after a restart (`store`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MOST = 600
EVENTS = 200
SHORTEST, LONGEST = 5.0, 60.0  # seconds between two judgements that say the same
SOON = 2.0  # seconds between two that say something else

Point = Mapping[str, Any]


class Series:
    """Points in the order of time. `due` says whether it is time for another judgement."""

    def __init__(self, points: Iterable[Point] = ()):
        self._points: list[Point] = []
        self._events = self._others = 0
        self._said: object = None
        self._at = 0.0
        self._every = SHORTEST
        for point in points:
            self.add(point)

    def __iter__(self) -> Any:
        return iter(self._points)

    def __len__(self) -> int:
        return len(self._points)

    def due(self, at: float, said: object) -> bool:
        """Whether a judgement made at `at` is worth a point; `said` is what it comes to."""
        # (Before the last one: somebody has set the wall clock.)
        return not 0.0 <= at - self._at < (self._every if said == self._said else SOON)

    def noted(self, at: float, said: object) -> None:
        """A point was made of what was said."""
        self._at, self._said = at, said

    def add(self, point: Point) -> None:
        """Take one; thin out where there are too many."""
        self._points.append(point)
        if point["kind"] == "judgement":
            self._others += 1
            if self._others > MOST:
                self._thin()
        else:
            self._events += 1
            if self._events > EVENTS:
                self._points.remove(next(point for point in self._points if point["kind"] != "judgement"))
                self._events -= 1

    def _thin(self) -> None:
        kept: list[Point] = []
        number = 0
        for point in self._points:
            number += point["kind"] == "judgement"
            if point["kind"] != "judgement" or number % 2:
                kept.append(point)
        self._points = kept
        self._others = sum(point["kind"] == "judgement" for point in kept)
        self._every = min(LONGEST, 2.0 * self._every)
