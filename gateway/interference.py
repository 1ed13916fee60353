"""Says in the log what filler did to the others, once a minute in which some of it ran.

The idea: whether a batch was felt is asked the day after, when gauges have long forgotten; the log keeps it. A pool in
which nothing was filled is no news.

Left to others: measuring it (`policies.admission.loop`), the gauges and `/api/queues` (`gauges`, `describe`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from gateway.gauges import Filled
from gateway.logs import Events

EVERY = 60.0  # seconds between two lines of a pool


class InterferenceLog:
    """`look` about once a second. Remembers when each pool was last spoken of, and how much was displaced by then."""

    def __init__(self, events: Events):
        self._events = events
        self._said: dict[str, tuple[float, int]] = {}

    def look(self, fillers: Mapping[str, Filled], now: float) -> None:
        """Log what is due."""
        self._said = {pool: said for pool, said in self._said.items() if pool in fillers}
        for pool, filled in fillers.items():
            at, displaced = self._said.get(pool, (-math.inf, 0))
            if now < at + EVERY or not (filled.inflight or filled.aborted > displaced):
                continue
            self._said[pool] = now, filled.aborted
            self._events.log("info", "filler", pool=pool, inflight=filled.inflight,
                             displaced=max(0, filled.aborted - displaced), slowdown_ttft=filled.ttft,
                             slowdown_tpot=filled.tpot, correction=filled.correction, use=filled.use)  # fmt: skip
