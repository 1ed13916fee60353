"""Which requests are in a share of all: evenly spread, exact in the long run, and not in step with anything.

The idea: the n-th request is taken where the fractional part of start + n * step is below the share. With a step that
is irrational and badly approximated by fractions, the number taken of any n in a row differs from n * share by
O(log n), where independent draws differ by O(sqrt n); with steps that are independent of each other (and of the golden
ratio, by which splits are drawn) what one sample takes says nothing of what another takes.
Source: Kronecker sequences; Kuipers and Niederreiter, Uniform Distribution of Sequences (1974).
"""

from __future__ import annotations

import math
from random import Random

MIRRORED = math.sqrt(2.0) - 1.0
CAPTURED = math.sqrt(3.0) - 1.0


class Sample:
    """A share (0 to 1) of what it is asked about. `step` is one of the steps above; the start is drawn."""

    __slots__ = ("_at", "_step", "share")

    def __init__(self, share: float, step: float, random: Random):
        self.share = share
        self._step = step
        self._at = random.random()

    def take(self) -> bool:
        """Whether the next one is in the share."""
        at = self._at + self._step
        if at >= 1.0:
            at -= 1.0
        self._at = at
        return at < self.share
