"""How soon each endpoint would begin to answer, and how fast the rest would come: for all candidates at once.

The idea: an engine with continuous batching does iterations, and the time of one is a sum of known parts

    T = base + decode B + context K + F(tokens) + pair q,      F: three slopes with two knees

(B sequences decoding, K tokens of context that they read, the tokens of the iteration, q the attention work of its
prompts; Sarathi-Serve, OSDI'24, for the schedule). A new prompt waits for the end of the running iteration and for the
prompts before it, a chunk budget at a time; the decodes beside it are stretched by the share of time that other people's
prompts take, 1 / (1 - rho). What is there is in `books`, what it costs in `prices`, how the
endpoints differ in `paces`, how far the answer may be off in `intervals`.

Prices and paces are fitted to the answers in `window`. The chunk budget is not told by any server: the size that explains the first tokens best is taken.
Everything is seconds and tokens on the caller's clock. No loop over endpoints on the way to a prediction.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from gateway.core.books import RECENT, Books, Line
from gateway.core.intervals import Track
from gateway.core.paces import Paces
from gateway.core.prices import Prices
from gateway.core.types import Floats, Forecast, Outcome, Request
from gateway.core.window import Window

if TYPE_CHECKING:
    from gateway.core.reservation import Reservation
    from gateway.core.snapshot import Snapshot

CHUNKS = (512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
# Regimes of a first token: nothing before it, room in the next iteration, several iterations.
IDLE, QUEUED, SATURATED = 0, 1, 2
PACE_REGIMES = 4  # by rho
LONGEST_RHO = 0.9
TOKENS_TO_LEARN = 16.0  # a shorter stretch of a stream says little of its pace
FIRST_FIT = 6  # answers
EARLY = 300  # answers up to which fits are made by count; then at most one in FIT_EVERY seconds
FIT_EVERY = 1.0
CHUNK_TRIALS, CHUNK_BETTER = 4, 0.97  # every so many fits; another budget must bring the error down to this share


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed of an engine before its first answer. Seconds per unit (see prices.NAMES), tokens.

    The defaults stand for no GPU in particular: about a model of 8 billion parameters on a card of 2021. `chunk` 0: the
    token budget of an iteration is to be found out. `sure`: the prices belong to this very GPU and model.
    """

    overhead: float = 0.012
    base: float = 0.012
    decode: float = 3.0e-5
    context: float = 8.0e-8
    slope1: float = 1.5e-5
    slope2: float = 3.0e-5
    slope3: float = 4.0e-5
    pair: float = 2.0e-9
    knee1: float = 128.0
    knee2: float = 512.0
    chunk: float = 0.0
    kv_tokens: float = 0.0
    sure: bool = False


@dataclass(slots=True)
class Prediction:
    """One value per candidate, in seconds: see `Predictor.predict`. `batch` counts sequences decoding or waiting."""

    ttft: Floats
    tpot: Floats
    tpot_now: Floats
    work: Floats
    batch: Floats
    rho: Floats
    rows: object
    rest: Floats
    rounds: Floats
    tokens: Floats
    pairs: Floats
    decoding: Floats
    context: Floats
    waits: Floats | None = None


@dataclass(frozen=True, slots=True)
class PredictorReport:
    """How good the predictions of a pool have been lately: shares, not per cents. `paces` by row; 2 is half as fast."""

    ttft_error: float
    ttft_coverage: float
    tpot_error: float
    tpot_coverage: float
    calibrated: bool
    samples: int
    paces: Mapping[int, float] = field(default_factory=dict)


class Predictor:
    """One per pool. The fleet tells it of every place taken; `predict` and `forecast` are asked by policies."""

    def __init__(self, random: Random, prior: Prior | None = None):
        self.random = random
        self.prior = prior or Prior()
        p = self.prior
        self.prices = Prices(
            np.array([p.overhead, p.base, p.decode, p.context, p.slope1, p.slope2, p.slope3, p.pair]),
            (p.knee1, p.knee2), sure=p.sure,
        )  # fmt: skip
        self.window = Window()
        self._fit_at = FIRST_FIT  # answers in the window at which the next fit is due
        self._fitted_at = -math.inf
        self.books = Books()
        self.paces = Paces()
        self.ttft = Track(3)
        self.tpot = Track(PACE_REGIMES)
        self.chunk = p.chunk or 2048.0
        self.per_event = 1.0  # tokens that come with one event of a stream
        self.mean_output = 200.0
        self._silent: list[tuple[float, int, Reservation]] = []  # plain answers, by when they are taken to start
        self._serial = 0

    # --- predicting ----------------------------------------------------------------------------------------------

    def predict(self, request: Request, snapshot: Snapshot, cached: Floats | None = None) -> Prediction:
        """For each candidate, if this request were sent there now:

        `ttft` to its first token, `tpot` between tokens after it, `tpot_now` the same without it, `work` of prefill
        that it costs there, `rho` the share of time that prefill takes there. `cached`: tokens of its prompt that the
        candidates hold already (None: nobody does).
        """
        fleet, now, column = snapshot.fleet, snapshot.now, snapshot.column
        if self._silent and self._silent[0][0] <= now:
            self._start_silent(now)
        books, paces = self.books, self.paces
        if len(paces.decode) < len(fleet.ours):
            paces.reach(len(fleet.ours))
            books.reach(len(fleet.ours))
        overhead, base, decode, context, slope1, slope2, slope3, pair = self.prices.each
        ours, decoding = column(fleet.ours), column(fleet.decoding)
        others = column(fleet.requests) - ours
        kv, queue, pairs = column(books.context), column(books.queue), column(books.pairs)
        recent = column(books.recent)
        waiting = ours - decoding
        alien = float(others.sum())
        if alien > 0.5:
            scale = 1.0 + alien / max(1.0, float(ours.sum()))
            kv = kv + others * (float(kv.sum()) / max(1.0, float(decoding.sum())))
            decoding = decoding + others
            queue, pairs, recent = queue * scale, pairs * scale, recent * scale
        slow_decode, slow_prefill = column(paces.decode), column(paces.prefill)
        prompt = request.prompt_tokens
        own: Floats | float
        if cached is None:
            own = prompt
            own_pairs: Floats | float = own * own / 2.0
        else:
            own = np.maximum(prompt - cached, 1.0)
            own_pairs = own * (cached + own / 2.0)
        batch = decoding + waiting
        tokens = queue + own
        room = np.maximum(self.chunk - decoding, 64.0)
        rounds = np.ceil(tokens / room)
        sizes = np.empty((3, len(decoding)))
        sizes[0] = decoding
        np.divide(tokens, rounds, out=sizes[1])
        sizes[1] += decoding
        np.add(decoding, own, out=sizes[2])
        knee1, knee2 = self.prices.knees
        prices = slope1 * sizes
        prices += (slope2 - slope1) * np.maximum(sizes - knee1, 0.0)
        prices += (slope3 - slope2) * np.maximum(sizes - knee2, 0.0)
        prices *= slow_prefill
        steady = slow_decode * (base + decode * decoding + context * kv)
        iteration = steady
        rest = column(books.beat) + iteration
        rest += column(books.extra)
        rest -= now + overhead
        late = rest < 0.0
        if late.any():
            rest = np.where(late, np.mod(rest, iteration), rest)
        rest *= (decoding + column(books.running)) > 0.0
        pairs = pairs + own_pairs
        attention = slow_prefill * pair
        ttft = rest + rounds * (steady + prices[1] - prices[0]) + attention * pairs
        ttft += overhead
        work = prices[2] - prices[0] + attention * own_pairs
        rho = recent * np.exp((column(books.recent_at) - now) / RECENT) / RECENT
        held = kv + queue
        now_steady = slow_decode * (base + decode * batch + context * held)
        tpot_now = now_steady / (1.0 - np.minimum(rho, LONGEST_RHO))
        tpot = now_steady + slow_decode * (decode + context * prompt)
        tpot /= 1.0 - np.minimum(rho + work / RECENT, LONGEST_RHO)
        waits = None
        if self.prior.kv_tokens or fleet.kv_capacity.item(0) == fleet.kv_capacity.item(0):
            waits = self._waits_for_room(column(fleet.kv_capacity), held + prompt, kv, tpot_now)
            if waits is not None:
                ttft += waits
        return Prediction(ttft, tpot, tpot_now, work, batch, rho, snapshot.rows, rest, rounds, tokens, pairs, decoding,
                          kv, waits)  # fmt: skip

    def _waits_for_room(self, capacity: Floats, needed: Floats, held: Floats, tpot: Floats) -> Floats | None:
        """Seconds until the KV cache has room for it; None where there is room everywhere."""
        if self.prior.kv_tokens:
            capacity = np.where(capacity > 0.0, capacity, self.prior.kv_tokens)
        over = needed - 0.97 * capacity
        if not (over > 0.0).any():
            return None
        # What finishes gives back what it holds: all that is held, once in the time of a mean answer.
        waits: Floats = np.maximum(np.nan_to_num(over), 0.0) / np.maximum(held, 1.0) * (self.mean_output * tpot)
        return waits

    def forecast(self, prediction: Prediction, position: int) -> Forecast:
        """The prediction for the candidate at `position`, with its 90 % interval, in a form that can be learnt from."""
        p, i = prediction, position
        row = int(p.rows[i])  # type: ignore[index]
        slow_decode, slow_prefill = self.paces.decode.item(row), self.paces.prefill.item(row)
        rounds, decoding = p.rounds.item(i), p.decoding.item(i)
        own1, own2, own3 = self._added(decoding, p.tokens.item(i) / rounds)
        d, f = rounds * slow_decode, rounds * slow_prefill
        features = np.array((1.0, d, d * decoding, d * p.context.item(i), f * own1, f * own2, f * own3,
                             slow_prefill * p.pairs.item(i)))  # fmt: skip
        rest = p.rest.item(i)
        if p.waits is not None:
            rest += p.waits.item(i)
        forecast = Forecast()
        forecast.features = features
        regime = SATURATED if rounds > 1.0 or p.waits is not None else QUEUED if rest > 0.0 else IDLE
        pace_regime = min(PACE_REGIMES - 1, int(p.rho.item(i) * 5.0))
        forecast.regime = regime
        interval = self.ttft.regimes[regime]
        base = p.ttft.item(i)
        forecast.ttft = base * interval.correction()
        forecast.ttft_low, forecast.ttft_high = _ends(forecast.ttft, interval.low, interval.high)
        interval = self.tpot.regimes[pace_regime]
        pace = p.tpot.item(i)
        forecast.tpot = pace * interval.correction()
        forecast.tpot_low, forecast.tpot_high = _ends(forecast.tpot, interval.low, interval.high)
        forecast.marks = (rest, base, pace, float(pace_regime), p.work.item(i), p.tokens.item(i), decoding,
                          p.context.item(i), p.pairs.item(i))  # fmt: skip
        return forecast

    def _pieces(self, tokens: float) -> tuple[float, float, float]:
        """Tokens of an iteration up to the first knee, between the knees and beyond."""
        knee1, knee2 = self.prices.knees
        if tokens <= knee1:
            return tokens, 0.0, 0.0
        if tokens <= knee2:
            return knee1, tokens - knee1, 0.0
        return knee1, knee2 - knee1, tokens - knee2

    def _added(self, decoding: float, chunk: float) -> tuple[float, float, float]:
        """What a chunk adds to an iteration with so many decodes: tokens up to the first knee, between and beyond."""
        before, after = self._pieces(decoding), self._pieces(decoding + chunk)
        return after[0] - before[0], after[1] - before[1], after[2] - before[2]

    def _price(self, decoding: float, chunk: float) -> float:
        """Seconds that a chunk adds to an iteration with so many decodes, its attention apart."""
        one, two, three = self._added(decoding, chunk)
        prices = self.prices.each
        return prices[4] * one + prices[5] * two + prices[6] * three

    def idle_ttft(self, prompt: float) -> float:
        """Seconds to the first token of so long a prompt on an idle endpoint of this pool, nothing cached."""
        rounds = math.ceil(prompt / self.chunk)
        prices = self.prices.each
        return (
            prices[0] + rounds * (prices[1] + self._price(0.0, prompt / rounds)) + prices[7] * prompt * prompt / 2.0
        )

    def idle_tpot(self) -> float:
        """Seconds between tokens of a stream that is alone on an endpoint of this pool."""
        prices = self.prices.each
        return prices[1] + prices[2]

    # --- what the fleet tells ------------------------------------------------------------------------------------

    def dispatched(self, reservation: Reservation, request: Request, now: float) -> None:
        """A place has been taken."""
        row, fleet = reservation.row, reservation.fleet
        books = self.books
        if len(self.paces.decode) < len(fleet.ours):
            self.paces.reach(len(fleet.ours))
            books.reach(len(fleet.ours))
        line = books.line(row, now)
        idle = not line.busy and fleet.decoding.item(row) == 0.0
        own = reservation.uncached
        pairs = own * (max(0.0, reservation.prompt - own) + own / 2.0)
        forecast = reservation.forecast
        seconds = forecast.marks[4] if forecast is not None else self._work(row, own, pairs)
        books.send(reservation, pairs, seconds, now)
        if idle:
            self._begin(line, row, fleet.decoding.item(row), now + self.prices.each[0], now)
        if not request.stream:
            self._serial += 1
            after = forecast.ttft if forecast is not None else seconds
            heapq.heappush(self._silent, (now + after, self._serial, reservation))

    def _work(self, row: int, own: float, pairs: float) -> float:
        return self.paces.prefill.item(row) * (self._price(0.0, own) + self.prices.each[7] * pairs)

    def beat(self, row: int, now: float) -> None:
        """A token of some stream came from there: perhaps an iteration has ended."""
        line = self.books.lines.get(row)
        if line is None:
            return
        if now - line.beat > line.pause:
            line.beat = self.books.beat[row] = now
            if line.busy:
                self._begin(line, row, line.waiting[0].fleet.decoding.item(row) if line.waiting else 0.0, now, None)

    def _begin(self, line: Line, row: int, decoding: float, at: float, arrived: float | None) -> None:
        """An iteration begins at `at`; prompts sent until `arrived` may be in it."""
        books, prices = self.books, self.prices.each
        line.beat = books.beat[row] = at
        if arrived is None:
            arrived = at - prices[0]
        chunk = books.turn(line, row, max(64.0, self.chunk - decoding), arrived)
        factor = self.paces.prefill.item(row)
        extra = 0.0
        if chunk > 0.0:
            extra = factor * (self._price(decoding, chunk) + prices[7] * line.running_pairs)
        books.extra[row] = extra
        line.pause = 0.35 * self.paces.decode.item(row) * prices[1]

    def started(self, reservation: Reservation, now: float) -> None:
        """Its first token came (or is taken to have come): the fleet's counts have moved already."""
        row, fleet, books = reservation.row, reservation.fleet, self.books
        line = books.line(row, now)
        decoding = fleet.decoding.item(row) - 1.0
        line.batch_seconds -= max(0.0, now - line.at)  # it was not there in the time that passes now
        books.pass_time(line, row, fleet, now)
        books.take_out(reservation, fleet.prefill.item(row))
        books.context[row] += reservation.prompt
        own = reservation.uncached
        room = max(64.0, self.chunk - decoding)
        rounds = math.ceil(own / room)
        worked = line.worked
        for i, tokens in enumerate(self._added(decoding, own / rounds)):
            worked[i] += rounds * tokens
        worked[3] += own * (max(0.0, reservation.prompt - own) + own / 2.0)
        reservation.mark = books.mark(line)
        if reservation.stream and reservation.forecast is not None and fleet.row_of(reservation.endpoint.id) == row:
            self._learn_first(reservation, reservation.forecast, now)

    def progressed(self, reservation: Reservation, written: float, now: float) -> None:
        """`written` events of its stream have come."""
        if reservation.started and written > reservation.written:
            row = reservation.row
            self.books.pass_time(self.books.line(row, now), row, reservation.fleet, now)
            self.books.context[row] += (written - reservation.written) * self.per_event

    def ended(self, reservation: Reservation, now: float, outcome: Outcome | None) -> None:
        """The place has been given back."""
        row, fleet, books = reservation.row, reservation.fleet, self.books
        line = books.lines.get(row)
        if line is None or now != now:
            return
        if not reservation.started:
            books.take_out(reservation, fleet.prefill.item(row))
            return
        line.batch_seconds += max(0.0, now - line.at)  # it was there until now
        books.pass_time(line, row, fleet, now)
        books.context[row] -= reservation.prompt + reservation.written * self.per_event
        if fleet.decoding.item(row) == 0.0:
            books.context[row] = 0.0
        if outcome is not None and outcome.ended == "complete":
            self._learn_rest(reservation, outcome, line, now)

    def forget(self, row: int) -> None:
        """The endpoint in this row is gone."""
        self.books.forget(row)
        self.paces.forget(row)
        self.window.forget(row)

    def _start_silent(self, now: float) -> None:
        """Plain answers whose first token should have come by now."""
        while self._silent and self._silent[0][0] <= now:
            reservation = heapq.heappop(self._silent)[2]
            if not reservation.started and not reservation.settled:
                reservation.assume_started(now)

    # --- learning ------------------------------------------------------------------------------------------------

    def _learn_first(self, reservation: Reservation, forecast: Forecast, now: float) -> None:
        rest, base = forecast.marks[:2]
        observed = now - reservation.at
        if not observed > 0.0:
            return
        self.ttft.learn(forecast.regime, observed, forecast.ttft, base)
        self._learn_pace(reservation.row, forecast.features.tolist(), rest, observed)
        _, _, _, _, _, tokens, decoding, context, pairs = forecast.marks
        self.window.add_first(reservation.row, observed, rest, tokens, decoding, context, pairs)
        if self.window.count >= self._fit_at:
            self._fit(now)

    def _learn_pace(self, row: int, x: list[float], rest: float, seconds: float) -> None:
        parts = [price * quantity for price, quantity in zip(self.prices.each, x, strict=True)]
        changed = self.paces.learn(row, (parts[1] + parts[2] + parts[3]) / self.paces.decode.item(row),
                                   sum(parts[4:]) / self.paces.prefill.item(row), parts[0] + rest, seconds)  # fmt: skip
        if changed:
            self.window.forget(row)
            self.paces.pool()

    def _fit(self, now: float) -> None:
        """Fit prices and paces to the window, and now and then try whether another chunk budget explains it better."""
        count = self.window.count
        if count > EARLY and now - self._fitted_at < FIT_EVERY:
            self._fit_at = count + 1
            return
        self._fitted_at = now
        self._fit_at = count + max(FIRST_FIT, min(count // 2, 50))
        prices = self.prices
        factors, news = self.paces.estimates(len(self.paces.decode))
        found = prices.fit(self.window, self.chunk, factors, news)
        if not self.prior.chunk and prices.fits % CHUNK_TRIALS == CHUNK_TRIALS - 1:
            place = CHUNKS.index(self.chunk)
            fitted = prices.fitted
            for chunk in CHUNKS[max(0, place - 1) : place + 2]:
                trial = prices.fit(self.window, chunk, factors, news) if chunk != self.chunk else found
                if trial[2] < CHUNK_BETTER * found[2]:
                    self.chunk, found, fitted = chunk, trial, prices.fitted
            prices.fitted = fitted
        prices.accept()
        self.paces.accept(found[0], found[1])

    def _learn_rest(self, reservation: Reservation, outcome: Outcome, line: Line, now: float) -> None:
        """A stream's tokens after the first: so many iterations, with so much beside them."""
        tokens = outcome.output_tokens
        mark = reservation.mark
        if not tokens > 0.0 or mark is None:
            return
        self.mean_output += 0.02 * (tokens - self.mean_output)
        if not reservation.stream or not outcome.ttft > 0.0:
            return
        if reservation.written >= 48.0:
            ratio = tokens / (reservation.written + 8.0)
            self.per_event += 0.02 * (max(1.0, ratio) - self.per_event)
        steps, seconds, span = tokens - 1.0, outcome.duration - outcome.ttft, now - mark[0]
        if steps < 1.0 or not seconds > 0.0 or not span > 0.0:
            return
        forecast = reservation.forecast
        if forecast is not None and steps >= 4.0:
            self.tpot.learn(int(forecast.marks[3]), seconds / steps, forecast.tpot, forecast.marks[2])
        if steps < TOKENS_TO_LEARN:
            return
        row = reservation.row
        fleet = reservation.fleet
        others = max(0.0, fleet.requests.item(row) - fleet.ours.item(row))
        decoding = (line.batch_seconds - mark[1]) / span + others
        context = (line.context_seconds - mark[2]) / span
        if others:
            context *= decoding / max(1.0, decoding - others)
        worked = [after - before for after, before in zip(line.worked, mark[3:], strict=True)]
        slow_decode, slow_prefill = self.paces.decode.item(row), self.paces.prefill.item(row)
        d = steps * slow_decode
        x = [0.0, d, d * decoding, d * context, *(slow_prefill * quantity for quantity in worked)]
        self._learn_pace(row, x, 0.0, seconds)
        self.window.add_rest(row, seconds, steps, decoding, context, worked)
        reservation.stretch = (seconds, steps, decoding, context, *worked, *self.prices.knees)
        if self.window.count >= self._fit_at:
            self._fit(now)

    # --- seeing --------------------------------------------------------------------------------------------------

    @property
    def calibrated(self) -> bool:
        """Whether the predictions may be used to pick."""
        return self.ttft.calibrated

    def report(self) -> PredictorReport:
        paces = {row: (d * p) ** 0.5 for row, (d, p) in self.paces.table().items()}
        return PredictorReport(self.ttft.error, self.ttft.coverage, self.tpot.error, self.tpot.coverage,
                               self.calibrated, self.ttft.samples, paces)  # fmt: skip


def _ends(middle: float, low: float, high: float) -> tuple[float, float]:
    return middle * math.exp(low), middle * math.exp(high)


