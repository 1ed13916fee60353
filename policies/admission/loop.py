"""The closed loop of the filler: what it was thought to do to the others, against what it did.

The idea (HyGen, arXiv 2501.14808, inside one engine; here outside of all of them): when a protected request is sent,
the seconds by which filler should delay its first token are noted; when the token has come, by how much it was later
than predicted is compared with them. Where effects were right the two have nothing to do with each other; the slope
between them is what effects must be corrected by. How much of what was promised may be used is found by trying: a
little more every while, a tenth less when promises were missed beside filler (additive increase, multiplicative
decrease).

It also keeps what operators ask: first tokens and paces of the protected with and without filler beside them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gateway.core.types import UNKNOWN, Outcome

MEMORY = 0.01  # weight of one answer
LEAST_EFFECT = 1e-4  # seconds; below it there is no filler beside
LOWEST, HIGHEST = 0.5, 2.0  # of the correction
SURE = 0.01  # seconds: the spread of effects at which answers say as much as the belief that predictions are right
LONGEST_LATE = 0.05  # seconds
START, LEAST_USE, MOST_USE = 0.8, 0.5, 0.88
MORE, LESS = 0.005, 0.9
EVERY, ENOUGH = 2.0, 20  # seconds and answers between two changes
MISSES = 0.005  # of those answers


@dataclass(frozen=True, slots=True)
class Interference:
    """What filler has lately done to the protected class. Seconds; NaN where nothing was seen.

    `ttft_with`, `ttft_without`: mean first token with filler on the endpoint and without; `tpot_…`: of the pace.
    `correction`: what filler does over what was predicted; `use`: the share of a promise that it may use up.
    """

    ttft_with: float
    ttft_without: float
    tpot_with: float
    tpot_without: float
    correction: float
    use: float


class Mean:
    """A fading mean that begins with what it sees first."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = UNKNOWN

    def see(self, value: float) -> None:
        if value == value:
            self.value = value if self.value != self.value else self.value + MEMORY * (value - self.value)


class Loop:
    """One pool's. `correction` multiplies predicted effects, `use` is the share of what was promised that counts."""

    def __init__(self) -> None:
        self.use = START
        self._sums = [0.0, 0.0, 0.0, 0.0]  # means of effect, lateness, effect squared, effect times lateness
        self._at = -math.inf
        self._answers = self._missed = 0
        self._means = {(kind, beside): Mean() for kind in ("ttft", "tpot") for beside in (True, False)}

    @property
    def correction(self) -> float:
        """Measured effect over predicted effect, within bounds: the slope of lateness over effect, and 1.

        The slope, because what is late everywhere alike is not the filler's doing.
        """
        effect, late, square, product = self._sums
        slope = (product - effect * late) / (square - effect * effect + SURE * SURE)
        return min(HIGHEST, max(LOWEST, 1.0 + slope))

    def learn(self, outcome: Outcome, predicted: float, effect: float, now: float) -> None:
        """A protected answer is whole. Its first token was `predicted` (NaN: not at all), filler's part `effect`."""
        request = outcome.request
        steps = outcome.output_tokens - 1.0
        pace = (outcome.duration - outcome.ttft) / steps if steps > 0.0 else UNKNOWN
        beside = effect > LEAST_EFFECT
        self._means["ttft", beside].see(outcome.ttft)
        self._means["tpot", beside].see(pace)
        late = outcome.ttft - predicted
        if late == late:
            late = max(-LONGEST_LATE, min(LONGEST_LATE, late))  # one stall must not say more than a hundred answers
            for i, value in enumerate((effect, late, effect * effect, effect * late)):
                self._sums[i] += MEMORY * (value - self._sums[i])
        if not beside:
            return
        self._answers += 1
        self._missed += outcome.ttft > request.ttft_slo or pace > request.tpot_slo
        if now - self._at > EVERY and self._answers >= ENOUGH:
            missed = self._missed > MISSES * self._answers + 1.0
            self.use = max(LEAST_USE, self.use * LESS) if missed else min(MOST_USE, self.use + MORE)
            self._at, self._answers, self._missed = now, 0, 0

    def report(self) -> Interference:
        """What operators see."""
        values = {key: mean.value for key, mean in self._means.items()}
        return Interference(values["ttft", True], values["ttft", False], values["tpot", True], values["tpot", False],
                            self.correction, self.use)  # fmt: skip
