"""The closed loop of the filler: what it was thought to do to the others, against what it did.

The idea (HyGen, arXiv 2501.14808, inside one engine; here outside of all of them): when a protected request is sent, the
seconds by which filler should delay its first token are noted; when the token has come, what it was late by is compared
with them. The ratio of the sums is the correction that every predicted effect is multiplied with. How much of what was
promised may be used is found by trying: a little more every while, a tenth less when promises were missed beside filler
(additive increase, multiplicative decrease).

It also keeps what operators ask: first tokens and paces of the protected with and without filler beside them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gateway.core.types import UNKNOWN, Outcome

MEMORY = 0.01  # weight of one answer
LEAST_EFFECT = 1e-4  # seconds; an effect below it teaches nothing
LOWEST, HIGHEST = 0.5, 3.0  # of the correction
PRIOR = 0.1  # seconds of predicted effect that count for a correction of 1 before anything was seen
START, LEAST_USE, MOST_USE = 0.85, 0.5, 0.92
MORE, LESS = 0.005, 0.9
EVERY, ENOUGH = 2.0, 20  # seconds and answers between two changes
MISSES = 0.005  # of those answers


@dataclass(frozen=True, slots=True)
class Interference:
    """What filler has lately done to the protected class. Seconds; NaN where nothing was seen.

    `ttft_with`, `ttft_without`: mean first token with filler on the endpoint and without; `tpot_…` the same of the pace.
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
        self._sums = [PRIOR, PRIOR]  # predicted effect, measured effect
        self._at = -math.inf
        self._answers = self._missed = 0
        self._means = {(kind, beside): Mean() for kind in ("ttft", "tpot") for beside in (True, False)}

    @property
    def correction(self) -> float:
        """Measured effect over predicted effect, within bounds."""
        return min(HIGHEST, max(LOWEST, self._sums[1] / self._sums[0]))

    def learn(self, outcome: Outcome, predicted: float, effect: float, now: float) -> None:
        """A protected answer is whole; its first token was `predicted` (NaN: it was not), `effect` of that was filler's."""
        request = outcome.request
        steps = outcome.output_tokens - 1.0
        pace = (outcome.duration - outcome.ttft) / steps if steps > 0.0 else UNKNOWN
        beside = effect > LEAST_EFFECT
        self._means["ttft", beside].see(outcome.ttft)
        self._means["tpot", beside].see(pace)
        if not beside:
            return
        late = outcome.ttft - predicted
        if late == late:
            # One stall must not say more than a hundred answers.
            late = max(-effect, min(4.0 * effect, late))
            for i, value in enumerate((effect, effect + late)):
                self._sums[i] += MEMORY * (value - self._sums[i])
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
