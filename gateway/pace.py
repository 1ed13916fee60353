"""When to ask an endpoint again, and when to stop believing a page that does not move. Pure: no clock, no I/O.

Left to others: the scraping itself (`prober`).
"""

from __future__ import annotations

import math
import struct
from random import Random

from gateway.core.health import Evidence, State
from gateway.core.types import Load

JITTER = 0.1
# A scrape is slow when it takes longer than this share of the interval.
SLOW = 0.5
MAX_BACK_OFF = 16.0
# Every figure of a Load but the moment.
_FIGURES = struct.Struct("6d")


class Pace:
    """How long to wait between two scrapes: `every` with jitter, doubled up to 16 times while they fail or are slow."""

    def __init__(self, every: float, random: Random):
        self.every = every
        self.factor = 1.0
        self._random = random

    def first(self) -> float:
        """Seconds before the first one: endpoints that came together are not asked together."""
        return self._random.random() * self.every

    def after(self, ok: bool, took: float) -> float:
        """Seconds to wait after one that took so many."""
        if ok and took <= SLOW * self.every:
            self.factor = max(1.0, self.factor / 2.0)
        else:
            self.factor = min(MAX_BACK_OFF, self.factor * 2.0)
        wait = self.every * self.factor * self._random.uniform(1.0 - JITTER, 1.0 + JITTER)
        return max(wait - took, SLOW * self.every)


def until_next_check(every: float, evidence: Evidence, state: State) -> float:
    """Seconds from the start of a health check to the next one, jitter apart.

    One refused connection may be an accident, so it is asked again soon; one that is down is looked for more often.
    """
    if state is State.DOWN:
        return every * 0.5
    return every * 0.25 if evidence is Evidence.REFUSED else every


class Motion:
    """Tells a page that stands still. Only engines that say how many requests run can be caught at it."""

    def __init__(self, patience: float):
        self.patience = patience
        self._last = b""
        self._since = -math.inf
        self._ours: set[float] = set()

    def is_frozen(self, load: Load, ours: float) -> bool:
        """Whether nothing on the page has moved for `patience` seconds while our requests in flight there did."""
        # As bytes, because NaN is not equal to itself.
        said = _FIGURES.pack(load.waiting, load.running, load.kv_used, load.kv_capacity, load.prompt_tokens,
                             load.cached_tokens)  # fmt: skip
        if said != self._last:
            self._last, self._since, self._ours = said, load.at, {ours}
            return False
        self._ours.add(ours)
        return len(self._ours) > 1 and load.at - self._since > self.patience and load.running == load.running
