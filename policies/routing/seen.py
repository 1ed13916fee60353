"""What a judge is told of one request, and what is usual of the stable arm's.

The idea: logarithms of latency are cut where the stable arm's usual spread ends, far enough out that a slow arm still
shows, so that no single request decides. Where "grossly late" begins is the same arm's business.

Left to others: how requests are set side by side (`tally`).
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np

USUAL = 32  # of the stable arm's values before the usual spread is known
KEPT = 512
FRESH = 64  # values after which it is looked at again
CUT = 3.0  # usual spreads
LEAST_CUT = math.log(2.5)
GROSS, GROSS_SPREADS = math.log(2.0), 2.0  # a first token is grossly late beyond both


class Seen(NamedTuple):
    """One request of either arm, ended. Requests that were forced onto an arm, and copies, are not for judging."""

    at: float
    """Seconds, when it ended; any clock that does not go back."""
    is_canary: bool
    endpoint: str
    failed: bool = False
    """Its server failed it before, or without, a whole answer. What the client did wrong is no failure."""
    truncated: bool = False
    """A stream that began and broke off."""
    ttft: float = math.nan
    """log(observed / predicted) by a predictor that does not change; NaN: not known."""
    tpot: float = math.nan
    tokens: float = math.nan
    """Length of the answer."""
    finish: str = ""
    """`stop`, `length`, `tool_calls` …; empty: not known."""
    user: int = 0
    """Hash of whom it is from; 0: nobody known."""
    share: float = math.nan
    """The canary's share when the arm was drawn; NaN: not known, then it is taken from the traffic alone."""


class Usual:
    """What is usual of one figure in the stable arm: the middle and the spread of the last few hundred."""

    __slots__ = ("_fresh", "_kept", "middle", "spread")

    def __init__(self) -> None:
        self._kept: deque[float] = deque(maxlen=KEPT)
        self._fresh = 0
        self.middle, self.spread = math.nan, math.nan

    def see(self, value: float) -> None:
        self._kept.append(value)
        self._fresh += 1
        if self._fresh >= (USUAL if math.isnan(self.middle) else FRESH):
            low, self.middle, high = map(float, np.quantile(self._kept, (0.1, 0.5, 0.9)))
            self.spread = (high - low) / 2.563
            self._fresh = 0

    def cut(self, value: float) -> float:
        far = max(CUT * self.spread, LEAST_CUT)
        return min(max(value, self.middle - far), self.middle + far)

    @property
    def gross(self) -> float:
        return self.middle + max(GROSS, GROSS_SPREADS * self.spread)
