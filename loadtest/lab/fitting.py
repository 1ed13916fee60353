"""Fits the prices of an engine's iteration to recorded streams, all at once and with nothing known beforehand.

The idea: the fit is the predictor's own (`gateway.core.prices`): first tokens and the stretches after them, prices
common to all endpoints and two factors for each, large errors cut. There it holds on to a prior, because it must be of
use after six answers; here there are thousands, so what it found becomes its own prior, several times over, until only
what the records say is left (iterated Tikhonov regularization). There the scatter of answers is a guess, here it is
measured: stretches, good to a per cent, have the say that is theirs. Chunk budgets and knees are tried out, and those
kept that explain the streams best. How sure each price is, is read off the normal equations.

An engine cuts a prompt into whole chunks and a rest, and since tokens beyond a knee cost more, that takes longer than
equal parts would. The predictor counts equal parts, by the knees it believed in; here it is done as the engine does it.
What a prompt beside a stream was counted as cannot be taken apart any more, but the linear map that takes the prompts
of the first tokens from the one count to the other (least squares) is good enough for sums over many of them.

A fifth of the streams is kept out of a first fit, to see how well it predicts what it has not seen; the prices that are
handed out are then fitted to all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np
import numpy.typing as npt

from gateway.core.learning import CHUNKS
from gateway.core.prediction import Prior
from gateway.core.prices import CUT, LEAST_ROOM, LOWEST, NAMES, Prices
from gateway.core.types import Floats
from gateway.core.window import CONTEXT, DECODING, PAIRS, REST, ROW, SECONDS, TOKENS, WIDTH, WORKED, Window
from loadtest.lab.evidence import Answers

LEAST_STREAMS, LEAST_STRETCHES = 200, 100
HELD_OUT = 5  # one in so many streams
KNEES = ((96.0, 128.0, 192.0, 256.0, 384.0), (256.0, 320.0, 512.0, 640.0, 768.0, 1024.0))
NEARLY = 10.0  # of what `_polish` returns: knees that come so near to the best explain the streams as well
SEARCHED = 3000  # streams, at most, on which chunk budgets and knees are tried
TURNS, AGAIN = 4, 5  # fits with one prior; how often what they found becomes the next one
POLISHED, HELD = 4, 0.3  # times; standard deviation, as a share, by which a price may leave what it was before
LEAST_SCATTER = 1e-4  # errors as shares: smaller ones are not believed
UNSURE = 0.5  # a price with a larger standard error (as a share of it) was hardly seen
# How much the middle four fifths of the streams must differ in a quantity, at least: as a factor, and in all.
_MUST_VARY = (
    ("first", TOKENS, "prompt tokens to do before the first token", 1.5, 50.0),
    ("rest", DECODING, "sequences decoding", 1.5, 2.0),
    ("rest", CONTEXT, "KV tokens that the decodes read", 1.5, 500.0),
)


class TooLittle(Exception):
    """The records do not say enough; the message says of what."""


Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was found. `prices` in seconds, in the order of `NAMES`, and `errors`, their relative standard errors.

    `factors`: (endpoints, 2), how many times as long decoding and prefill take there. `ttft_error`, `tpot_error`: mean
    absolute errors, as shares of what was observed, over the streams that were held out.
    """

    prices: Floats
    errors: Floats
    knees: tuple[float, float]
    chunk: float
    factors: Floats
    ttft_error: float
    tpot_error: float
    held_out: int


def fit(answers: Answers, knees: tuple[float, float] | None, endpoints: int) -> Fitted:
    """Raises TooLittle where there are too few streams, or too uniform ones."""
    if len(answers.first) < LEAST_STREAMS or answers.full_rest.sum() < LEAST_STRETCHES or knees is None:
        raise TooLittle(
            f"too few: {len(answers.first)} streams can be used, {int(answers.full_rest.sum())} of them with "
            f"enough tokens after the first; at least {LEAST_STREAMS} and {LEAST_STRETCHES} are needed"
        )
    _must_vary(answers)
    held_out = np.arange(len(answers.first)) % HELD_OUT == HELD_OUT - 1
    kept = answers.only(~held_out)
    found, chunk = _search(kept, knees, endpoints)
    prices, factors, _ = _settle(moved(kept, knees, found, chunk), found, endpoints, chunk, AGAIN)
    ttft_error, tpot_error = _errors(prices, moved(answers.only(held_out), knees, found, chunk), chunk, factors)
    every = moved(answers, knees, found, chunk)
    prices, factors, _ = _settle(every, found, endpoints, chunk, AGAIN)
    return Fitted(np.array(prices.each), _standard_errors(prices, every, chunk, factors), found, chunk,
                  np.exp(factors), ttft_error, tpot_error, int(held_out.sum()))  # fmt: skip


def _must_vary(answers: Answers) -> None:
    same = []
    for kind, column, words, factor, least in _MUST_VARY:
        full = answers.full_first if kind == "first" else answers.full_rest
        low, high = np.quantile(getattr(answers, kind)[full > 0.0, column], (0.1, 0.9)).tolist()
        if high < factor * low or high - low < least:
            same.append(f"{words} ({low:.4g} to {high:.4g} in four fifths of the streams)")
    if same:
        raise TooLittle(f"too uniform, what hardly varied cannot be priced: {'; '.join(same)}")


def _search(answers: Answers, knees: tuple[float, float], endpoints: int) -> tuple[tuple[float, float], float]:
    """The knees and the chunk budget that explain the streams best, of those that are tried."""
    size = len(answers.first)
    some = answers.only(np.arange(size) % -(-size // SEARCHED) == 0)

    def error(tried: tuple[float, float], chunk: float) -> float:
        return _settle(moved(some, knees, tried, chunk), tried, endpoints, chunk, 1)[2]

    chunk = min(CHUNKS, key=lambda chunk: error(knees, chunk))
    pairs = [knees, *((one, two) for one in KNEES[0] for two in KNEES[1] if one < two)]
    errors = {tried: error(tried, chunk) for tried in pairs}
    # The slope up to a small first knee is seen in few iterations: of those that do as well, the largest.
    good = [tried for tried in pairs if errors[tried] <= min(errors.values()) + NEARLY]
    return max(good, key=lambda tried: (tried[0], -errors[tried])), chunk


class _Exact(Prices):
    """Prices of prompts that are cut into whole chunks and a rest."""

    def quantities(self, window: Window, chunk: float) -> Floats:
        x = super().quantities(window, chunk)
        x[: len(window.first), 4:7] = self.cut(window.first, chunk)
        return x

    def cut(self, first: Floats, chunk: float) -> Floats:
        """Tokens by piece that the prompts before these first tokens add to their iterations: shape (streams, 3)."""
        decoding, tokens = first[:, DECODING], first[:, TOKENS]
        room = np.maximum(chunk - decoding, LEAST_ROOM)
        whole = np.ceil(tokens / room) - 1.0
        found: Floats = whole[:, None] * self.added(decoding, room) + self.added(decoding, tokens - whole * room)
        return found


def moved(answers: Answers, old: tuple[float, float], new: tuple[float, float], chunk: float) -> Answers:
    """The same streams with the prompt tokens beside them, which were counted by the old knees, as by the new ones."""
    one = np.ones(len(NAMES))
    before = Prices(one, old, sure=False).quantities(answers, chunk)[: len(answers.first), 4:]
    after = _Exact(one, new, sure=False).cut(answers.first, chunk)
    rest = answers.rest.copy()
    counted = rest[:, [*range(WORKED, WIDTH), PAIRS]]
    rest[:, WORKED:] = np.maximum(counted @ np.linalg.lstsq(before, after)[0], 0.0)
    return Answers(answers.first, rest, answers.full_rest)


def _settle(answers: Answers, knees: tuple[float, float], endpoints: int, chunk: float,
            again: int) -> tuple[Prices, Floats, float]:  # fmt: skip
    p = Prior()
    prior = np.array([p.overhead, p.base, p.decode, p.context, p.slope1, p.slope2, p.slope3, p.pair])
    factors, news = np.zeros((endpoints, 2)), np.ones(endpoints)
    for _ in range(again):
        prices = _Exact(prior, knees, sure=False)
        for _ in range(TURNS):
            factors = prices.fit(answers, chunk, factors, news)[0]
            prices.accept()
        prior = np.array(prices.each)
    return prices, factors, _polish(prices, answers, chunk, factors)


def _polish(prices: Prices, answers: Answers, chunk: float, factors: Floats) -> float:
    """Once more, each kind of answer weighted by how much its errors scatter. Returns how badly they are explained."""
    for _ in range(POLISHED):
        x, y, is_first = _shares(prices, answers, chunk, factors)
        weighted = x * _weights(x, y, is_first)[:, None]
        normal = weighted.T @ x + np.eye(len(NAMES)) / HELD**2
        found = np.linalg.solve(normal, weighted.T @ y + 1.0 / HELD**2)
        prices.use(prices.beta * np.maximum(found, LOWEST))
    counts = answers.full_first.sum(), answers.full_rest.sum()
    errors = _errors(prices, answers, chunk, factors)
    return sum(float(count) * log(max(error, LEAST_SCATTER)) for count, error in zip(counts, errors, strict=True))


def _shares(prices: Prices, answers: Answers, chunk: float, factors: Floats) -> tuple[Floats, Floats, Flags]:
    """First tokens, then stretches, as shares of the seconds that were observed.

    Returns what each price comes to, (answers, prices), what they should come to together, and which are first tokens.
    """
    there = np.concatenate((answers.full_first, answers.full_rest)) > 0.0
    every = np.concatenate((answers.first, answers.rest))[there]
    is_first = (np.arange(len(there)) < len(answers.first))[there]
    parts = prices.quantities(answers, chunk)[there] * np.array(prices.each)
    paces = np.exp(factors[every[:, ROW].astype(np.intp)])
    parts[:, 1:4] *= paces[:, :1]
    parts[:, 4:] *= paces[:, 1:]
    seconds = every[:, SECONDS]
    return parts / seconds[:, None], 1.0 - np.where(is_first, every[:, REST], 0.0) / seconds, is_first


def _weights(x: Floats, y: Floats, is_first: Flags) -> Floats:
    """Of each answer: one over the variance of its kind, from the median error, and less for those far out (Huber)."""
    errors = np.abs(y - x.sum(axis=1))
    scatter = np.where(is_first, *(max(LEAST_SCATTER, 1.48 * float(np.median(errors[kind])))
                                   for kind in (is_first, ~is_first)))  # fmt: skip
    weights: Floats = np.minimum(1.0, CUT * scatter / np.maximum(errors, LEAST_SCATTER)) / scatter**2
    return weights


def _errors(prices: Prices, answers: Answers, chunk: float, factors: Floats) -> tuple[float, float]:
    """Mean absolute errors of first tokens and of stretches, as shares of what was observed."""
    x, y, is_first = _shares(prices, answers, chunk, factors)
    errors = np.abs(y - x.sum(axis=1))
    return float(errors[is_first].mean()), float(errors[~is_first].mean())


def _standard_errors(prices: Prices, answers: Answers, chunk: float, factors: Floats) -> Floats:
    """Of each price, as a share of it. One that no stream speaks of gets 1, not a singular matrix."""
    x, y, is_first = _shares(prices, answers, chunk, factors)
    normal = (x * _weights(x, y, is_first)[:, None]).T @ x + np.eye(len(NAMES))
    errors: Floats = np.sqrt(np.diag(np.linalg.inv(normal)))
    return errors
