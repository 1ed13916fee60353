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

from gateway.core.books import PAUSE, RECENT, Books, Line
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
        if len(paces.decode) < len(fleet.ours):
            paces.reach(len(fleet.ours))
            books.reach(len(fleet.ours))
        if self._kept:
            self._take_up_paces(fleet)
        overhead, base, decode, context, slope1, slope2, slope3, pair = learnt.prices.each
        ours, decoding = column(fleet.ours), column(fleet.decoding)
        others = column(fleet.requests) - ours
        kv, queue, pairs = column(books.context), column(books.queue), column(books.pairs)
        recent = column(books.recent)
        waiting = ours - decoding
        alien = float(others.sum())
        if alien > 0.5:
            others = np.clip(others, 0.0, MOST_OTHERS)
            # What other gateways have sent is taken to be like ours, and evenly spread: their moment is not known.
            peers = min(MOST_PEERS, alien / max(1.0, float(ours.sum()))) / len(ours)
            kv = kv + others * (float(kv.sum()) / max(1.0, float(decoding.sum())))
            decoding = decoding + others
            queue = queue + peers * float(queue.sum())
            pairs = pairs + peers * float(pairs.sum())
            recent = recent + peers * float(recent.sum())
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
        room = np.maximum(learnt.chunk - decoding, LEAST_ROOM)
        rounds = np.ceil(tokens / room)
        sizes = np.empty((3, len(decoding)))
        sizes[0] = decoding
        np.divide(tokens, rounds, out=sizes[1])
        sizes[1] += decoding
        np.add(decoding, own, out=sizes[2])
        knee1, knee2 = learnt.prices.knees
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
        # The pool evens out what is uneven now, so only a part of each difference lasts.
        level = float(tpot_now.sum()) / len(tpot_now)
        after = float(tpot.sum()) / len(tpot)
        now_there = tpot_now
        tpot_now = level + learnt.lasting * (tpot_now - level)
        tpot = after + learnt.lasting * (tpot - after)
        waits = None
        if self.prior.kv_tokens or fleet.kv_capacity.item(0) == fleet.kv_capacity.item(0):
            waits = self._waits_for_room(column(fleet.kv_capacity), held + prompt, kv, now_there)
            if waits is not None:
                ttft += waits
        return Prediction(ttft, tpot, tpot_now, work, batch, rho, snapshot.rows, rest, rounds, tokens, pairs, decoding,
                          kv, now_there, level, waits)  # fmt: skip

    def _waits_for_room(self, capacity: Floats, needed: Floats, held: Floats, tpot: Floats) -> Floats | None:
        """Seconds until the KV cache has room for it; None where there is room everywhere."""
        if self.prior.kv_tokens:
            capacity = np.where(capacity > 0.0, capacity, self.prior.kv_tokens)
        over = needed - FULL * capacity
        if not (over > 0.0).any():
            return None
        # What finishes gives back what it holds: all that is held, once in the time of a mean answer.
        waits: Floats = np.maximum(np.nan_to_num(over), 0.0) / np.maximum(held, 1.0) * (self.mean_output * tpot)
        return waits

    def forecast(self, prediction: Prediction, position: int) -> Forecast:
        """The prediction for the candidate at `position`, with its 90 % interval, in a form that can be learnt from."""
        p, i, learnt = prediction, position, self.learnt
        row = int(p.rows[i])
        slow_decode, slow_prefill = learnt.paces.decode.item(row), learnt.paces.prefill.item(row)
        rounds = p.rounds.item(i)
        f = Forecast()
        f.tokens, f.pairs = p.tokens.item(i), p.pairs.item(i)
        f.decoding, f.context = p.decoding.item(i), p.context.item(i)
        f.work, f.pace_now, f.pace_level = p.work.item(i), p.pace_now.item(i), p.pace_level
        one, two, three = learnt.added(f.decoding, f.tokens / rounds)
        d, e = rounds * slow_decode, rounds * slow_prefill
        f.features = np.array((1.0, d, d * f.decoding, d * f.context, e * one, e * two, e * three,
                               slow_prefill * f.pairs))  # fmt: skip
        f.rest = p.rest.item(i) + (0.0 if p.waits is None else p.waits.item(i))
        f.regime = SATURATED if rounds > 1.0 or p.waits is not None else QUEUED if f.rest > 0.0 else IDLE
        f.pace_regime = min(PACE_REGIMES - 1, int(p.rho.item(i) * 5.0))
        f.ttft_base, f.tpot_base = p.ttft.item(i), p.tpot.item(i)
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

    def dispatched(self, reservation: Reservation, request: Request, now: float) -> None:
        """A place has been taken."""
        row, fleet = reservation.row, reservation.fleet
        books = self.books
        if len(self.learnt.paces.decode) < len(fleet.ours):
            self.learnt.paces.reach(len(fleet.ours))
            books.reach(len(fleet.ours))
        self._ids[row] = reservation.endpoint.id
        line = books.line(row, now)
        idle = not line.busy and fleet.decoding.item(row) == 0.0
        own = reservation.uncached
        pairs = own * (max(0.0, reservation.prompt - own) + own / 2.0)
        forecast = reservation.forecast
        seconds = forecast.work if forecast is not None else self._work(row, own, pairs)
        books.send(reservation, pairs, seconds, now)
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
            line.beat = self.books.beat[row] = now
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
        line.pause = PAUSE * learnt.paces.decode.item(row) * prices[1]

    def started(self, reservation: Reservation, now: float) -> None:
        """Its first token came (or is taken to have come): the fleet's counts have moved already."""
        row, fleet, books = reservation.row, reservation.fleet, self.books
        line = books.line(row, now)
        decoding = fleet.decoding.item(row) - 1.0
        line.batch_seconds -= max(0.0, now - line.at)  # it was not there in the time that passes now
        books.pass_time(line, row, fleet, now)
        books.take_out(reservation, fleet.prefill.item(row))
        reservation.held = reservation.prompt
        books.context[row] += reservation.held
        own = reservation.uncached
        rounds = math.ceil(own / self.learnt.room(decoding))
        worked = line.worked
        for i, tokens in enumerate(self.learnt.added(decoding, own / rounds)):
            worked[i] += rounds * tokens
        worked[3] += own * (max(0.0, reservation.prompt - own) + own / 2.0)
        reservation.mark = books.mark(line)
        forecast, seconds = reservation.forecast, now - reservation.at
        if forecast is not None and reservation.stream and seconds > 0.0 and fleet.row_of(reservation.endpoint.id) == row:
            self.learnt.first_token(row, forecast, seconds, now)

    def progressed(self, reservation: Reservation, written: float, now: float) -> None:
        """`written` events of its stream have come."""
        if reservation.started and written > reservation.written:
            row = reservation.row
            self.books.pass_time(self.books.line(row, now), row, reservation.fleet, now)
            more = (written - reservation.written) * self.learnt.per_event
            reservation.held += more
            self.books.context[row] += more

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
        books.context[row] -= reservation.held
        if fleet.decoding.item(row) == 0.0:
            books.context[row] = 0.0
        if outcome is not None and outcome.ended == "complete":
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
        row, fleet = reservation.row, reservation.fleet
        decoding, context = (line.batch_seconds - mark[1]) / span, (line.context_seconds - mark[2]) / span
        others = max(0.0, fleet.requests.item(row) - fleet.ours.item(row))
        if others:
            context *= 1.0 + others / max(1.0, decoding)
            decoding += others
        worked = [after - before for after, before in zip(line.worked, mark[3:], strict=True)]
        reservation.stretch = (seconds, steps, decoding, context, *worked, *learnt.prices.knees)
        learnt.stretch(row, seconds, steps, decoding, context, worked, now)

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
        paces = {self._ids[row]: list(pace) for row, pace in self.learnt.paces.table().items() if row in self._ids}
        return {**self.learnt.to_state(), "paces": paces}

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from what `to_state` gave. Raises ValueError, and changes nothing, if it is not that."""
        paces = state.get("paces", {})
        try:
            kept = {str(name): (float(pace[0]), float(pace[1])) for name, pace in paces.items()}  # type: ignore[attr-defined]
        except (AttributeError, TypeError, IndexError) as error:
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
                self.learnt.paces.resume(row, *pace)
        self._kept = {}
        self.learnt.paces.pool()
