"""Fits the prices of an engine's iteration to recorded streams, all at once and with nothing known beforehand.

The idea: the fit is the predictor's own (`gateway.core.prices`): first tokens and the stretches after them, prices
common to all endpoints and two factors for each, large errors cut. There it holds on to a prior, because it must be of
use after six answers; here there are thousands, so what it found becomes its own prior, several times over, until only
what the records say is left (iterated Tikhonov regularization). Chunk budgets and knees are tried out, and those kept
that explain the streams best. How sure each price is, is read off the normal equations.

An engine cuts a prompt into whole chunks and a rest, and since tokens beyond a knee cost more, that takes longer than
equal parts would. The predictor counts equal parts, by the knees it believed in; here it is done as the engine does it.
What a prompt beside a stream was counted as cannot be taken apart any more, but the linear map that takes the prompts
of the first tokens from the one count to the other (least squares) is good enough for sums over many of them.

A fifth of the streams is kept out of a first fit, to see how well it predicts what it has not seen; the prices that are
handed out are then fitted to all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gateway.core.learning import CHUNKS
from gateway.core.prediction import Prior
from gateway.core.prices import FIRST_NOISE, LEAST_ROOM, NAMES, REST_NOISE, Prices
from gateway.core.types import Floats
from gateway.core.window import CONTEXT, DECODING, PAIRS, REST, ROW, SECONDS, TOKENS, WIDTH, WORKED, Window
from loadtest.lab.evidence import Answers

LEAST_STREAMS, LEAST_STRETCHES = 200, 100
HELD_OUT = 5  # one in so many streams
KNEES = ((64.0, 96.0, 128.0, 192.0, 256.0, 384.0), (256.0, 320.0, 512.0, 640.0, 768.0, 1024.0))
SEARCHED = 5000  # streams, at most, on which chunk budgets and knees are tried
TURNS, AGAIN = 4, 5  # fits with one prior; how often what they found becomes the next one
UNSURE = 0.5  # a price with a larger standard error (as a share of it) was hardly seen
# How much the middle four fifths of the streams must differ in a quantity, at least: as a factor, and in all.
_MUST_VARY = (
    ("first", TOKENS, "prompt tokens to do before the first token", 1.5, 50.0),
    ("rest", DECODING, "sequences decoding", 1.5, 2.0),
    ("rest", CONTEXT, "KV tokens that the decodes read", 1.5, 500.0),
)


class TooLittle(Exception):
    """The records do not say enough; the message says of what."""


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
    return min(pairs, key=lambda tried: error(tried, chunk)), chunk


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
    factors, news, error = np.zeros((endpoints, 2)), np.ones(endpoints), np.inf
    for _ in range(again):
        prices = _Exact(prior, knees, sure=False)
        for _ in range(TURNS):
            factors, _, error = prices.fit(answers, chunk, factors, news)
            prices.accept()
        prior = np.array(prices.each)
    return prices, factors, error


def _parts(prices: Prices, answers: Answers, chunk: float, factors: Floats) -> tuple[Floats, Floats, Floats]:
    """First tokens, then stretches: seconds by price, shape (2 streams, prices), those of `rest`, and the observed."""
    size = len(answers.first)
    every = np.concatenate((answers.first, answers.rest))
    parts = prices.quantities(answers, chunk) * np.array(prices.each)
    paces = np.exp(factors[every[:, ROW].astype(np.intp)])
    parts[:, 1:4] *= paces[:, :1]
    parts[:, 4:] *= paces[:, 1:]
    rest = every[:, REST].copy()
    rest[size:] = 0.0
    return parts, rest, every[:, SECONDS]


def _errors(prices: Prices, answers: Answers, chunk: float, factors: Floats) -> tuple[float, float]:
    parts, rest, seconds = _parts(prices, answers, chunk, factors)
    size = len(answers.first)
    there = np.concatenate((answers.full_first, answers.full_rest)) > 0.0
    errors = np.abs(parts.sum(axis=1) + rest - seconds) / np.where(there, seconds, 1.0)
    return float(errors[:size][there[:size]].mean()), float(errors[size:][there[size:]].mean())


def _standard_errors(prices: Prices, answers: Answers, chunk: float, factors: Floats) -> Floats:
    """Of each price, as a share of it, from the errors as they are."""
    parts, rest, seconds = _parts(prices, answers, chunk, factors)
    size = len(answers.first)
    there = np.concatenate((answers.full_first, answers.full_rest)) > 0.0
    parts, rest, seconds = parts[there], rest[there], seconds[there]
    noise = np.where(np.arange(2 * size) < size, FIRST_NOISE, REST_NOISE)[there]
    x = parts / (seconds * noise)[:, None]
    residuals = np.clip((parts.sum(axis=1) + rest - seconds) / (seconds * noise), -2.0, 2.0)
    # A price that no stream speaks of gets an error of 1, not a singular matrix.
    found = np.linalg.inv(x.T @ x + np.eye(len(NAMES)))
    errors: Floats = np.sqrt(np.diag(found) * np.maximum(1e-6, np.mean(residuals**2)))
    return errors
