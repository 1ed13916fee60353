"""How soon each endpoint would begin to answer, and how fast the rest would come: for all candidates at once.

The idea: the gateway sees every request go and every token come, which is nearly all there is to know of an engine. The
fleet tells the predictor of each place taken, started and given back; that is kept in `books`. What it costs, how the
endpoints differ and how far a prediction may be off is learnt from the answers (`learning`). What is predicted from
both is in `formula`.

Everything is seconds and tokens on the caller's clock.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from gateway.core.books import CAPACITY, UNLIMITED, Books, Line, attention
from gateway.core.formula import Formula
from gateway.core.iterations import Iterations
from gateway.core.learning import Learning
from gateway.core.prediction import Prediction, PredictorReport, Prior
from gateway.core.types import Floats, Forecast, Outcome, Request

if TYPE_CHECKING:
    from gateway.core.fleet import Fleet
    from gateway.core.reservation import Reservation
    from gateway.core.snapshot import Snapshot

MOST_OTHERS = 4096.0  # requests of other gateways at one endpoint; more is a broken figure
MANY_SILENT = 1024  # plain answers that have not shown themselves: from so many on, those that have ended are dropped


class Predictor:
    """One per pool. The fleet tells it of every place taken; `predict` and `forecast` are asked by policies."""

    def __init__(self, prior: Prior | None = None):
        self.prior = prior or Prior()
        self.learnt = Learning(self.prior)
        self.books = Books()
        if self.prior.kv_tokens:
            self.books.capacity = self.prior.kv_tokens
            self.books.table[CAPACITY] = self.prior.kv_tokens
        self._formula = Formula(self.learnt, self.books)
        self._iterations = Iterations(self.learnt, self.books)
        self._silent: list[tuple[float, int, Reservation]] = []  # plain answers, by when they are taken to start
        self._serial = 0
        self._most_silent = MANY_SILENT
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

        What is given is good until the next one is asked for: its arrays are written over.
        """
        fleet, now = snapshot.fleet, snapshot.now
        if self._silent and self._silent[0][0] <= now:
            self._start_silent(now)
        self._iterations.look_again(now)
        if self.books.table.shape[1] < len(fleet.ours) or len(self.learnt.paces.decode) < len(fleet.ours):
            self._reach(len(fleet.ours))
        if self._kept:
            self._take_up_paces(fleet)
        return self._formula.predict(request.prompt_tokens, snapshot, cached)

    def forecast(self, prediction: Prediction, position: int) -> Forecast:
        """The prediction for the candidate at `position`, with its 90 % interval, in a form that can be learnt from."""
        return self._formula.forecast(prediction, position)

    def idle_ttft(self, prompt: float) -> float:
        """Seconds to the first token of so long a prompt on an idle endpoint of this pool, nothing cached."""
        return self._formula.idle_ttft(prompt)

    def idle_tpot(self) -> float:
        """Seconds between tokens of a stream that is alone on an endpoint of this pool."""
        return self._formula.idle_tpot()

    def _reach(self, size: int) -> None:
        self.learnt.paces.reach(size)
        self.books.reach(size)

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
        pairs = attention(reservation)
        forecast = reservation.forecast
        seconds = forecast.work if forecast is not None else self._work(row, own, pairs)
        books.send(reservation, pairs, seconds, now)
        books.count(row, fleet)
        if idle:
            self._iterations.begin(line, row, fleet.decoding.item(row), now + self.learnt.prices.each[0], now)
        if not request.stream:
            self._serial += 1
            after = forecast.ttft if forecast is not None else seconds
            heapq.heappush(self._silent, (now + after, self._serial, reservation))
            if len(self._silent) > self._most_silent:
                self._drop_settled()

    def _drop_settled(self) -> None:
        """Answers that came, or were given up, long before they were thought to start."""
        self._silent = [one for one in self._silent if not one[2].settled]
        heapq.heapify(self._silent)
        self._most_silent = max(MANY_SILENT, 2 * len(self._silent))

    def _work(self, row: int, own: float, pairs: float) -> float:
        learnt = self.learnt
        return learnt.paces.prefill.item(row) * (learnt.price(0.0, own) + learnt.prices.each[7] * pairs)

    def beat(self, row: int, now: float) -> None:
        """A token of some stream came from there: perhaps an iteration has ended."""
        self._iterations.beat(row, now)

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
        worked[3] += attention(reservation)
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
        seen = self.books.others[: len(others)]
        np.clip(np.nan_to_num(others), 0.0, MOST_OTHERS, out=seen)
        self.books.has_others = bool(seen.any())

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
        """Whether the predictions may be used to pick: those of first tokens. (A pace that is off by much still ranks
        endpoints better than counts do: docs/predictor.md, what failed.)"""
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
