"""A pool with a real predictor, and engines whose prices are known: what tests of the predictor's parts share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np

from gateway.core.books import RECENT
from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.learning import IDLE, QUEUED, SATURATED, Learning
from gateway.core.prediction import Prediction, Prior
from gateway.core.predictor import Predictor
from gateway.core.reservation import Reservation
from gateway.core.sheet import Sheet
from gateway.core.types import UNKNOWN, Decision, Endpoint, Floats, Forecast, Outcome, Request
from gateway.core.window import Window

# Round figures, so that a reader can do the sums: 10 ms an iteration, 10 µs a token up to the first knee.
PLAIN = Prior(overhead=0.01, base=0.01, decode=1e-5, context=1e-7, slope1=1e-5, slope2=2e-5, slope3=4e-5, pair=1e-9,
              knee1=100.0, knee2=500.0, chunk=2048.0)  # fmt: skip


def endpoint(number: int) -> Endpoint:
    return Endpoint(f"e{number}", f"http://10.0.0.{number}:8000", "pool", "vllm")


def make_pool(count: int = 4, prior: Prior | None = PLAIN, size: int = 8) -> Fleet:
    fleet = Fleet("pool", Rule(), Random(1), size=size)
    fleet.predictor = Predictor(prior)
    fleet.update([endpoint(i) for i in range(count)], 0.0, fresh=True)
    return fleet


def predictor_of(fleet: Fleet) -> Predictor:
    assert fleet.predictor is not None
    return fleet.predictor


def ask(prompt: float = 1000.0, output: float = 100.0, *, stream: bool = True, **more) -> Request:
    return Request("r", "m", 0.0, prompt_tokens=prompt, output_tokens=output, stream=stream, **more)


def forecast_for(fleet: Fleet, row: int, request: Request, now: float, cached: float = 0.0) -> Forecast:
    """What is predicted for this request at a row, of which `cached` tokens are there already."""
    snapshot, predictor = fleet.snapshot(now), predictor_of(fleet)
    prediction = predictor.predict(request, snapshot, np.full(len(snapshot), cached) if cached else None)
    return predictor.forecast(prediction, snapshot.rows.tolist().index(row))


def send(fleet: Fleet, row: int, request: Request, now: float, cached: float = 0.0, *,
         forecast: bool = True) -> Reservation:  # fmt: skip
    """Dispatch it there, with or without a prediction."""
    made = forecast_for(fleet, row, request, now, cached) if forecast else None
    return fleet.reserve(Decision(row, "", cached_tokens=cached, forecast=made), request, now)


def prediction_of(fleet: Fleet, ttft: Floats, tpot: Floats, tpot_now: Floats, work: Floats, batch: Floats,
                  lasting: float = 1.0, level: float = 0.01, level_after: float = 0.01) -> Prediction:  # fmt: skip
    """One that says so, of the first candidates; nothing waits there. With `lasting` below 1 paces are evened out."""
    predictor, sheet = predictor_of(fleet), Sheet(len(ttft))
    sheet.look_at(predictor.books, predictor.learnt.paces)
    sheet.free[:], sheet.rounds[:], sheet.iteration[:] = RECENT, 1.0, 0.01
    sheet.steps[:], sheet.work[:], sheet.batch[:] = (ttft, tpot_now, tpot), work, batch
    return Prediction(sheet, np.arange(len(ttft)), 1.0, lasting, level, level_after)


def crowd(fleet: Fleet, row: int, count: int) -> None:
    """So many streams, in the middle of their answers."""
    for _ in range(count):
        send(fleet, row, ask(500.0), 0.0, forecast=False).first_token(0.1)


def finish(reservation: Reservation, now: float, tokens: float = 100.0, ttft: float = 0.1,
           ended: str = "complete") -> None:  # fmt: skip
    """Settle it: an answer of so many tokens, or one that was cut."""
    request = ask(reservation.prompt, stream=reservation.stream)
    outcome = Outcome(request, reservation.endpoint, reservation.row, 200, ended, now - reservation.at,
                      ttft if reservation.stream else UNKNOWN, output_tokens=tokens)  # fmt: skip
    reservation.settle(now, outcome)


@dataclass(slots=True)
class Situation:
    """What a prompt finds: prompt tokens to do (its own too), the decodes beside it, their context, pairs, the rest."""

    tokens: float
    decoding: float
    context: float
    pairs: float
    rest: float


@dataclass(slots=True)
class Engines:
    """Engines that take exactly what their prices say, times the factors of their row, with `noise` of log-normal."""

    prior: Prior
    factors: list[tuple[float, float]]
    random: Random
    noise: float = 0.05

    def noisy(self, seconds: float) -> float:
        return seconds * math.exp(self.random.gauss(0.0, self.noise))

    def slope(self, tokens: float) -> float:
        """Seconds that so many tokens take in one iteration."""
        p = self.prior
        return (p.slope1 * min(tokens, p.knee1) + p.slope2 * max(0.0, min(tokens, p.knee2) - p.knee1)
                + p.slope3 * max(0.0, tokens - p.knee2))  # fmt: skip

    def situation(self) -> Situation:
        random = self.random
        tokens = float(int(math.exp(random.uniform(math.log(30.0), math.log(12000.0)))))
        decoding = float(random.choice([0, 0, 1, 2, 4, 8, 16, 32, 64, 128]))
        context = decoding * random.uniform(200.0, 3000.0)
        return Situation(tokens, decoding, context, tokens * tokens / 2.0, random.choice([0.0, 0.0, 0.005, 0.02]))

    def first(self, row: int, s: Situation) -> float:
        p = self.prior
        rounds = math.ceil(s.tokens / max(64.0, p.chunk - s.decoding))
        decode, prefill = self.factors[row]
        each = decode * (p.base + p.decode * s.decoding + p.context * s.context)
        added = self.slope(s.decoding + s.tokens / rounds) - self.slope(s.decoding)
        return self.noisy(p.overhead + s.rest + rounds * (each + prefill * added) + prefill * p.pair * s.pairs)

    def stretch(self, row: int, s: Situation, steps: float, worked: list[float]) -> float:
        p = self.prior
        decode, prefill = self.factors[row]
        each = p.base + p.decode * s.decoding + p.context * s.context
        parts = (p.slope1, p.slope2, p.slope3, p.pair)
        added = sum(price * quantity for price, quantity in zip(parts, worked, strict=True))
        return self.noisy(decode * steps * each + prefill * added)

    def work(self) -> list[float]:
        """Prefill that was worked off beside a stream: tokens by piece, pairs."""
        random = self.random
        prompts = random.choice([0, 0, 1, 3])
        return [prompts * 100.0, prompts * 400.0, prompts * random.uniform(0.0, 3000.0), prompts * 1e6]

    # --- teaching ------------------------------------------------------------------------------------------------

    def fill(self, window: Window, count: int) -> None:
        """So many answers of each kind, of all rows in turn."""
        for i in range(count):
            row, s = i % len(self.factors), self.situation()
            window.add_first(row, self.first(row, s), s.rest, s.tokens, s.decoding, s.context, s.pairs)
            worked, steps = self.work(), self.random.uniform(20.0, 400.0)
            s.decoding += 1.0
            window.add_rest(row, self.stretch(row, s, steps, worked), steps, s.decoding, s.context, worked)

    def teach(self, learning: Learning, row: int, now: float) -> float:
        """One stream of this row: its first token and the rest. Returns by how much its first token was off (log)."""
        s = self.situation()
        forecast, seconds = forecast_of(learning, row, s), self.first(row, s)
        learning.first_token(row, forecast, seconds, now)
        worked, steps = self.work(), self.random.uniform(20.0, 400.0)
        learning.stretch(row, self.stretch(row, s, steps, worked), steps, s.decoding, s.context, worked, now)
        return math.log(seconds / forecast.ttft_base)


def forecast_of(learning: Learning, row: int, s: Situation) -> Forecast:
    """The forecast that a predictor would make of this, as far as it is learnt from."""
    rounds = math.ceil(s.tokens / learning.room(s.decoding))
    one, two, three = learning.added(s.decoding, s.tokens / rounds)
    f = Forecast()
    f.tokens, f.decoding, f.context, f.pairs, f.rest = s.tokens, s.decoding, s.context, s.pairs, s.rest
    f.features = (1.0, rounds, rounds * s.decoding, rounds * s.context, rounds * one, rounds * two, rounds * three,
                  s.pairs)  # fmt: skip
    decode, prefill = learning.paces.decode.item(row), learning.paces.prefill.item(row)
    factors = np.array((1.0, *[decode] * 3, *[prefill] * 4))
    f.ttft_base = float(np.array(f.features) * factors @ np.array(learning.prices.each)) + s.rest
    f.waits = False
    f.regime = SATURATED if rounds > 1 else QUEUED if s.rest else IDLE
    f.ttft = f.ttft_base * learning.ttft.regimes[f.regime].correction()
    return f
