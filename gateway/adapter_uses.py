"""Who uses which adapter where, and who waits for one: what may be unloaded, and what was used longest ago.

The idea: of one that was used only the time is kept, per endpoint. Endpoints come and go, so what is kept of those that
have left is thrown away whenever twice as much is kept as was needed before.

Left to others: loading and unloading (`adapters`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from gateway.core.fleet import Fleet

_LEAST = 256  # of so many nothing is thrown away
Place = tuple[str, str, str]
"""A pool, the id of an endpoint and an adapter's name."""


class Uses:
    """Of all adapters that are loaded on demand. `fleets` are those in use, by pool; `clock` is theirs."""

    def __init__(self, fleets: Callable[[], Mapping[str, Fleet]], clock: Callable[[], float]):
        self._fleets = fleets
        self._clock = clock
        self._used: dict[Place, float] = {}
        self._most = _LEAST
        self._running: Counter[Place] = Counter()
        self._wanted: Counter[str] = Counter()

    def wants(self, name: str) -> None:
        """A request for it has come."""
        self._wanted[name] += 1

    def leaves(self, name: str) -> None:
        """It has ended."""
        _less(self._wanted, name)

    def begins(self, place: Place) -> None:
        """A request was sent there."""
        self.note(place)
        self._running[place] += 1

    def ends(self, place: Place) -> None:
        """It has ended."""
        if self._running:
            _less(self._running, place)

    def note(self, place: Place) -> None:
        """It was used there just now, or loaded."""
        if place not in self._used and len(self._used) >= self._most:
            self._forget_those_that_left()
        self._used[place] = self._clock()

    def forget(self, place: Place) -> None:
        """It is not there any longer."""
        self._used.pop(place, None)

    def last(self, place: Place) -> float:
        """When it was last used there."""
        return self._used.get(place, 0.0)

    def is_running(self, place: Place) -> bool:
        return place in self._running

    def is_wanted(self, name: str) -> bool:
        """Whether somebody has come for it and has not ended."""
        return name in self._wanted

    def _forget_those_that_left(self) -> None:
        fleets = self._fleets()
        self._used = {
            (pool, endpoint, name): at for (pool, endpoint, name), at in self._used.items()
            if pool in fleets and fleets[pool].row_of(endpoint) is not None
        }  # fmt: skip
        self._most = max(_LEAST, 2 * len(self._used))


def _less(counts: Counter[Any], key: object) -> None:
    """One less; what is none is forgotten, since endpoints and names come and go."""
    if counts.get(key, 0) > 1:
        counts[key] -= 1
    else:
        counts.pop(key, None)
