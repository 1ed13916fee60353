"""When a desk of the lab is looked at again: an event, where the gateway's has a timer (`gateway/admit.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from policies.admission.desk import Desk

SOONEST = 0.001  # seconds: as a timer of the gateway


class Alarm:
    """One desk's. `plan` puts an event at a time, at which `rang` is to be called."""

    def __init__(self, desk: Desk[Any], plan: Callable[[float], None]):
        self._desk = desk
        self._plan = plan
        self._at = math.inf

    def set(self, now: float) -> None:
        """Something has come of the desk: it may want to be asked sooner."""
        at = self._desk.next_at
        if at < self._at:
            self._at = at
            self._plan(max(at, now + SOONEST))

    def rang(self, now: float) -> None:
        """Its time has come."""
        self._at = math.inf
        self._desk.serve(now)
        self.set(now)
