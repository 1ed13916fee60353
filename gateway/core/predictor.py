"""How soon each endpoint would begin to answer, and how fast the rest would come: for all candidates at once.

The idea: an engine with continuous batching does iterations, and the time of one is a sum of known parts

    T = base + decode B + context K + F(tokens) + pair q,      F: three slopes with two knees

(B sequences decoding, K tokens of context that they read, the prompt tokens of the iteration, q the attention work of
its prompts; Sarathi-Serve, OSDI'24, for the schedule). A new prompt waits for the end of the running iteration and
for the prompts before it, a chunk budget at a time; the decodes beside it are stretched by the share of time that
other people's prompts take, 1 / (1 - rho). What is going on there is in `books`; what it costs and how far the
prediction may be off is in `learning`.

Everything is seconds and tokens on the caller's clock. No loop over endpoints on the way to a prediction.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from random import Random
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
    PAUSE,
    QUEUE,
    RECENT,
    RECENT_WORK,
    SUMMED,
    UNLIMITED,
    WAITING,
    Books,
    Line,
)
from gateway.core.learning import IDLE, PACE_REGIMES, QUEUED, SATURATED, Learning
from gateway.core.prediction import Prediction, PredictorReport, Prior
from gateway.core.prices import LEAST_ROOM
from gateway.core.types import Floats, Forecast, Outcome, Request

if TYPE_CHECKING:
    from gateway.core.fleet import Fleet
    from gateway.core.reservation import Reservation
    from gateway.core.snapshot import Snapshot

MOST_OTHERS = 4096.0  # requests of other gateways at one endpoint; more is a broken figure
MOST_PEERS = 8.0
LONGEST_RHO = 0.9
FULL = 0.97  # of the KV cache


class Predictor:
    """One per pool. The fleet tells it of every place taken; `predict` and `forecast` are asked by policies."""

    def __init__(self, random: Random, prior: Prior | None = None):
        self.random = random
        self.prior = prior or Prior()
        self.learnt = Learning(self.prior)
        self.books = Books()
        if self.prior.kv_tokens:
            self.books.capacity = self.prior.kv_tokens
            self.books.table[CAPACITY] = self.prior.kv_tokens
        # Laid out for `predict`. One-element arrays: numpy takes them faster than Python's numbers.
        self._matrix = np.zeros((11, SUMMED))
        self._even = np.empty(0)
        self._sees_others = False
        self._prices: tuple[float, ...] = ()
        self._chunk = 0.0
        self._nothing, self._least_room = np.zeros(1), np.array([LEAST_ROOM])
        self._longest_rho, self._per_recent = np.array([LONGEST_RHO]), np.array([1.0 / RECENT])
        self._take_prices(self.learnt.prices.each)
        self._silent: list[tuple[float, int, Reservation]] = []  # plain answers, by when they are taken to start
        self._serial = 0
        self._ids: dict[int, str] = {}  # endpoint ids by row
        self._kept: dict[str, tuple[float, float]] = {}  # paces of a former life, by endpoint id

    @property
    def mean_output(self) -> float:
        """The mean length of an answer, in tokens."""
        return self.learnt.mean_output

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
        learnt, books = self.learnt, self.books
        paces = learnt.paces
        if books.table.shape[1] < len(fleet.ours) or len(paces.decode) < len(fleet.ours):
            self._reach(len(fleet.ours))
        if self._kept:
            self._take_up_paces(fleet)
        table = column(books.table)
        slow_decode, slow_prefill = column(paces.decode), column(paces.prefill)
        prompt = request.prompt_tokens
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

    def _reach(self, size: int) -> None:
        self.learnt.paces.reach(size)
        self.books.reach(size)

    def _evenly(self, count: int) -> Floats:
        if len(self._even) != count:
            self._even = np.full(count, 1.0 / count)
        return self._even

    def _sums(self, prompt: float, now: float, table: Floats) -> Floats:
        """The matrix that makes the sums from the books' table, for a prompt of so many tokens; shape (11, SUMMED)."""
        prices = self.learnt.prices.each
        matrix = self._matrix
        if prices is not self._prices or self._chunk != self.learnt.chunk:
            self._take_prices(prices)
        matrix[2, ONE] = prices[1] + prices[2] + prices[3] * prompt
        matrix[6, ONE] = -now - prices[0]
        matrix[7, ONE] = prompt
        fade = self.books.fade(now) / RECENT
        matrix[9, RECENT_WORK] = fade
        means = table[:SUMMED].dot(self._evenly(table.shape[1])).tolist()
        if means[OTHERS] > 0.0 or self._sees_others:
            self._add_others(means, fade)
        return matrix

    def _add_others(self, means: list[float], fade: float) -> None:
        """What other gateways have there: as many requests as were scraped, like ours, and their prompts evenly spread.

        Their moment is not known, so of what waits, each endpoint has the mean.
        """
        matrix, prices = self._matrix, self._prices
        self._sees_others = means[OTHERS] > 0.0
        peers = min(MOST_PEERS, means[OTHERS] / max(0.1, means[DECODING] + means[WAITING]))
        context = means[CONTEXT] / means[DECODING] if means[DECODING] > 0.0 else 0.0
        queue = peers * means[QUEUE]
        matrix[0, OTHERS] = prices[2] + prices[3] * context
        matrix[1:3, OTHERS] = matrix[0, OTHERS]
        matrix[0, ONE] = prices[1]
        matrix[1, ONE] = prices[1] + prices[3] * queue
        matrix[2, ONE] += prices[3] * queue
        matrix[7, ONE] += queue
        matrix[3, ONE], matrix[4, ONE] = queue, peers * means[PAIRS]
        matrix[5, OTHERS] = -1.0
        matrix[7, OTHERS], matrix[10, OTHERS] = context, context
        matrix[9, ONE] = peers * means[RECENT_WORK] * fade

    def _take_prices(self, prices: tuple[float, ...]) -> None:
        """New prices, or another chunk budget: lay them out for the products."""
        self._prices, self._chunk = prices, self.learnt.chunk
        overhead, base, decode, context, slope1, slope2, slope3, pair = prices
        matrix = self._matrix
        matrix[0, [ONE, DECODING, CONTEXT]] = base, decode, context
        matrix[1, [ONE, DECODING, WAITING, CONTEXT, QUEUE]] = base, decode, decode, context, context
        matrix[2] = matrix[1]
        matrix[3, QUEUE] = matrix[4, PAIRS] = matrix[6, ENDS] = 1.0
        matrix[5, [ONE, DECODING]] = self._chunk, -1.0
        matrix[7, [CONTEXT, QUEUE, CAPACITY]] = 1.0, 1.0, -FULL
        matrix[8, [DECODING, OTHERS]] = matrix[10, CONTEXT] = 1.0
        knee1, knee2 = self.learnt.prices.knees
        self._knees = np.array((0.0, knee1, knee2)).reshape(3, 1, 1)
        self._slopes = np.array((slope1, slope2 - slope1, slope3 - slope2))
        self._pair, self._overhead = np.array([pair]), np.array([overhead])

    def _waits_for_room(self, held: Floats, over: Floats, pace: Floats) -> Floats:
        """Seconds until the KV cache has room for so many tokens more.

        What finishes gives back what it holds: all that is held, once in the time of a mean answer.
        """
        waits: Floats = np.clip(over / np.maximum(held, 1.0), 0.0, 1.0) * (self.mean_output * pace)
        return waits

    def forecast(self, prediction: Prediction, position: int) -> Forecast:
        """The prediction for the candidate at `position`, with its 90 % interval, in a form that can be learnt from."""
        p, i, learnt = prediction, position, self.learnt
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
        rounds = math.ceil(prompt / self.learnt.chunk)
        prices = self.learnt.prices.each
        each = prices[1] + self.learnt.price(0.0, prompt / rounds)
        return prices[0] + rounds * each + prices[7] * prompt * prompt / 2.0

    def idle_tpot(self) -> float:
        """Seconds between tokens of a stream that is alone on an endpoint of this pool."""
        prices = self.learnt.prices.each
        return prices[1] + prices[2]

    # --- what the fleet tells ------------------------------------------------------------------------------------

    def take_over(self, fleet: Fleet) -> None:
        """Begin with a fleet that has requests in flight: they were sent before there was this predictor."""
        self._reach(len(fleet.ours))
        self.see_others(fleet.requests - fleet.ours)
        for row, _ in fleet.members():
            self.told(row, fleet.kv_capacity.item(row))
            self.books.count(row, fleet)

    def dispatched(self, reservation: Reservation, request: Request, now: float) -> None:
        """A place has been taken."""
        row, fleet = reservation.row, reservation.fleet
        books = self.books
        if books.table.shape[1] < len(fleet.ours):
            self._reach(len(fleet.ours))
        self._ids[row] = reservation.endpoint.id
        line = books.line(row, now)
        idle = not line.busy and fleet.decoding.item(row) == 0.0
        own = reservation.uncached
        pairs = own * (max(0.0, reservation.prompt - own) + own / 2.0)
        forecast = reservation.forecast
        seconds = forecast.work if forecast is not None else self._work(row, own, pairs)
        books.send(reservation, pairs, seconds, now)
        books.count(row, fleet)
        if idle:
            self._begin(line, row, fleet.decoding.item(row), now + self.learnt.prices.each[0], now)
        if not request.stream:
            self._serial += 1
            after = forecast.ttft if forecast is not None else seconds
            heapq.heappush(self._silent, (now + after, self._serial, reservation))

    def _work(self, row: int, own: float, pairs: float) -> float:
        learnt = self.learnt
        return learnt.paces.prefill.item(row) * (learnt.price(0.0, own) + learnt.prices.each[7] * pairs)

    def beat(self, row: int, now: float) -> None:
        """A token of some stream came from there: perhaps an iteration has ended."""
        line = self.books.lines.get(row)
        if line is None:
            return
        if now - line.beat > line.pause:
            line.beat = self.books.beat[row] = self.books.ends[row] = now
            if line.busy:
                self._begin(line, row, line.waiting[0].fleet.decoding.item(row) if line.waiting else 0.0, now, None)

    def _begin(self, line: Line, row: int, decoding: float, at: float, arrived: float | None) -> None:
        """An iteration begins at `at`; prompts sent until `arrived` may be in it."""
        books, learnt = self.books, self.learnt
        prices = learnt.prices.each
        line.beat = books.beat[row] = at
        if arrived is None:
            arrived = at - prices[0]
        chunk = books.turn(line, row, learnt.room(decoding), arrived)
        extra = 0.0
        if chunk > 0.0:
            factor = learnt.paces.prefill.item(row)
            extra = factor * (learnt.price(decoding, chunk) + prices[7] * line.running_pairs)
        books.extra[row] = extra
        books.ends[row] = at + extra
        books.active[row] = 1.0 if decoding > 0.0 or chunk > 0.0 else 0.0
        line.pause = PAUSE * learnt.paces.decode.item(row) * prices[1]

    def started(self, reservation: Reservation, now: float) -> None:
        """Its first token came (or is taken to have come): the fleet's counts have moved already."""
        row, fleet, books = reservation.row, reservation.fleet, self.books
        line = books.line(row, now)
        decoding = fleet.decoding.item(row) - 1.0
        line.batch_seconds -= max(0.0, now - line.at)  # it was not there in the time that passes now
        books.pass_time(line, row, fleet, now)
        books.take_out(reservation, fleet.prefill.item(row))
        reservation.books, reservation.held = books, reservation.prompt
        books.context[row] += reservation.held
        books.count(row, fleet)
        own = reservation.uncached
        rounds = math.ceil(own / self.learnt.room(decoding))
        worked = line.worked
        for i, tokens in enumerate(self.learnt.added(decoding, own / rounds)):
            worked[i] += rounds * tokens
        worked[3] += own * (max(0.0, reservation.prompt - own) + own / 2.0)
        reservation.mark = books.mark(line)
        forecast, seconds = reservation.forecast, now - reservation.at
        is_ours = fleet.row_of(reservation.endpoint.id) == row
        if forecast is not None and reservation.stream and seconds > 0.0 and is_ours:
            self.learnt.first_token(row, forecast, seconds, now)

    def progressed(self, reservation: Reservation, written: float, now: float) -> None:
        """`written` events of its stream have come."""
        if reservation.started and written > reservation.written:
            row = reservation.row
            self.books.pass_time(self.books.line(row, now), row, reservation.fleet, now)
            more = (written - reservation.written) * self.learnt.per_event
            if reservation.books is not self.books:  # counted by a predictor that a reload has replaced
                reservation.books, reservation.held, reservation.mark = self.books, 0.0, None
                more += reservation.prompt
            reservation.held += more
            self.books.context[row] += more

    def ended(self, reservation: Reservation, now: float, outcome: Outcome | None) -> None:
        """The place has been given back."""
        row, fleet, books = reservation.row, reservation.fleet, self.books
        if now != now or fleet.row_of(reservation.endpoint.id) != row:  # forgotten with its endpoint
            return
        line = books.line(row, now)
        if not reservation.started:
            books.take_out(reservation, fleet.prefill.item(row))
            books.count(row, fleet)
            return
        line.batch_seconds += max(0.0, now - line.at)  # it was there until now
        books.pass_time(line, row, fleet, now)
        if reservation.books is books:
            books.context[row] -= reservation.held
        if fleet.decoding.item(row) == 0.0:
            books.context[row] = 0.0
        books.count(row, fleet)
        if outcome is not None and outcome.ended == "complete" and reservation.books is books:
            self._learn(reservation, outcome, line, now)

    def _learn(self, reservation: Reservation, outcome: Outcome, line: Line, now: float) -> None:
        """The answer is whole: so many iterations since its first token, with so much beside them."""
        tokens, learnt, mark = outcome.output_tokens, self.learnt, reservation.mark
        if not tokens > 0.0 or mark is None:
            return
        is_stream = reservation.stream and outcome.ttft > 0.0
        learnt.whole(tokens, reservation.written + 8.0 if is_stream and reservation.written >= 48.0 else 0.0)
        steps, seconds, span = tokens - 1.0, outcome.duration - outcome.ttft, now - mark[0]
        if not is_stream or steps < 4.0 or not seconds > 0.0 or not span > 0.0:
            return
        if reservation.forecast is not None:
            learnt.pace(reservation.forecast, seconds / steps)
        row = reservation.row
        decoding, context = (line.batch_seconds - mark[1]) / span, (line.context_seconds - mark[2]) / span
        others = self.books.others.item(row)
        if others:
            context *= 1.0 + others / max(1.0, decoding)
            decoding += others
        worked = [after - before for after, before in zip(line.worked, mark[3:], strict=True)]
        reservation.stretch = (seconds, steps, decoding, context, *worked, *learnt.prices.knees)
        learnt.stretch(row, seconds, steps, decoding, context, worked, now)

    def told(self, row: int, capacity: float) -> None:
        """A scrape said how many tokens the KV cache there holds (NaN: it did not)."""
        self._reach(row + 1)
        if capacity > 0.0:
            self.books.table[CAPACITY, row] = min(capacity, UNLIMITED)

    def see_others(self, others: Floats) -> None:
        """How many requests of others are where: one value per row."""
        self._reach(len(others))
        np.clip(np.nan_to_num(others), 0.0, MOST_OTHERS, out=self.books.others[: len(others)])

    def forget(self, row: int) -> None:
        """The endpoint in this row is gone."""
        self.books.forget(row)
        self.learnt.forget(row)
        self._ids.pop(row, None)

    def _start_silent(self, now: float) -> None:
        """Plain answers whose first token should have come by now."""
        while self._silent and self._silent[0][0] <= now:
            reservation = heapq.heappop(self._silent)[2]
            if not reservation.started and not reservation.settled:
                reservation.assume_started(now)

    # --- seeing and keeping --------------------------------------------------------------------------------------

    @property
    def calibrated(self) -> bool:
        """Whether the predictions may be used to pick."""
        return self.learnt.ttft.calibrated

    def report(self) -> PredictorReport:
        """How good the predictions have been lately."""
        ttft, tpot = self.learnt.ttft, self.learnt.tpot
        paces = {row: (d * p) ** 0.5 for row, (d, p) in self.learnt.paces.table().items()}
        return PredictorReport(ttft.error, ttft.coverage, tpot.error, tpot.coverage, self.calibrated, ttft.samples,
                               paces)  # fmt: skip

    def to_state(self) -> dict[str, object]:
        """What is worth keeping over a restart, as JSON values."""
        known = {self._ids[row]: pace for row, pace in self.learnt.paces.table().items() if row in self._ids}
        paces = {name: list(pace) for name, pace in {**self._kept, **known}.items()}
        return {**self.learnt.to_state(), "paces": paces}

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from what `to_state` gave. Raises ValueError, and changes nothing, if it is not that."""
        paces = state.get("paces", {})
        try:
            kept = {str(name): (float(pace[0]), float(pace[1])) for name, pace in paces.items()}  # type: ignore[attr-defined]
        except (AttributeError, TypeError, LookupError, OverflowError) as error:
            raise ValueError(f"not the paces of endpoints: {error}") from error
        if not all(0.01 < factor < 100.0 for pace in kept.values() for factor in pace):
            raise ValueError("paces that cannot be")
        self.learnt.restore(state)
        self._kept = kept

    def _take_up_paces(self, fleet: Fleet) -> None:
        """Endpoints of a former life are as fast as they were, until they show otherwise."""
        for row, endpoint in fleet.members():
            pace = self._kept.get(endpoint.id)
            if pace is not None:
                self._ids[row] = endpoint.id
                self.learnt.paces.resume(row, *pace)
        self._kept = {}
        self.learnt.paces.pool()
