"""How fast each endpoint is compared with the rest of its pool: two factors each, for decoding and for prefill.

The idea: endpoints of a pool share one price list, because a small bias between equal endpoints costs more than no
prediction at all (5 % of persistent spread costs ten points of attainment where the first token alone is compared). What
is left to an endpoint is a pair of factors, estimated by a Kalman filter on the logarithm of observed over predicted, and
then pooled: endpoints whose factors cannot be told apart get one and the same. So equal endpoints stay equal, another
GPU or a slow twin is found by itself, and one that fell silent about itself slowly counts as normal again, which is how
it is probed back.

An endpoint that suddenly differs (two errors in a row far beyond what was thought possible) is believed at once.
"""

from __future__ import annotations

import math

import numpy as np

from gateway.core.types import Floats

SPREAD = 0.6  # standard deviation of log factors between endpoints before anything is known
NOISE = 0.12  # of one observation's logarithm
DRIFT = 0.004  # standard deviation that a factor may gain by wandering, per square root of a second
PATIENCE = 3.0  # seconds without news before a factor begins to be taken back
HALF_LIFE = 20.0  # seconds after which half of it is gone then
SUDDEN = 3.5  # standard deviations; twice in a row: something has changed
APART = 2.5  # standard deviations that make two endpoints different
SLIGHT = 0.02  # log factors closer than this are not worth telling apart
POOL_EVERY = 0.5  # seconds


class Paces:
    """Log factors by row. `decode` and `prefill` are the factors in use: arrays of at least `size` ones at first."""

    def __init__(self, size: int = 8):
        self.decode: Floats = np.ones(size)
        self.prefill: Floats = np.ones(size)
        self._rows: dict[int, _Pace] = {}
        self._pooled_at = -math.inf

    def reach(self, size: int) -> None:
        """Make room for rows below `size`."""
        missing = size - len(self.decode)
        if missing > 0:
            self.decode = np.concatenate((self.decode, np.ones(missing)))
            self.prefill = np.concatenate((self.prefill, np.ones(missing)))

    def forget(self, row: int) -> None:
        self._rows.pop(row, None)
        if row < len(self.decode):
            self.decode[row] = self.prefill[row] = 1.0

    def learn(self, row: int, decoding: float, prefilling: float, rest: float, seconds: float, now: float) -> None:
        """`seconds` were observed where so many of decoding, prefilling and neither are predicted for a factor of 1."""
        pace = self._rows.get(row)
        if pace is None:
            pace = self._rows[row] = _Pace(now)
        pace.learn(decoding, prefilling, rest, seconds, now)

    def pool(self, now: float) -> tuple[float, float] | None:
        """Refresh the factors in use, at most every half second.

        Returns what all have in common (factors to multiply the price list with), or None when it is not yet time.
        """
        if now - self._pooled_at < POOL_EVERY or not self._rows:
            return None
        self._pooled_at = now
        rows = [*self._rows]
        paces = [self._rows[row] for row in rows]
        common = []
        for part, into in ((0, self.decode), (1, self.prefill)):
            for pace in paces:
                pace.fade(now)
            values = [pace.mean[part] for pace in paces]
            middle = sorted(values)[(len(values) - 1) // 2]
            if len(rows) > 1:
                for pace in paces:
                    pace.mean[part] -= middle
                values = [value - middle for value in values]
                common.append(math.exp(middle))
            else:
                common.append(1.0)
            variances = [pace.variance[part] for pace in paces]
            into[rows] = np.exp(_pooled(values, variances))
        return common[0], common[1]

    def table(self) -> dict[int, tuple[float, float]]:
        """The factors in use by row: decoding, prefill."""
        return {row: (float(self.decode[row]), float(self.prefill[row])) for row in self._rows}


class _Pace:
    """One endpoint's two log factors, decode and prefill, with the uncertainty of each."""

    __slots__ = ("_at", "_heard", "_sudden", "mean", "variance")

    def __init__(self, now: float):
        self.mean = [0.0, 0.0]
        self.variance = [SPREAD**2, SPREAD**2]
        self._at = self._heard = now
        self._sudden = 0

    def fade(self, now: float) -> None:
        """Time passes: certainty goes, and with it, slowly, the factor."""
        passed = now - self._at
        if passed <= 0.0:
            return
        silent = max(0.0, now - max(self._at, self._heard + PATIENCE))
        self._at = now
        kept = 0.5 ** (silent / HALF_LIFE) if silent else 1.0
        for part in (0, 1):
            self.mean[part] *= kept
            variance = SPREAD**2 - (SPREAD**2 - self.variance[part]) * kept
            self.variance[part] = min(SPREAD**2, variance + DRIFT**2 * passed)

    def learn(self, decoding: float, prefilling: float, rest: float, seconds: float, now: float) -> None:
        self.fade(now)
        self._heard = now
        mean, variance = self.mean, self.variance
        decoding *= math.exp(mean[0])
        prefilling *= math.exp(mean[1])
        whole = decoding + prefilling + rest
        if not whole > 0.0 or not seconds > 0.0:
            return
        shares = (decoding / whole, prefilling / whole)
        error = math.log(seconds / whole)
        spread = shares[0] ** 2 * variance[0] + shares[1] ** 2 * variance[1] + NOISE**2
        if error * error > SUDDEN**2 * spread:
            # Once may be a stall; its say is cut. Twice on the same side is the endpoint.
            side = 1 if error > 0.0 else -1
            self._sudden = self._sudden + side if self._sudden * side >= 0 else side
            if abs(self._sudden) >= 2:
                variance[0] = variance[1] = SPREAD**2
                spread = (shares[0] ** 2 + shares[1] ** 2) * SPREAD**2 + NOISE**2
                self._sudden = 0
            else:
                error = side * SUDDEN * spread**0.5 * 0.5
        else:
            self._sudden = 0
        for part in (0, 1):
            gain = shares[part] * variance[part] / spread
            mean[part] += gain * error
            variance[part] *= 1.0 - gain * shares[part]


def _pooled(values: list[float], variances: list[float]) -> list[float]:
    """Values that cannot be told apart become their common mean, weighted by how sure each is."""
    order = sorted(range(len(values)), key=values.__getitem__)
    pooled = [0.0] * len(values)
    group: list[int] = []
    total = weight = 0.0
    for i in order:
        sure = 1.0 / max(variances[i], 1e-6)
        if group:
            mean = total / weight
            if values[i] - mean > max(SLIGHT, APART * (variances[i] + 1.0 / weight) ** 0.5):
                for member in group:
                    pooled[member] = mean
                group, total, weight = [], 0.0, 0.0
        group.append(i)
        total += sure * values[i]
        weight += sure
    for member in group:
        pooled[member] = total / weight
    return pooled
