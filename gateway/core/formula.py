"""The prediction itself: from what the books hold and what was learnt, for all candidates at once.

The idea: an engine with continuous batching does iterations, and the time of one is a sum of known parts

    T = base + decode B + context K + F(tokens) + pair q,      F: three slopes with two knees

(B sequences decoding, K tokens of context that they read, the prompt tokens of the iteration, q the attention work of
its prompts; Sarathi-Serve, OSDI'24, for the schedule). A new prompt waits for the end of the running iteration and
for the prompts before it, a chunk budget at a time; the decodes beside it are stretched by the share of time that
other people's prompts take, 1 / (1 - rho).

All that is a plain sum comes from one product of a small matrix with the books' table: at 64 endpoints numpy's calls
cost more than its arithmetic, so their number is what counts. No loop over endpoints.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gateway.core.books import (
    ACTIVE,
    CAPACITY,
    CONTEXT,
    DECODING,
    ENDS,
    ONE,
    OTHERS,
    PAIRS,
    QUEUE,
    RECENT,
    RECENT_WORK,
    SUMMED,
    WAITING,
    Books,
)
from gateway.core.learning import IDLE, PACE_REGIMES, QUEUED, SATURATED, Learning
from gateway.core.prediction import Prediction
from gateway.core.prices import LEAST_ROOM
from gateway.core.types import Floats, Forecast

if TYPE_CHECKING:
    from gateway.core.snapshot import Snapshot

LONGEST_RHO = 0.9
FULL = 0.97  # of the KV cache


class Formula:
    """Predicts from one pool's `learnt` and `books`; changes neither, but for moving the zero of fading sums.

    It notes how much of the load is others', since it has the sums.
    """

    def __init__(self, learnt: Learning, books: Books):
        self._learnt, self._books = learnt, books
        # One-element arrays: numpy takes them faster than Python's numbers.
        self._matrix = np.zeros((11, SUMMED))
        self._even = np.empty(0)
        self._sees_others = False
        self._prices: tuple[float, ...] = ()
        self._chunk = 0.0
        self._nothing, self._least_room = np.zeros(1), np.array([LEAST_ROOM])
        self._longest_rho, self._per_recent = np.array([LONGEST_RHO]), np.array([1.0 / RECENT])
        self._take_prices(learnt.prices.each)

    def predict(self, prompt: float, snapshot: Snapshot, cached: Floats | None) -> Prediction:
        """See `Predictor.predict`; `prompt` in tokens."""
        now, column = snapshot.now, snapshot.column
        learnt, books = self._learnt, self._books
        paces = learnt.paces
        table = column(books.table)
        slow_decode, slow_prefill = column(paces.decode), column(paces.prefill)
        own: Floats | float
        if cached is None:
            own = prompt
            own_pairs: Floats | float = prompt * prompt / 2.0
        else:
            own = np.maximum(prompt - cached, 1.0)
            own_pairs = own * (cached + own / 2.0)
        # Sums in one product: the iteration as it is, as it will be, and with this one in it; tokens and pairs before
        # it, room in an iteration, when the running one ends, KV tokens too many, all that decode, the share of time
        # that prefill takes, all the context that is read.
        sums = self._sums(prompt, now, table).dot(table[:SUMMED])
        sums[:3] *= slow_decode
        iteration, tokens, pairs = sums[0], sums[3], sums[4]
        tokens += own
        pairs += own_pairs
        rounds = np.ceil(tokens / np.maximum(sums[5], self._least_room))
        sizes = np.empty((3, len(iteration)))
        sizes[0] = decoding = sums[8]
        np.divide(tokens, rounds, out=sizes[1])
        np.add(sizes[0], own, out=sizes[2])
        sizes[1] += sizes[0]
        pieces = np.maximum(sizes - self._knees, self._nothing)
        added = self._slopes.dot(pieces.reshape(3, -1)).reshape(3, -1)
        added[1:] -= added[0]
        added[1:] *= slow_prefill
        rest = sums[6]
        rest += iteration
        late = rest < self._nothing
        np.mod(rest, iteration, out=rest, where=late)
        rest *= table[ACTIVE]  # where only others' requests run, no boundary was heard
        attention = slow_prefill * self._pair
        ttft = iteration + added[1]
        ttft *= rounds
        ttft += rest
        ttft += attention * pairs
        ttft += self._overhead
        work = attention * own_pairs
        work += added[2]
        shares = np.empty((2, len(iteration)))
        shares[0] = sums[9]
        np.multiply(work, self._per_recent, out=shares[1])
        shares[1] += shares[0]
        rho = shares[0]
        paced = sums[1:3] / (1.0 - np.minimum(shares, self._longest_rho))
        # The pool evens out what is uneven now, so only a part of each difference lasts.
        levels = paced.dot(self._evenly(len(iteration)))
        lasting = paced * learnt.lasting
        lasting += (levels * (1.0 - learnt.lasting))[:, None]
        waits = self._waits_for_room(sums[10], sums[7], paced[0]) if sums[7].max() > 0.0 else None
        if waits is not None:
            ttft += waits
        return Prediction(ttft, lasting[1], lasting[0], work, decoding + table[WAITING], rho, snapshot.rows, rest,
                          rounds, tokens, pairs, decoding, sums[10], paced[0], levels.item(0),
                          prompt, waits)  # fmt: skip

    def _evenly(self, count: int) -> Floats:
        if len(self._even) != count:
            self._even = np.full(count, 1.0 / count)
        return self._even

    def _sums(self, prompt: float, now: float, table: Floats) -> Floats:
        """The matrix that makes the sums from the books' table, for a prompt of so many tokens; shape (11, SUMMED)."""
        prices = self._learnt.prices.each
        matrix = self._matrix
        if prices is not self._prices or self._chunk != self._learnt.chunk:
            self._take_prices(prices)
        matrix[2, ONE] = prices[1] + prices[2] + prices[3] * prompt
        matrix[6, ONE] = -now - prices[0]
        matrix[7, ONE] = prompt
        fade = self._books.fade(now) / RECENT
        matrix[9, RECENT_WORK] = fade
        means = table[:SUMMED].dot(self._evenly(table.shape[1])).tolist()
        if means[OTHERS] > 0.0 or self._sees_others:
            self._add_others(means)
        return matrix

    def _add_others(self, means: list[float]) -> None:
        """What other gateways have there: as many requests as were scraped, decoding, with contexts like ours.

        What of theirs waits is not known, and to guess it made choices worse: with four gateways, adding the mean share
        to queue and rho brought attainment from 0.95 down to 0.90. That a first token comes later for it is learnt as
        the correction of its regime.
        """
        matrix, prices = self._matrix, self._prices
        self._sees_others = means[OTHERS] > 0.0
        self._learnt.see_others(means[OTHERS] / max(0.1, means[OTHERS] + means[DECODING] + means[WAITING]))
        context = means[CONTEXT] / means[DECODING] if means[DECODING] > 0.0 else 0.0
        matrix[:3, OTHERS] = prices[2] + prices[3] * context
        matrix[5, OTHERS] = -1.0
        matrix[7, OTHERS], matrix[10, OTHERS] = context, context

    def _take_prices(self, prices: tuple[float, ...]) -> None:
        """New prices, or another chunk budget: lay them out for the products."""
        self._prices, self._chunk = prices, self._learnt.chunk
        overhead, base, decode, context, slope1, slope2, slope3, pair = prices
        matrix = self._matrix
        matrix[0, [ONE, DECODING, CONTEXT]] = base, decode, context
        matrix[1, [ONE, DECODING, WAITING, CONTEXT, QUEUE]] = base, decode, decode, context, context
        matrix[2] = matrix[1]
        matrix[3, QUEUE] = matrix[4, PAIRS] = matrix[6, ENDS] = 1.0
        matrix[5, [ONE, DECODING]] = self._chunk, -1.0
        matrix[7, [CONTEXT, QUEUE, CAPACITY]] = 1.0, 1.0, -FULL
        matrix[8, [DECODING, OTHERS]] = matrix[10, CONTEXT] = 1.0
        knee1, knee2 = self._learnt.prices.knees
        self._knees = np.array((0.0, knee1, knee2)).reshape(3, 1, 1)
        self._slopes = np.array((slope1, slope2 - slope1, slope3 - slope2))
        self._pair, self._overhead = np.array([pair]), np.array([overhead])

    def _waits_for_room(self, held: Floats, over: Floats, pace: Floats) -> Floats:
        """Seconds until the KV cache has room for so many tokens more.

        What finishes gives back what it holds: all that is held, once in the time of a mean answer.
        """
        waits: Floats = np.clip(over / np.maximum(held, 1.0), 0.0, 1.0) * (self._learnt.mean_output * pace)
        return waits

    def forecast(self, prediction: Prediction, position: int) -> Forecast:
        """The prediction for the candidate at `position`, with its 90 % interval, in a form that can be learnt from."""
        p, i, learnt = prediction, position, self._learnt
        rounds = p.rounds.item(i)
        f = Forecast()
        f.tokens, f.pairs = p.tokens.item(i), p.pairs.item(i)
        f.decoding, f.context = p.decoding.item(i), p.context.item(i)
        f.work, f.pace_now, f.pace_level = p.work.item(i), p.pace_now.item(i), p.pace_level
        one, two, three = learnt.added(f.decoding, f.tokens / rounds)
        # Without the factors of its endpoint: they may be others when the answer comes.
        f.features = np.array((1.0, rounds, rounds * f.decoding, rounds * f.context, rounds * one, rounds * two,
                               rounds * three, f.pairs))  # fmt: skip
        waits = 0.0 if p.waits is None else p.waits.item(i)
        f.rest, f.waits = p.rest.item(i) + waits, waits > 0.0
        f.regime = SATURATED if rounds > 1.0 or f.waits else QUEUED if f.rest > 0.0 else IDLE
        f.pace_regime = min(PACE_REGIMES - 1, int(p.rho.item(i) * 5.0))
        f.ttft_base = p.ttft.item(i)
        # What its own prefill does to others it does not do to itself: that is over when its own tokens come.
        prices = learnt.prices.each
        more = learnt.paces.decode.item(int(p.rows[i])) * (prices[2] + prices[3] * p.prompt)
        f.tpot_base = p.tpot_now.item(i) + learnt.lasting * more / (1.0 - min(p.rho.item(i), LONGEST_RHO))
        interval = learnt.ttft.regimes[f.regime]
        f.ttft = f.ttft_base * interval.correction()
        f.ttft_low, f.ttft_high = f.ttft * math.exp(interval.low), f.ttft * math.exp(interval.high)
        interval = learnt.tpot.regimes[f.pace_regime]
        f.tpot = f.tpot_base * interval.correction()
        f.tpot_low, f.tpot_high = f.tpot * math.exp(interval.low), f.tpot * math.exp(interval.high)
        return f

    def idle_ttft(self, prompt: float) -> float:
        """Seconds to the first token of so long a prompt on an idle endpoint of this pool, nothing cached."""
        rounds = math.ceil(prompt / self._learnt.chunk)
        prices = self._learnt.prices.each
        each = prices[1] + self._learnt.price(0.0, prompt / rounds)
        return prices[0] + rounds * each + prices[7] * prompt * prompt / 2.0

    def idle_tpot(self) -> float:
        """Seconds between tokens of a stream that is alone on an endpoint of this pool."""
        prices = self._learnt.prices.each
        return prices[1] + prices[2]
