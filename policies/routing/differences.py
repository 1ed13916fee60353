"""How much the canary's mean differs from the stable arm's: paired in time, with a spread that correlation cannot fake.

The idea: what both arms share (a busy minute, other prompts, a predictor gone stale) cancels when the canary's mean
in a second or a few is set against the stable arm's in the same. What is left is not independent either: requests in
one step of an engine share its fate, and a queue outlives a request. So the spread of the sum is not taken from
requests but from sums over stretches of seconds, longer and longer ones (batch means, Law and Kelton); the longest
counts, and until it is known the shorter ones stand for it. Few stretches fit into a canary's first minutes, so the
stable arm lends its own: each of its servers, thinned to the canary's rate, is set against the others as if it were a
canary. That is an A/A test which runs all the time, on servers and not on requests, because what shares a server
shares its fate; it says how far two of a kind seem to be apart.

The sum is judged by a mixture of likelihoods over what the difference may be, of Student's t (Wang and Ramdas,
"Anytime-valid t-tests", 2023; with the asymptotic argument of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas,
"Time-uniform central limit theory", 2021), so it may be looked at any time.

Left to others: pairing (`tally`), what is done about it (`judge`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

SERVERS = 16
"""Of the stable arm, that are set against the others; more share these numbers."""
STRETCHES = (1.0, 4.0, 16.0, 64.0, 256.0)  # seconds
FIRST, KNOWN = 2, 8  # of STRETCHES, and of degrees of freedom there: before that nothing is said
TRUSTED = 8.0  # degrees of freedom that the spread of a shorter stretch stands for in that of the next one
GROWTH = 1.3  # by which that one is thought to be larger, until it is known,
FADING = 0.7  # or by this power of what the shorter one was larger than the one before it
SOONEST = 8  # pairs of blocks before anything is said
HARM, HARMLESS = 0.25, 0.12  # how large a difference is looked for when harm, or its absence, is
LEAST_SPREAD = 1e-3


class Spread(NamedTuple):
    """Variance of the sum for each unit of weight, and the degrees of freedom that it is known with."""

    variance: float
    freedom: float


class Differences:
    """Sums of weighted differences of means: row 0 is the canary, the others are servers of the stable arm."""

    __slots__ = ("_apart", "_closed", "_cached", "_count", "_open", "_since", "_squares", "pairs", "total")

    def __init__(self) -> None:
        shape = (len(STRETCHES), SERVERS + 1)
        self._open = np.zeros((*shape, 2))  # weight times difference, weight
        self._closed = np.zeros((*shape, 2))
        self._squares = np.zeros(shape)
        self._count = np.zeros(shape)
        self._since = [math.nan] * len(STRETCHES)
        self.total = np.zeros((SERVERS + 1, 2))
        self.pairs = 0
        self._cached: Spread | None = None
        self._apart: float | None = None

    def add(self, at: float, rows: Sequence[tuple[int, float, float]]) -> None:
        """Of one block: (row, difference, weight) of each that can be paired."""
        for i, length in enumerate(STRETCHES):
            if not self._since[i] <= at < self._since[i] + length:
                self._close(i)
                self._since[i] = at
        for row, difference, weight in rows:
            pair = (weight * difference, weight)
            self._open[:, row] += pair
            self.total[row] += pair
            self.pairs += row == 0

    def _close(self, i: int) -> None:
        sums = self._open[i]
        there = sums[:, 1] > 0.0
        if not there.any():
            return
        self._squares[i, there] += sums[there, 0] ** 2 / sums[there, 1]
        self._count[i] += there
        self._closed[i] += sums
        sums[:] = 0.0
        self._cached = self._apart = None

    @property
    def estimate(self) -> float:
        """NaN before the first pair."""
        total, weight = self.total[0]
        return float(total / weight) if weight > 0.0 else math.nan

    def spread(self) -> Spread | None:
        """None while too little is known."""
        if self._cached is None:
            self._cached = self._find_spread()
        return self._cached

    def _find_spread(self) -> Spread | None:
        weights = np.maximum(self._closed[..., 1], 1e-12)
        about_mean = np.maximum(self._squares - self._closed[..., 0] ** 2 / weights, 0.0)
        freedom = np.maximum(self._count - 1.0, 0.0)
        if freedom[FIRST].sum() < KNOWN:
            return None
        everybody = _longest(about_mean.sum(axis=1).tolist(), freedom.sum(axis=1).tolist(), None)
        return max(everybody, _longest(about_mean[:, 0].tolist(), freedom[:, 0].tolist(), everybody))

    def servers_apart(self) -> float:
        """How far servers of the stable arm are apart for good, beyond chance: a standard deviation."""
        if self._apart is None:
            self._apart = self._find_apart()
        return self._apart

    def _find_apart(self) -> float:
        spread = self.spread()
        rows = self.total[1:]
        rows = rows[rows[:, 1] > 0.0]
        if spread is None or len(rows) < 2:
            return 0.0
        means = rows[:, 0] / rows[:, 1]
        by_chance = spread.variance * float((1.0 / rows[:, 1]).mean())
        return math.sqrt(max(0.0, float(means.var(ddof=1)) - by_chance))

    def alike(self) -> float:
        """The logarithm of the evidence, mean of all servers of the stable arm, that one is not like the others."""
        spread = self.spread()
        rows = [row for row in self.total[1:] if row[1] > 0.0]
        if spread is None or not rows:
            return 0.0
        logs = [evidence(float(total), float(weight), spread, HARM) for total, weight in rows]
        most = max(logs)
        return most + math.log(sum(math.exp(each - most) for each in logs) / len(logs))

    def worse(self, by: float = 0.0) -> float:
        """The logarithm of the evidence that the canary's mean is larger by more than `by`."""
        spread = self.spread()
        if spread is None or self.pairs < SOONEST:
            return 0.0
        total, weight = self.total[0]
        return one_sided(float(total - by * weight), float(weight), spread, HARM)

    def better(self, margin: float) -> float:
        """And that it is not larger by `margin`."""
        spread = self.spread()
        if spread is None or self.pairs < SOONEST:
            return 0.0
        total, weight = self.total[0]
        return one_sided(float(margin * weight - total), float(weight), spread, HARMLESS)

    def half_width(self, risk: float, scale: float, grown: float = 1.0) -> float:
        """Of the interval that holds for ever, on one side, with a chance of `risk` of being wrong."""
        spread = self.spread()
        weight = float(self.total[0, 1]) * grown
        if spread is None or self.pairs < SOONEST or weight <= 0.0:
            return math.inf
        return width(weight, spread, scale, risk)

    def to_state(self) -> dict[str, Any]:
        return {
            "squares": self._squares.tolist(), "count": self._count.tolist(), "closed": self._closed.tolist(),
            "total": self.total.tolist(), "pairs": self.pairs,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """What was in stretches that had not ended is left out of the spread, not out of the sum."""
        shape = self._squares.shape
        squares, count = np.array(state["squares"], dtype=float), np.array(state["count"], dtype=float)
        closed, total = np.array(state["closed"], dtype=float), np.array(state["total"], dtype=float)
        if (squares.shape, count.shape, closed.shape, total.shape) != (shape, shape, (*shape, 2), self.total.shape):
            raise ValueError("differences of another version")
        self._squares, self._count, self._closed, self.total = squares, count, closed, total
        self.pairs = int(state["pairs"])
        self._cached = self._apart = None


def _longest(squares: Sequence[float], freedom: Sequence[float], prior: Spread | None) -> Spread:
    """Of the longest stretch: each is thought to be like the one before it, and a bit more, until it is known."""
    known, growth = prior, GROWTH
    for s, degrees in zip(squares, freedom, strict=True):
        if known is None:
            known = Spread(max(s / degrees, LEAST_SPREAD**2), degrees)
            continue
        trusted = min(known.freedom, TRUSTED)
        variance = known.variance if prior is not None else known.variance * growth
        longer = Spread((s + trusted * variance) / (degrees + trusted), degrees + trusted)
        # What grew with this stretch will go on growing, if more slowly.
        growth = max(GROWTH, (longer.variance / known.variance) ** FADING)
        known = longer
    assert known is not None
    return known


def evidence(total: float, weight: float, spread: Spread, scale: float) -> float:
    """The logarithm of a mixture of likelihood ratios against no difference: of about `scale`, both ways."""
    prior = spread.variance / scale**2
    noise = spread.freedom * spread.variance
    everything = noise + total**2 / weight
    rest = everything - total**2 / (weight + prior)
    return 0.5 * math.log(prior / (weight + prior)) + 0.5 * (spread.freedom + 1.0) * math.log(everything / rest)


def one_sided(total: float, weight: float, spread: Spread, scale: float) -> float:
    """The same with differences above zero only."""
    prior = spread.variance / scale**2
    z = total / math.sqrt(spread.variance * (weight + prior))
    if z < -30.0:
        return evidence(0.0, weight, spread, scale)  # it is less, and need not be told by how much
    return evidence(total, weight, spread, scale) + math.log(math.erfc(-z / math.sqrt(2.0)))


def width(weight: float, spread: Spread, scale: float, risk: float) -> float:
    """Where `evidence` is one over twice the risk, as a difference: solved for the total."""
    prior = spread.variance / scale**2
    share = math.exp((2.0 / (spread.freedom + 1.0)) * (0.5 * math.log(prior / (weight + prior)) + math.log(2.0 * risk)))
    # everything * share = rest, with everything = noise + x and rest = everything - x weight / (weight + prior)
    left = weight / (weight + prior) - (1.0 - share)
    if left <= 0.0:
        return math.inf
    squared = (1.0 - share) * spread.freedom * spread.variance / left
    return math.sqrt(squared / weight)
