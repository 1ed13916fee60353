"""The price list of an engine's iteration, learnt online: Bayesian linear regression with forgetting.

The idea: what an engine's time is spent on is known (reading weights, multiplying tokens, reading the KV cache), so every
time we can measure is a sum of known quantities times unknown prices. Recursive least squares learns the prices from any
such sum: the time to a first token, the time that so many tokens of a stream took. Prices are kept relative to the prior
(`beta`, near 1), errors are weighed relatively (weight 1/y^2). The prior says that the prices may be wrong together by a
large factor (another GPU, another model) and each of them by some more: the first few answers settle the common factor.

Source of the method: recursive least squares with exponential forgetting (Ljung, "System Identification", ch. 11); prices
that no physics allows (negative ones) are cut off. Left to others: what the quantities are (`predictor`).
"""

from __future__ import annotations

import numpy as np

from gateway.core.types import Floats

NAMES = ("overhead", "base", "decode", "context", "slope1", "slope2", "slope3", "pair")
"""Per request; per iteration; per sequence decoding and iteration; per KV token read and iteration; per token of an
iteration up to the first knee, between the knees, beyond the second; per pair of tokens in a prompt's attention."""
COUNT = len(NAMES)

FORGETTING = 0.9995  # about 2,000 samples are remembered
LOWEST = 0.03  # of the prior: a price cannot be negative, nor nothing
OUTLIER = 3.0  # standard deviations beyond which an error counts no more than this
# Standard deviations in the prior, relative: of each price, of all together, of decoding against prefill.
EACH, TOGETHER, AGAINST = 0.35, 1.2, 0.5
EACH_SURE, TOGETHER_SURE, AGAINST_SURE = 0.2, 0.25, 0.15
MOST_VARIANCE = 4.0
RESET_AFTER = 3  # errors in a row beyond FAR standard deviations: something else answers there now
FAR = 8.0


class Coefficients:
    """`prior`: seconds per unit, in the order of NAMES. `sure`: it belongs to this GPU and model."""

    def __init__(self, prior: Floats, *, sure: bool):
        self.prior = prior
        self._sure = sure
        self.beta = np.ones(COUNT)
        self.samples = 0
        self._covariance = self._widest()
        self._far = 0
        self.prices: tuple[float, ...] = tuple(prior.tolist())

    def _widest(self) -> Floats:
        each, together, against = (
            (EACH_SURE, TOGETHER_SURE, AGAINST_SURE) if self._sure else (EACH, TOGETHER, AGAINST)
        )
        side = np.array([0.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0])
        engine = np.array([0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
        wide: Floats = np.eye(COUNT) * each**2
        wide += np.outer(engine, engine) * together**2 + np.outer(side, side) * against**2
        wide[0, 0] = (2.0 * each) ** 2
        return wide

    def predict(self, quantities: Floats) -> float:
        """Seconds for these quantities (of each price, so many units; shape (COUNT,))."""
        return float((self.beta * self.prior) @ quantities)

    def learn(self, quantities: Floats, seconds: float, noise: float, forgetting: float = FORGETTING) -> None:
        """These quantities took `seconds`, known to a standard deviation of `noise` seconds."""
        x = quantities * self.prior
        along = self._covariance @ x
        variance = float(x @ along) + noise * noise
        error = seconds - float(self.beta @ x)
        limit = OUTLIER * variance**0.5
        self._far = self._far + 1 if abs(error) > FAR / OUTLIER * limit else 0
        gain = along / variance
        self.beta += gain * max(-limit, min(limit, error))
        np.maximum(self.beta, LOWEST, out=self.beta)
        covariance = self._covariance
        covariance -= np.outer(gain, along)
        if covariance[1, 1] < MOST_VARIANCE:
            covariance /= forgetting
        self.samples += 1
        if self.samples % 200 == 0:
            self._covariance = (covariance + covariance.T) / 2.0
        if self._far >= RESET_AFTER:
            self._covariance, self._far = self._widest(), 0
        self.prices = tuple((self.beta * self.prior).tolist())

    def rescale(self, decode: float, prefill: float) -> None:
        """Multiply the prices of decoding and of prefill: what the endpoints have in common belongs here."""
        self.beta[1:4] *= decode
        self.beta[4:] *= prefill
        self.prices = tuple((self.beta * self.prior).tolist())

    def restore(self, beta: Floats, samples: int) -> None:
        """Go on from learnt prices; less sure of them than when they were learnt."""
        self.beta = beta.copy()
        self.samples = samples
        sure, self._sure = self._sure, True
        self._covariance = self._widest()
        self._sure = sure
        self.prices = tuple((self.beta * self.prior).tolist())
