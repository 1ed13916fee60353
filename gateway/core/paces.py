"""How fast each endpoint is compared with the rest of its pool: two factors each, for decoding and for prefill.

The idea: endpoints of a pool share one price list, because a small bias between equal endpoints costs more than no
prediction at all (5 % of persistent spread costs ten points of attainment where the first token alone is compared).
What is left to an endpoint is a pair of log factors. Between two fits (`prices`) a Kalman filter moves them with
every answer; then they are pooled: endpoints whose factors cannot be told apart get one and the same. So equal
endpoints stay equal, another GPU or a slow twin is found by itself, and one that nothing is sent to any more slowly
counts as normal again, which is how it is probed back.

An endpoint that suddenly differs (several errors in a row far beyond what was thought possible) is believed at once.
Answers that were under way together are one sign of it, not several: what made one of them late, a stall, made them
all late.
"""

from __future__ import annotations

import math

import numpy as np

from gateway.core.prices import MOST_FACTOR, RATIO, SPREAD
from gateway.core.types import Floats

NOISE, NOISE_FOLLOW = 0.12, 0.02  # of one observation's logarithm, at least; how fast it is learnt
LEAST = 3e-5  # variance of a factor's logarithm: less is not believed
# Answers that an endpoint misses of its fair share before its factors begin to be taken back. Of its share, since in a
# pool of two a hundred of the other one's may take a minute, and in one of a thousand none.
PATIENCE = 40
HALF_LIFE = 40.0  # ... after which half of them is gone then
SUDDEN = 3.5  # standard deviations, so often in a row: something has changed
IN_A_ROW = 3
APART = 3.0  # standard deviations that make two endpoints different
# Log factors closer than this are not worth telling apart; times the square of the doubt, because what other gateways'
# requests do to an endpoint lasts for seconds and looks like a slower one to all answers of that time.
SLIGHT = 0.02


class Paces:
    """Log factors by row. `decode` and `prefill` are the factors in use: arrays of at least `size` ones at first.

    `changes` counts how often they became others.
    """

    def __init__(self, size: int = 8):
        self.decode: Floats = np.ones(size)
        self.prefill: Floats = np.ones(size)
        self.changes = 0
        self._rows: dict[int, Pace] = {}
        self._answers = 0
        self.doubt = 1.0  # times as noisy as answers are where this gateway is the only one
        self._noise = NOISE  # standard deviation of an observation's logarithm, as it has been lately

    def reach(self, size: int) -> None:
        """Make room for rows below `size`."""
        missing = size - len(self.decode)
        if missing > 0:
            self.changes += 1
            self.decode = np.concatenate((self.decode, np.ones(missing)))
            self.prefill = np.concatenate((self.prefill, np.ones(missing)))

    def forget(self, row: int) -> None:
        self._rows.pop(row, None)
        if row < len(self.decode):
            self.decode[row] = self.prefill[row] = 1.0
            self.changes += 1

    def learn(self, row: int, decoding: float, prefilling: float, rest: float, seconds: float, now: float) -> bool:
        """`seconds` were observed, until `now`, where factors of 1 predict so many of decoding, prefilling and neither.

        Returns whether this endpoint has suddenly become another one.
        """
        pace = self._rows.get(row)
        self._answers += 1
        if pace is None:
            pace = self._rows[row] = Pace()
        pace.heard = self._answers
        changed = pace.learn(decoding, prefilling, rest, seconds, self._noise * self.doubt, now)
        self._noise = max(NOISE, self._noise + NOISE_FOLLOW * (min(1.0, 1.25 * abs(pace.error)) - self._noise))
        return changed

    @property
    def unrest(self) -> float:
        """How noisy answers have been lately, in times of what an undisturbed engine's are."""
        return self._noise / NOISE

    def estimates(self, count: int) -> tuple[Floats, Floats]:
        """Log factors by row, shape (count, 2), and by row how much its answers still say of it, 0..1."""
        factors, news = np.zeros((count, 2)), np.ones(count)
        for row, pace in self._rows.items():
            if row < count:
                factors[row] = pace.mean
                news[row] = self._news(pace)
        return factors, news

    def _news(self, pace: Pace) -> float:
        silent = (self._answers - pace.heard) / len(self._rows) - PATIENCE
        return 0.5 ** (silent / HALF_LIFE) if silent > 0.0 else 1.0

    def accept(self, factors: Floats, variances: Floats) -> None:
        """The factors and variances of a fit, by row.

        It knows nothing of an endpoint whose factors are of a former life: those stay until it has answered, or others
        have for long.
        """
        factors = np.clip(factors, -MOST_FACTOR, MOST_FACTOR)
        for row, pace in self._rows.items():
            if row < len(factors) and (pace.heard or self._answers > PATIENCE * len(self._rows)):
                pace.mean = factors[row].tolist()
                pace.variance = [max(LEAST, v) for v in variances[row].tolist()]
                pace.cross = 0.0
        self.pool()

    def resume(self, row: int, decode: float, prefill: float) -> None:
        """Factors of a former life: likely, not certain."""
        self.reach(row + 1)
        pace = self._rows[row] = Pace()
        pace.mean = [math.log(decode), math.log(prefill)]
        pace.variance, pace.cross = [RATIO**2, RATIO**2], 0.0

    def pool(self) -> None:
        """Refresh the factors in use: what cannot be told apart becomes equal."""
        self.changes += 1
        rows = [*self._rows]
        paces = [self._rows[row] for row in rows]
        if len(rows) < 2:
            for row in rows:  # all of it is the price list's
                self.decode[row] = self.prefill[row] = 1.0
            return
        for part, into in ((0, self.decode), (1, self.prefill)):
            values = [pace.mean[part] for pace in paces]
            into[rows] = np.exp(_pooled(values, [pace.variance[part] for pace in paces], SLIGHT * self.doubt**2))

    def table(self) -> dict[int, tuple[float, float]]:
        """The factors in use by row: decoding, prefill."""
        return {row: (float(self.decode[row]), float(self.prefill[row])) for row in self._rows}


class Pace:
    """One endpoint's two log factors, decode and prefill, and what is not known of them (a 2 x 2 covariance)."""

    __slots__ = ("_sudden", "_sudden_at", "cross", "error", "heard", "mean", "variance")

    def __init__(self) -> None:
        self.mean = [0.0, 0.0]
        self._widen()
        self.heard = 0  # the pool's count of answers when its last one came
        self._sudden, self._sudden_at = 0, -math.inf  # errors in a row, and when the last one that counts was seen
        self.error = 0.0  # logarithm of the last observation over what was expected

    def _widen(self) -> None:
        """Anything is possible, but the two factors are mostly one: a slow card is slow at both."""
        self.variance = [SPREAD**2 + RATIO**2, SPREAD**2 + RATIO**2]
        self.cross = SPREAD**2 - RATIO**2

    def learn(self, decoding: float, prefilling: float, rest: float, seconds: float, noise: float,
              now: float) -> bool:  # fmt: skip
        mean, variance = self.mean, self.variance
        decoding *= math.exp(mean[0])
        prefilling *= math.exp(mean[1])
        whole = decoding + prefilling + rest
        if not whole > 0.0 or not seconds > 0.0:
            return False
        one, two = decoding / whole, prefilling / whole
        error = self.error = math.log(seconds / whole)
        along = (one * variance[0] + two * self.cross, one * self.cross + two * variance[1])
        spread = one * along[0] + two * along[1] + noise**2
        changed = False
        if error * error > SUDDEN**2 * spread:
            # Once may be a stall; its say is cut. Several times on the same side is the endpoint.
            side = 1 if error > 0.0 else -1
            if self._sudden * side <= 0:
                self._sudden, self._sudden_at = side, now
            elif now - seconds >= self._sudden_at:
                self._sudden, self._sudden_at = self._sudden + side, now
            if abs(self._sudden) >= IN_A_ROW:
                self._sudden, changed = 0, True
                self._widen()
                variance = self.variance
                along = (one * variance[0] + two * self.cross, one * self.cross + two * variance[1])
                spread = one * along[0] + two * along[1] + noise**2
            else:
                error = side * SUDDEN * spread**0.5 * 0.5
        else:
            self._sudden = 0
        for part in (0, 1):
            gain = along[part] / spread
            mean[part] = max(-MOST_FACTOR, min(MOST_FACTOR, mean[part] + gain * error))
            variance[part] = max(LEAST, variance[part] - gain * along[part])
        self.cross -= along[0] * along[1] / spread
        return changed


def _pooled(values: list[float], variances: list[float], slight: float) -> list[float]:
    """Values that cannot be told apart become their common mean, weighted by how sure each is."""
    order = sorted(range(len(values)), key=values.__getitem__)
    pooled = [0.0] * len(values)
    group: list[int] = []
    total = weight = 0.0
    for i in order:
        sure = 1.0 / max(variances[i], 1e-6)
        if group:
            mean = total / weight
            if values[i] - mean > max(slight, APART * (variances[i] + 1.0 / weight) ** 0.5):
                for member in group:
                    pooled[member] = mean
                group, total, weight = [], 0.0, 0.0
        group.append(i)
        total += sure * values[i]
        weight += sure
    for member in group:
        pooled[member] = total / weight
    return pooled
