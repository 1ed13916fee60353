"""How far a prediction may be off: intervals that hold their promise whatever the predictor does (online conformal).

The idea: a bound that was exceeded too often moves out, one that was not moves in, a little at each answer (Gibbs and
Candes, "Adaptive conformal inference under distribution shift", 2021). Both ends are kept on the logarithm of
observed over predicted, apart for each regime, because an idle engine is predicted better than a saturated one.

A `Track` also keeps the mean of that logarithm (what the predictor is off by on average), the mean absolute percentage
error, the coverage, and says whether the predictor can be trusted.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from itertools import accumulate

MISS = 0.05  # wanted on either side: an interval of 90 %
STEP = 0.04  # of the logarithm, at each answer, times the present width
# The same where answers come long after what was said and hundreds share one cause: faster, the ends follow the last
# wave and miss the next one.
SLOW_STEP = 0.006
FIRST_STEPS = 40  # answers in which the steps are larger
START = 0.35
NARROWEST, WIDEST = 0.01, 3.0
# The correction is the middle of so many of the last answers: it forgets what was off before the prices were found, and
# neither one stall nor one answer in five that stalls moves it far. It counts as if so many more had been right.
# The middle is the one with the least mean error as a share of what is observed, which is how errors are reported: the
# median in which an answer weighs as the inverse of what it took. Where errors are small that is the median; where some
# answers take many times as long, it is what the others take.
RECENT, BIAS_SHRINK = 64, 20.0
SLOW_RECENT = 512  # ... where hundreds share one cause: of several causes
FOLLOW = 0.02  # weight of one answer in the running error and coverage
# Off by more than a factor of two in more than so many of the last answers: not calibrated; in fewer: calibrated again.
GROSS, LOST, FOUND = math.log(2.0), 0.4, 0.2
FEW = 30


class Interval:
    """One regime: a shift of the middle and the two ends, all on the logarithm of observed over predicted."""

    __slots__ = ("_ordered", "_recent", "_step", "_weights", "bias", "high", "low", "samples")

    def __init__(self, step: float = STEP, recent: int = RECENT) -> None:
        self._step = step
        self.bias = 0.0
        self._recent: deque[float] = deque(maxlen=recent)
        self._ordered: list[float] = []  # the same, by size
        self._weights: list[float] = []  # of each of these
        self.low, self.high = -START, START
        self.samples = 0

    def correction(self) -> float:
        """What to multiply a prediction with."""
        return math.exp(self.bias * self.samples / (self.samples + BIAS_SHRINK))

    def learn(self, error: float) -> bool:
        """`error`: logarithm of observed over predicted, before the correction. Returns whether it was covered."""
        shift = self.bias * self.samples / (self.samples + BIAS_SHRINK)
        centred = error - shift
        covered = self.low <= centred <= self.high
        self.samples += 1
        step = self._step + 1.0 / (FIRST_STEPS / 4.0 + self.samples)
        width = self.high - self.low
        self.high += step * width * ((1.0 if centred > self.high else 0.0) - MISS)
        self.low -= step * width * ((1.0 if centred < self.low else 0.0) - MISS)
        self.high = min(WIDEST, max(NARROWEST, self.high))
        self.low = max(-WIDEST, min(-NARROWEST, self.low))
        self._keep(max(-WIDEST, min(WIDEST, error)))
        return covered

    def _keep(self, error: float) -> None:
        ordered, weights = self._ordered, self._weights
        if len(ordered) == self._recent.maxlen:
            oldest = bisect_left(ordered, self._recent[0])
            del ordered[oldest], weights[oldest]
        self._recent.append(error)
        place = bisect_left(ordered, error)
        ordered.insert(place, error)
        weights.insert(place, math.exp(-error))
        sums = [*accumulate(weights)]
        self.bias = ordered[bisect_left(sums, sums[-1] / 2.0)]

    def resume(self, bias: float, low: float, high: float, samples: int) -> None:
        """Go on from what was learnt before."""
        self.bias, self.low, self.high, self.samples = bias, low, high, samples
        for _ in range(min(samples, RECENT)):
            self._keep(bias)


class Track:
    """What is predicted of one kind (first tokens, or the pace after them), over its regimes.

    `slow`: answers come long after what was said of them, and hundreds share one cause.
    """

    def __init__(self, regimes: int, *, slow: bool = False):
        pace = (SLOW_STEP, SLOW_RECENT) if slow else (STEP, RECENT)
        self.regimes = [Interval(*pace) for _ in range(regimes)]
        self.error = 0.0  # mean absolute error, as a share of what was observed
        self.coverage = 0.9
        self.samples = 0
        self.calibrated = True
        self._gross = 0.0
        self.spread = 0.2  # standard deviation of the logarithm of observed over predicted, lately
        self.shift = 0.0  # mean logarithm of observed over predicted lately

    def to_state(self) -> list[list[float]]:
        """The regimes, as JSON values: bias, low, high, samples."""
        return [[r.bias, r.low, r.high, float(r.samples)] for r in self.regimes]

    @classmethod
    def from_state(cls, state: object, regimes: int, *, slow: bool = False) -> Track:
        """The track that gave this state. Raises ValueError or TypeError if none did."""
        if not isinstance(state, list) or len(state) != regimes:
            raise ValueError("not the regimes of a track")
        track = cls(regimes, slow=slow)
        for regime, kept in zip(track.regimes, state, strict=True):
            bias, low, high, samples = (float(figure) for figure in kept)
            if not (abs(bias) <= WIDEST and -WIDEST <= low < 0.0 < high <= WIDEST and 0.0 <= samples < 1e12):
                raise ValueError("a regime with figures that cannot be")
            regime.resume(bias, low, high, int(samples))
        return track

    def learn(self, regime: int, observed: float, predicted: float, base: float) -> None:
        """`predicted` is what was said, `base` the same before the correction; all in seconds, above 0."""
        covered = self.regimes[regime].learn(math.log(observed / base))
        self.samples += 1
        weight = max(FOLLOW, 1.0 / self.samples)
        off = math.log(observed / predicted)
        self.error += weight * (min(5.0, abs(predicted / observed - 1.0)) - self.error)
        self.coverage += weight * (covered - self.coverage)
        self.shift += weight * (max(-2.0, min(2.0, off)) - self.shift)
        self.spread += FOLLOW * (min(1.5, 1.25 * abs(off)) - self.spread)
        self._gross += weight * ((abs(off) > GROSS) - self._gross)
        if self.samples >= FEW:
            self.calibrated = self._gross < (LOST if self.calibrated else FOUND)
