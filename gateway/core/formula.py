"""The prediction itself: from what the books hold and what was learnt, for all candidates at once.

The idea: an engine with continuous batching does iterations, and the time of one is a sum of known parts

    T = base + decode B + context K + F(tokens) + pair q,      F: three slopes with two knees

(B sequences decoding, K tokens of context that they read, the prompt tokens of the iteration, q the attention work of
its prompts; Sarathi-Serve, OSDI'24, for the schedule). A new prompt waits for the end of the running iteration and
for the prompts before it, a chunk budget at a time; the decodes beside it are stretched by the share of time that
other people's prompts take, 1 / (1 - rho).

At 64 endpoints numpy's calls cost more than its arithmetic, so their number is what counts: all that is a plain sum
comes from one product of a small matrix with the books' table, F from a second one, and each call writes into a row
that is there already (`sheet`). No loop over endpoints. Nothing is kept of the sums from one prediction to the next:
tokens come from every endpoint between two requests, so every column would have to be made anew.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gateway.core import sheet as to
from gateway.core.books import (
    CACHED,
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
    SQUARE,
    SUMMED,
    WAITING,
    Books,
)
from gateway.core.learning import IDLE, PACE_REGIMES, QUEUED, SATURATED, Learning
from gateway.core.prediction import Prediction
from gateway.core.prices import LEAST_ROOM
from gateway.core.sheet import Sheet
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
        self._matrix = np.zeros((to.SUMS, SUMMED))
        self._whole, self._part = Sheet(1), Sheet(1)
        self._sees_others, self._others_context = False, 0.0
        self._prices: tuple[float, ...] = ()
        self._chunk = 0.0
        # Arrays of no dimension: the form in which numpy takes a number fastest.
        self._one, self._least_room = np.array(1.0), np.array(LEAST_ROOM)
        self._least_free = np.array((1.0 - LONGEST_RHO) * RECENT)
        self._take_prices(learnt.prices.each)

    def predict(self, prompt: float, snapshot: Snapshot, cached: Floats | None) -> Prediction:
        """See `Predictor.predict`; `prompt` in tokens."""
        fade = self._books.fade(snapshot.now)  # first: it may move the zero of what is copied
        s = self._sheet(snapshot)
        self._add_up(s, prompt, snapshot.now, fade, cached)
        self._first_token(s)
        np.subtract(s.free_after, s.work, s.free_after)
        np.maximum(s.free, self._least_free, out=s.spares)
        np.divide(s.levels, s.spares, s.paced)
        level, level_after = s.paced.dot(s.even).tolist()
        waits = self._waits_for_room(s) if s.over.item(s.over.argmax()) > 0.0 else None
        return Prediction(s, snapshot.rows, prompt, self._learnt.lasting, level, level_after, waits)

    def _sheet(self, snapshot: Snapshot) -> Sheet:
        """Where this prediction is worked out."""
        count = len(snapshot.rows)
        if snapshot.whole:
            if self._whole.count != count:
                self._whole = Sheet(count)
            self._whole.look_at(self._books, self._learnt.paces)
            return self._whole
        if self._part.count != count:
            self._part = Sheet(count)
        self._part.copy(self._books, self._learnt.paces, snapshot.rows)
        return self._part

    # --- sums ----------------------------------------------------------------------------------------------------

    def _add_up(self, s: Sheet, prompt: float, now: float, fade: float, cached: Floats | None) -> None:
        """All sums in one product; the matrix gets what changes with every request. Its constants: `_take_prices`."""
        prices = self._learnt.prices.each
        if prices is not self._prices or self._chunk != self._learnt.chunk:
            self._take_prices(prices)
        if self._books.has_others or self._sees_others:
            self._add_others(s)
        matrix = self._matrix
        matrix[to.PACE_AFTER, ONE] = RECENT * (prices[1] + prices[2] + prices[3] * prompt)
        matrix[to.ELAPSED, ONE] = now + prices[0]
        matrix[to.TOKENS, ONE] = matrix[to.OVER, ONE] = matrix[to.ALONE, ONE] = prompt
        matrix[to.FREE_NOW, RECENT_WORK] = matrix[to.FREE_AFTER, RECENT_WORK] = -fade
        matrix[to.PAIRS_ALL, ONE] = matrix[to.PAIRS_OWN, ONE] = prices[7] * prompt * prompt / 2.0
        if cached is None:
            s.cached.fill(0.0)
            s.square.fill(0.0)
        else:
            # One token is always worked off. Of p tokens with c cached, (p - c)(c + (p - c) / 2) = (p² - c²) / 2 pairs.
            np.minimum(cached, max(prompt - 1.0, 0.0), out=s.cached)
            np.multiply(s.cached, s.cached, s.square)
        matrix.dot(s.summed, s.sums)

    def _add_others(self, s: Sheet) -> None:
        """What other gateways have there: as many requests as were scraped, decoding, with contexts like ours.

        What of theirs waits is not known, and to guess it made choices worse: with four gateways, adding the mean share
        to queue and rho brought attainment from 0.95 down to 0.90. That a first token comes later for it is learnt as
        the correction of its regime.
        """
        decoding, waiting, context, others = s.present.dot(s.even).tolist()
        self._sees_others = others > 0.0
        self._learnt.see_others(others / max(0.1, others + decoding + waiting))
        each = self._others_context = context / decoding if decoding > 0.0 else 0.0
        matrix, more = self._matrix, self._prices[2] + self._prices[3] * each
        matrix[to.ITERATION, OTHERS] = more
        matrix[to.PACE_NOW, OTHERS] = matrix[to.PACE_AFTER, OTHERS] = RECENT * more
        matrix[to.OVER, OTHERS] = each

    def _take_prices(self, prices: tuple[float, ...]) -> None:
        """New prices, or another chunk budget: lay them out for the products."""
        self._prices, self._chunk = prices, self._learnt.chunk
        overhead, base, decode, context, slope1, slope2, slope3, pair = prices
        matrix = self._matrix
        # The iteration as it is; as it will be, without and with this request.
        matrix[to.ITERATION, [ONE, DECODING, CONTEXT]] = base, decode, context
        batch = np.array((base, decode, decode, context, context)) * RECENT
        matrix[to.PACE_NOW, [ONE, DECODING, WAITING, CONTEXT, QUEUE]] = batch
        matrix[to.PACE_AFTER] = matrix[to.PACE_NOW]
        # Room in an iteration; tokens to do; how long ago the running one would have ended; KV tokens too many.
        matrix[to.ROOM, [ONE, DECODING, OTHERS]] = self._chunk, -1.0, -1.0
        matrix[to.TOKENS, [QUEUE, CACHED]] = 1.0, -1.0
        matrix[to.ELAPSED, ENDS] = -1.0
        matrix[to.OVER, [CONTEXT, QUEUE, CAPACITY]] = 1.0, 1.0, -FULL
        # Of RECENT seconds, what prefill leaves; seconds of attention; who is in the batch, and in an iteration.
        matrix[[to.FREE_NOW, to.FREE_AFTER], ONE] = RECENT
        matrix[to.PAIRS_ALL, [PAIRS, SQUARE]] = pair, -pair / 2.0
        matrix[to.PAIRS_OWN, SQUARE] = -pair / 2.0
        matrix[to.BATCH, [DECODING, OTHERS, WAITING]] = 1.0
        matrix[to.BEFORE : to.ALONE + 1, [DECODING, OTHERS]] = 1.0
        matrix[to.ALONE, CACHED] = -1.0
        self._knee1, self._knee2 = (np.array(knee) for knee in self._learnt.prices.knees)
        # F of the larger sizes less F of the one before: by piece, each of them for three sizes.
        slopes = np.array((slope1, slope2 - slope1, slope3 - slope2))
        self._slopes = np.kron(slopes, np.array(((-1.0, 1.0, 0.0), (-1.0, 0.0, 1.0))))
        self._overhead = np.array(overhead)

    # --- what is no sum ------------------------------------------------------------------------------------------

    def _first_token(self, s: Sheet) -> None:
        """Rounds, the work of the prompt, the rest of the running iteration; of these, the time to the first token."""
        multiply, add, subtract, divide, maximum = np.multiply, np.add, np.subtract, np.divide, np.maximum
        left, rounds, chunk, ttft, spare = s.left, s.rounds, s.chunk, s.ttft, s.spare
        multiply(s.slowed, s.slow_decode, s.slowed)
        maximum(s.room, self._least_room, out=s.room)
        divide(s.passing, s.units, s.spares)
        np.ceil(s.spares, s.whole)
        # A boundary that nobody heard was one all the same. Where nothing of ours runs, nothing is left: see `ENDED`.
        maximum(left, self._one, out=left)
        subtract(left, spare, left)
        # A prompt that ought to have started by now: the longer it is late, the longer it will still take (of times
        # without a scale, as stalls are, the rest is about as long as what has passed).
        subtract(spare, self._one, spare)
        multiply(spare, s.due, spare)
        maximum(left, spare, out=left)
        # What prompts add to an iteration: each round's share of all tokens, and, as the harm it does, its own alone.
        divide(s.tokens, rounds, spare)
        add(s.beside, spare, s.beside)
        maximum(s.sizes, self._knee1, out=s.above1)
        maximum(s.sizes, self._knee2, out=s.above2)
        self._slopes.dot(s.pieces, s.added)
        multiply(chunk, rounds, chunk)
        add(s.added, s.pairs, s.added)
        multiply(s.added, s.slow_prefill, s.added)
        add(left, rounds, ttft)
        multiply(ttft, s.iteration, ttft)
        add(ttft, chunk, ttft)
        add(ttft, self._overhead, ttft)

    def _waits_for_room(self, s: Sheet) -> Floats:
        """Seconds until the KV cache has room for so many tokens more; the first token waits for it.

        What finishes gives back what it holds: all that is held, once in the time of a mean answer.
        """
        held = s.table[CONTEXT] + s.table[OTHERS] * self._others_context
        waits: Floats = np.clip(s.over / np.maximum(held, 1.0), 0.0, 1.0) * (self._learnt.mean_output * s.paced[0])
        s.ttft += waits
        return waits

    # --- for one endpoint ----------------------------------------------------------------------------------------

    def forecast(self, prediction: Prediction, position: int) -> Forecast:
        """The prediction for the candidate at `position`, with its 90 % interval, in a form that can be learnt from."""
        p, i, learnt, s = prediction, position, self._learnt, prediction.sheet
        rows, table = s.rows[:, i].tolist(), s.table[:, i].tolist()
        rounds, rho = rows[to.ROUNDS], 1.0 - rows[to.FREE_NOW] / RECENT
        f = Forecast()
        f.tokens = rows[to.TOKENS]
        f.pairs = table[PAIRS] + (p.prompt * p.prompt - table[SQUARE]) / 2.0
        f.decoding, f.context = rows[to.BEFORE], table[CONTEXT] + table[OTHERS] * self._others_context
        f.work, f.pace_now, f.pace_level = rows[to.ADDED + 1], rows[to.TTFT + 1], p.level
        one, two, three = learnt.added(f.decoding, f.tokens / rounds)
        # Without the factors of its endpoint: they may be others when the answer comes.
        f.features = (1.0, rounds, rounds * f.decoding, rounds * f.context, rounds * one, rounds * two,
                      rounds * three, f.pairs)  # fmt: skip
        waits = 0.0 if p.waits is None else p.waits.item(i)
        f.rest, f.waits = rows[to.LEFT] * rows[to.ITERATION] + waits, waits > 0.0
        f.regime = SATURATED if rounds > 1.0 or f.waits else QUEUED if f.rest > 0.0 else IDLE
        f.pace_regime = min(PACE_REGIMES - 1, int(rho * 5.0))
        f.ttft_base = rows[to.TTFT]
        # What its own prefill does to others it does not do to itself: that is over when its own tokens come.
        prices = learnt.prices.each
        more = s.slow_decode.item(0, i) * (prices[2] + prices[3] * p.prompt) / (1.0 - min(rho, LONGEST_RHO))
        f.tpot_base = p.level + p.lasting * (f.pace_now + more - p.level)
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
        one, two, three = self._learnt.pieces(prompt / rounds)
        each = prices[1] + prices[4] * one + prices[5] * two + prices[6] * three
        return prices[0] + rounds * each + prices[7] * prompt * prompt / 2.0

    def idle_tpot(self) -> float:
        """Seconds between tokens of a stream that is alone on an endpoint of this pool."""
        prices = self._learnt.prices.each
        return prices[1] + prices[2]
