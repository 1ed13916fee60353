"""The price list of an engine's iteration and the pace of each endpoint, fitted together to the answers in the window.

The idea: what an engine's time is spent on is known (reading weights, multiplying tokens, reading the KV cache), so
every time that can be measured is a sum of known quantities times unknown prices. All endpoints of a pool share the
prices; an endpoint has two factors, for decoding and for prefill. Both are fitted at once, from all that is in the
window, by alternating between them: weighted least squares on relative errors, from a prior. An error of several
standard deviations has hardly any say (the weight of a redescending M-estimator, Huber 1981): where other processes
take the cores away now and then, one answer in five may take five times as long, and what is asked for is the price
of the other four.

Prices are kept relative to their prior (`beta`). The prior speaks of their logarithms: all may be wrong together by a
large factor (another GPU, another model, no GPU at all) and each by some more, which is the same share of it whether
that factor is 1 or 30. Its middle follows slowly what is found, so that a price which nothing in the window speaks of
stays what it was.

Recursive least squares, tried first, is cheaper and not enough: where endpoints differ, prices and factors drift into
each other one sample at a time, and the wrong pair they settle on (prices of a small card, paces to match) predicts
what it has seen and nothing else. See docs/notes/0013.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from gateway.core.types import Floats
from gateway.core.window import CONTEXT, COUNT, DECODING, PAIRS, REST, ROW, SECONDS, STEPS, TOKENS, WORKED, Window

NAMES = ("overhead", "base", "decode", "context", "slope1", "slope2", "slope3", "pair")
"""Per request; per iteration; per sequence decoding and iteration; per KV token read and iteration; per prompt token of
an iteration up to the first knee, between the knees, beyond the second; per pair of tokens in a prompt's attention."""

LEAST_ROOM = 64.0  # prompt tokens that fit an iteration even where decodes fill it
LOWEST, HIGHEST = 0.05, 1000.0  # of the prior: a price cannot be negative, nor nothing, nor anything
MOST_DROP = 4.0  # a price falls at most to this part in one turn of a fit: its logarithm is followed along a tangent
MOST_FACTOR = 3.0  # logarithm: twenty times as slow
REST_NOISE_SHARE = 0.5  # of what had to be waited for before the prices come in; it is known no better
# Standard deviations of logarithms in the prior: of each price, of all together, of decoding against prefill.
NEUTRAL, SURE = (0.3, 1.5, 0.4), (0.15, 0.2, 0.1)
FIRST_NOISE, REST_NOISE = 0.12, 0.06  # standard deviation of an answer, as a share of it
CUT = 2.0  # standard deviations beyond which an error counts ever less: half as much at 1.4 times, a quarter at 2
# So many times sooner than predicted, and an answer speaks of something else (nobody knew that its prompt was cached).
# Errors are relative to what was observed, so the soonest would have the most say of all.
QUICK = 4.0
FOLLOW = 0.05  # how far the prior's middle follows a fit
MEMORY = 1500.0  # answers of the pool after which one weighs half
SPREAD, RATIO = 0.6, 0.15  # standard deviation of log factors between endpoints, and of half their difference


class Prices:
    """`prior`: seconds per unit in the order of NAMES. `sure`: it belongs to this very GPU and model."""

    def __init__(self, prior: Floats, knees: tuple[float, float], *, sure: bool):
        self.prior = prior
        self.knees = knees
        self.middle: Floats = np.ones(len(NAMES))
        self.beta: Floats = np.ones(len(NAMES))
        self._precision: Floats = np.asarray(np.linalg.inv(_covariance(*(SURE if sure else NEUTRAL))), np.float64)
        self.fitted = self.beta
        self.doubt = 1.0  # times as noisy as answers are where this gateway is the only one
        self.unrest = 1.0  # times as noisy as answers of an undisturbed engine are
        self.each: tuple[float, ...] = tuple(prior.tolist())
        self.fits = 0

    def use(self, beta: Floats) -> None:
        self.beta = beta
        self.each = tuple((beta * self.prior).tolist())

    def restore(self, beta: Floats) -> None:
        """Go on from prices that were learnt before."""
        self.use(beta.copy())
        self.middle = beta.copy()

    def added(self, decoding: Floats, chunk: Floats) -> Floats:
        """Tokens that a chunk adds to an iteration, by piece: shape (..., 3)."""
        knee1, knee2 = self.knees
        pieces = []
        for tokens in (decoding, decoding + chunk):
            pieces.append((np.minimum(tokens, knee1), np.clip(tokens - knee1, 0.0, knee2 - knee1),
                           np.maximum(tokens - knee2, 0.0)))  # fmt: skip
        return np.stack([after - before for before, after in zip(*pieces, strict=True)], axis=-1)

    def quantities(self, window: Window, chunk: float) -> Floats:
        """What the prices are multiplied with, for each answer of the window: shape (2 SIZE, 8), first tokens first."""
        first, rest = window.first, window.rest
        decoding, tokens = first[:, DECODING], np.maximum(first[:, TOKENS], 1.0)
        rounds = np.ceil(tokens / np.maximum(chunk - decoding, LEAST_ROOM))
        added = self.added(decoding, tokens / rounds)
        size = len(first)
        x = np.zeros((2 * size, len(NAMES)))
        x[:size, 0] = 1.0
        x[:size, 1] = rounds
        x[:size, 2] = rounds * decoding
        x[:size, 3] = rounds * first[:, CONTEXT]
        x[:size, 4:7] = rounds[:, None] * added
        x[:size, 7] = first[:, PAIRS]
        steps = rest[:, STEPS]
        x[size:, 1] = steps
        x[size:, 2] = steps * rest[:, DECODING]
        x[size:, 3] = steps * rest[:, CONTEXT]
        x[size:, 4:7] = rest[:, WORKED:]
        x[size:, 7] = rest[:, PAIRS]
        return x

    def fit(self, window: Window, chunk: float, factors: Floats, silent: Floats,
            turns: int = 3) -> tuple[Floats, Floats, float]:  # fmt: skip
        """Fit prices and factors together.

        `factors`: logarithms by row, shape (rows, 2), where to begin. `silent`: how much each row's answers still say
        of its factors, 0..1. Returns the factors, their variances (rows, 2) and the mean absolute logarithm of observed
        over predicted. The prices are not taken into use: see `use`.
        """
        view = _View(self, window, chunk)
        heard = np.bincount(view.rows, minlength=len(factors)) > 0
        beta = self.beta
        variances = np.ones_like(factors)
        for _ in range(turns):
            beta = view.solve(beta, factors, self._precision, self.middle)
            factors, variances = view.pace(beta, factors, silent)
            beta, factors = recentre(beta, factors, heard)
        self.fitted = beta
        return factors, variances, view.error(beta, factors)

    def accept(self) -> bool:
        """Use what the last fit found. False, and nothing is changed, if that is not a number."""
        if not np.isfinite(self.fitted).all():
            return False
        self.use(self.fitted)
        self.middle = self.middle * (self.beta / self.middle) ** FOLLOW
        self.fits += 1
        return True


def _covariance(each: float, together: float, against: float) -> Floats:
    side = np.array([0.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0])
    engine = np.abs(side)
    wide: Floats = np.eye(len(NAMES)) * each**2
    wide += np.outer(engine, engine) * together**2 + np.outer(side, side) * against**2
    wide[0, 0] = (3.0 * each) ** 2
    return wide


def recentre(beta: Floats, factors: Floats, heard: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """What the endpoints have in common belongs to the prices: the lower median of the factors becomes 1."""
    if not heard.any():
        return beta, factors
    known = np.sort(factors[heard], axis=0)
    middle = known[(len(known) - 1) // 2]
    beta = beta.copy()
    beta[1:4] *= np.exp(middle[0])
    beta[4:] *= np.exp(middle[1])
    np.clip(beta, LOWEST, HIGHEST, out=beta)
    return np.maximum(beta, LOWEST), np.where(heard[:, None], factors - middle, factors)


class _View:
    """The window's answers that are there, with what a fit needs again and again."""

    def __init__(self, prices: Prices, window: Window, chunk: float):
        there = np.concatenate((window.full_first, window.full_rest)) > 0.0
        every = np.concatenate((window.first, window.rest))[there]
        size = int(np.count_nonzero(window.full_first))
        self.x = prices.quantities(window, chunk)[there] * prices.prior
        self.rows = every[:, ROW].astype(np.intp)
        self.seconds = every[:, SECONDS]
        self.rest = every[:, REST].copy()
        self.rest[size:] = 0.0
        noise: Floats = np.full(len(every), REST_NOISE, np.float64)
        noise[:size] = FIRST_NOISE
        noise *= prices.doubt
        noise += REST_NOISE_SHARE * np.minimum(self.rest / self.seconds, 2.0)
        self.noise, self.unrest = noise, prices.unrest
        self.weight: Floats = 0.5 ** ((window.count - every[:, COUNT]) / MEMORY) / noise**2

    def _parts(self, beta: Floats, factors: Floats) -> tuple[Floats, Floats, Floats]:
        decoding = self.x[:, 1:4] @ beta[1:4] * np.exp(factors[self.rows, 0])
        prefill = self.x[:, 4:] @ beta[4:] * np.exp(factors[self.rows, 1])
        return decoding, prefill, self.x[:, 0] * beta[0] + self.rest

    def _logs(self, beta: Floats, factors: Floats) -> tuple[Floats, Floats, Floats]:
        decoding, prefill, other = self._parts(beta, factors)
        whole = np.maximum(decoding + prefill + other, 1e-6)
        return np.log(self.seconds / whole), decoding / whole, prefill / whole

    def _say(self, logs: Floats) -> Floats:
        """How much each answer counts, given how far it is off."""
        cut = CUT * self.noise
        return np.asarray(self.weight * (cut / np.maximum(np.abs(logs), cut)) ** 2, np.float64)

    def solve(self, beta: Floats, factors: Floats, precision: Floats, middle: Floats) -> Floats:
        """The prices, given the factors."""
        logs = self._logs(beta, factors)[0]
        weight = self._say(logs)
        weight *= np.exp(2.0 * np.minimum(0.0, logs + math.log(QUICK)))
        x = self.x / self.seconds[:, None]
        x[:, 1:4] *= np.exp(factors[self.rows, :1])
        x[:, 4:] *= np.exp(factors[self.rows, 1:])
        y = 1.0 - self.rest / self.seconds
        scaled = x * weight[:, None]
        # The prior is one of logarithms; here along their tangents at the prices as they are.
        precision = precision / np.outer(beta, beta)
        towards = beta * (1.0 + np.log(middle / beta))
        found = np.linalg.solve(scaled.T @ x + precision, scaled.T @ y + precision @ towards)
        return np.asarray(np.clip(np.maximum(found, beta / MOST_DROP), LOWEST, HIGHEST), np.float64)

    def pace(self, beta: Floats, factors: Floats, silent: Floats) -> tuple[Floats, Floats]:
        """The factors, given the prices: one step from where they are, each row for itself."""
        logs, one, two = self._logs(beta, factors)
        # However good the prices are: an endpoint is told from others only by more than its answers differ anyway.
        weight = self._say(logs) * silent[self.rows] / self.unrest**2
        target = logs + one * factors[self.rows, 0] + two * factors[self.rows, 1]
        count = len(factors)
        sums = [np.bincount(self.rows, weight * a, minlength=count)
                for a in (one * one, one * two, two * two, one * target, two * target)]  # fmt: skip
        # The prior of the two: mostly one and the same.
        wide, cross = SPREAD**2 + RATIO**2, SPREAD**2 - RATIO**2
        sure = wide**2 - cross**2
        a, b, d = sums[0] + wide / sure, sums[1] - cross / sure, sums[2] + wide / sure
        determinant = a * d - b * b
        found = np.stack(((d * sums[3] - b * sums[4]) / determinant, (a * sums[4] - b * sums[3]) / determinant), axis=1)
        np.clip(found, -MOST_FACTOR, MOST_FACTOR, out=found)
        return found, np.stack((d / determinant, a / determinant), axis=1)

    def error(self, beta: Floats, factors: Floats) -> float:
        logs = np.minimum(1.0, np.abs(self._logs(beta, factors)[0]))
        return float((logs * self.weight).sum() / self.weight.sum())
