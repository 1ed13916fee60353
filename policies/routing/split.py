"""Splits without an identity: which arm the next request gets, so that every arm has its weight at all times.

The idea: the numbers that arms are drawn with are not independent but the multiples of the golden ratio, modulo one,
from a random start (a Kronecker or Weyl sequence). Each number alone is uniform, so a split is exact in expectation;
and after n requests no arm is further than O(log n) requests from its weight, where independent draws are O(√n) away
(Kuipers and Niederreiter, "Uniform Distribution of Sequences", 1974, theorem 2.3.4: at most 3 + 3.52 ln n). Every k-th
number of it is such a sequence again, so traffic with a rhythm of its own is split just as well.

The sequence is kept as 64-bit integers: floats would lose the end of large multiples.

Left to others: users who must stay on their arm (`sticky`), which requests are drawn for at all (`rules`).
"""

from __future__ import annotations

from collections.abc import Sequence as Values

from gateway.core.routes import Arm

_STEP = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio, made odd: every number comes once in 2^64
_MASK = (1 << 64) - 1

Weights = tuple[float, ...]


class Sequence:
    """Numbers from 0 to 1 (never 1). `position`: where it stands, 0 to 2^64."""

    __slots__ = ("position",)

    def __init__(self, position: int):
        self.position = position & _MASK

    def next(self) -> float:
        self.position = position = (self.position + _STEP) & _MASK
        return (position >> 11) * 2.0**-53  # what a float holds exactly, so that it never becomes 1


def weights_of(arms: Values[Arm], canary: str | None, share: float) -> Weights:
    """The arms' weights, relative to one another, when the arm named `canary` gets `share` (0 to 1) of all.

    The others keep the weights they have, whatever the share: so it moves nobody from one of them to another.
    """
    if share >= 1.0:
        return tuple(float(arm.name == canary) for arm in arms)
    others = sum(arm.weight for arm in arms if arm.name != canary)
    own = share / (1.0 - share) * others
    return tuple(own if arm.name == canary else arm.weight for arm in arms)


def arm_at(weights: Weights, number: float) -> int:
    """Which arm has this number, when 0 to 1 is divided among them by weight. One without a weight never has it."""
    rest, last = number * sum(weights), 0
    for row, weight in enumerate(weights):
        if weight > 0.0:
            if rest < weight:
                return row
            rest, last = rest - weight, row
    return last
