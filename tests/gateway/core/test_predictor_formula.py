"""All candidates at once, in one product of tables: the same as slow sums over one endpoint after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.fleet import Fleet
from gateway.core.types import UNKNOWN, Floats, Load, Request
from tests.support.predicting import PLAIN, ask, finish, make_pool, predictor_of, send

FIELDS = ("ttft", "tpot", "tpot_now", "work", "batch", "rho")


# --- the slow reference ----------------------------------------------------------------------------------------------


@dataclass
class Place:
    """What goes on at one endpoint, in plain numbers."""

    ours: float
    decoding: float
    others: float
    queue: float
    pairs: float
    context: float
    ends: float
    active: bool
    due: bool
    recent: float
    capacity: float
    decode_factor: float
    prefill_factor: float


def places(fleet: Fleet, rows: list[int], sent: list[tuple[int, float, float]], now: float) -> list[Place]:
    """`sent`: row, time and seconds of prefill of every prompt so far."""
    predictor = predictor_of(fleet)
    books, paces, found = predictor.books, predictor.learnt.paces, []
    for row in rows:
        ours, decoding = float(fleet.ours[row]), float(fleet.decoding[row])
        others = min(max(float(fleet.requests[row]) - ours, 0.0), 4096.0)
        recent = sum(seconds * math.exp((at - now) / 4.0) for where, at, seconds in sent if where == row)
        capacity = float(fleet.kv_capacity[row])
        if not capacity > 0.0:
            capacity = predictor.prior.kv_tokens or math.inf
        beat = books.lines[row].beat if row in books.lines else 0.0
        found.append(Place(
            ours, decoding, others, float(books.queue[row]), float(books.pairs[row]), float(books.context[row]),
            beat + float(books.extra[row]), decoding > 0.0 or float(books.running[row]) > 0.0,
            float(books.due[row]) > 0.0, recent, capacity, float(paces.decode[row]), float(paces.prefill[row]),
        ))  # fmt: skip
    add_others(found)
    return found


def add_others(found: list[Place]) -> None:
    """Requests of others: so many decodes as were scraped, with contexts like ours; nothing of what waits."""
    decoding = sum(p.decoding for p in found)
    context = sum(p.context for p in found) / decoding if decoding > 0.0 else 0.0
    for place in found:
        place.context += place.others * context
        place.decoding += place.others


def slowly(fleet: Fleet, rows: list[int], request: Request, now: float, cached: Floats | None,
           sent: list[tuple[int, float, float]]) -> dict[str, list[float]]:  # fmt: skip
    """The formula, endpoint by endpoint."""
    predictor = predictor_of(fleet)
    learnt, prior = predictor.learnt, predictor.prior
    overhead, base, decode, context, slope1, slope2, slope3, pair = learnt.prices.each

    def prefill(tokens: float) -> float:
        """F: three slopes with two knees."""
        first, second = min(tokens, prior.knee1), min(max(tokens - prior.knee1, 0.0), prior.knee2 - prior.knee1)
        return slope1 * first + slope2 * second + slope3 * max(tokens - prior.knee2, 0.0)

    answer: dict[str, list[float]] = {name: [] for name in FIELDS}
    for i, p in enumerate(places(fleet, rows, sent, now)):
        held = 0.0 if cached is None else min(float(cached[i]), request.prompt_tokens - 1.0)
        own = request.prompt_tokens - held
        own_pairs = own * (held + own / 2.0)
        iteration = p.decode_factor * (base + decode * p.decoding + context * p.context)
        tokens, pairs = p.queue + own, p.pairs + own_pairs
        rounds = math.ceil(tokens / max(learnt.chunk - p.decoding, 64.0))
        rest = p.ends + iteration - now - overhead
        late = -rest
        if rest < 0.0:
            rest = rest % iteration
        if p.due:  # a first token that ought to be here: it will be as late again
            rest = max(rest, late)
        if not p.active:  # or none that we hear of
            rest = 0.0
        each = iteration + p.prefill_factor * (prefill(p.decoding + tokens / rounds) - prefill(p.decoding))
        ttft = overhead + rest + rounds * each + p.prefill_factor * pair * pairs
        work = p.prefill_factor * (prefill(p.decoding + own) - prefill(p.decoding) + pair * own_pairs)
        batch = p.decoding + p.ours - float(fleet.decoding[rows[i]])
        rho = p.recent / 4.0
        before = p.decode_factor * (base + decode * batch + context * (p.context + p.queue))
        after = before + p.decode_factor * (decode + context * request.prompt_tokens)
        tpot_now, tpot = before / (1.0 - min(rho, 0.9)), after / (1.0 - min(rho + work / 4.0, 0.9))
        over = p.context + p.queue + request.prompt_tokens - 0.97 * p.capacity
        if over > 0.0:
            ttft += min(over / max(p.context, 1.0), 1.0) * predictor.mean_output * tpot_now
        for name, value in zip(FIELDS, (ttft, tpot, tpot_now, work, batch, rho), strict=True):
            answer[name].append(value)
    for name in ("tpot", "tpot_now"):  # the pool evens out a part of what is uneven now
        level = sum(answer[name]) / len(rows)
        answer[name] = [level + learnt.lasting * (value - level) for value in answer[name]]
    return answer


# --- a random pool in the middle of its life -------------------------------------------------------------------------


class Life:
    """Whatever may happen to a pool, drawn at random; `sent` is what the reference wants to know of it."""

    def __init__(self, seed: int, count: int):
        self.random = Random(seed)
        prior = replace(PLAIN, kv_tokens=self.random.choice([0.0, 20_000.0, 400_000.0]),
                        chunk=self.random.choice([512.0, 2048.0]))  # fmt: skip
        self.fleet, self.count, self.now = make_pool(count, prior, size=2), count, 5.0
        self.sent: list[tuple[int, float, float]] = []
        self.open: list = []
        self.scrape()
        paces = predictor_of(self.fleet).learnt.paces
        if self.random.random() < 0.5:
            for row in range(count):
                paces.resume(row, self.random.choice([1.0, 0.5, 2.5]), self.random.choice([1.0, 0.4, 3.0]))
            paces.pool()
        predictor_of(self.fleet).learnt.lasting = self.random.choice([0.2, 0.7, 1.0])
        for _ in range(self.random.choice([0, 10, 60])):
            self.step()

    def scrape(self) -> None:
        """Some say nothing of themselves, some nonsense."""
        random = self.random
        if random.random() < 0.3:
            return
        most = random.choice([0.0, 6.0])
        for row in range(self.count):
            waiting = random.choice([0.0, most, 1e9 * most, math.inf, UNKNOWN])
            capacity = random.choice([UNKNOWN, 30_000.0, 500_000.0, math.inf])
            self.fleet.observe(row, Load(1.0, waiting, random.choice([most, UNKNOWN]), kv_capacity=capacity), 0.0)

    def step(self) -> None:
        random, fleet = self.random, self.fleet
        self.now += random.uniform(0.0, 0.05)
        deed = random.random()
        if deed < 0.4 or not self.open:
            row, prompt = random.randrange(self.count), float(random.choice([1, 60, 300, 900, 3000, 9000]))
            cached = random.choice([0.0, 0.0, 50.0, prompt])
            reservation = send(fleet, row, ask(prompt, stream=random.random() < 0.8), self.now, cached)
            self.sent.append((row, self.now, reservation.forecast.work))
            self.open.append(reservation)
        elif deed < 0.6:
            predictor_of(fleet).beat(random.randrange(self.count), self.now)
        elif deed < 0.9:
            reservation = random.choice(self.open)
            reservation.first_token(self.now)
            reservation.progress(reservation.written + 16.0, self.now)
        else:
            reservation = self.open.pop(random.randrange(len(self.open)))
            finish(reservation, self.now, 40.0, ended=random.choice(["complete", "client_gone"]))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**9), count=st.integers(1, 11))
def test_all_candidates_at_once_get_what_one_after_the_other_would(seed: int, count: int) -> None:
    life = Life(seed, count)
    fleet, now, random = life.fleet, life.now + life.random.choice([0.001, 0.02, 3.0]), life.random
    predictor = predictor_of(fleet)
    snapshot = fleet.snapshot(now, random.sample([f"e{i}" for i in range(count)], random.randrange(count)))
    rows = snapshot.rows.tolist()
    prompt = random.choice([1.0, 77.0, 1300.0, 20_000.0])
    cached = random.choice([None, np.array([random.choice([0.0, prompt * random.random(), prompt]) for _ in rows])])
    predictor.predict(ask(1.0), snapshot)  # plain answers that should have started by now have started after this
    got = predictor.predict(ask(prompt), snapshot, cached)
    expected = slowly(fleet, rows, ask(prompt), now, cached, life.sent)
    for name in FIELDS:
        np.testing.assert_allclose(getattr(got, name), expected[name], rtol=1e-7, atol=1e-9, err_msg=name)
    each = np.array(predictor.learnt.prices.each)
    for position, row in enumerate(rows):
        forecast = predictor.forecast(got, position)
        assert forecast.ttft_base == got.ttft[position]
        # What it is learnt from adds up to what was said.
        decode, prefill = predictor.learnt.paces.decode[row], predictor.learnt.paces.prefill[row]
        parts = np.array(forecast.features) * each * np.array((1.0, *[decode] * 3, *[prefill] * 4))
        assert float(parts.sum()) + forecast.rest == pytest.approx(forecast.ttft_base, rel=1e-7)
        own = decode * (each[2] + each[3] * prompt) / (1.0 - min(float(got.rho[position]), 0.9))
        assert forecast.tpot_base == pytest.approx(got.tpot_now[position] + predictor.learnt.lasting * own)
        assert forecast.ttft_low < forecast.ttft < forecast.ttft_high
        assert forecast.tpot_low < forecast.tpot < forecast.tpot_high


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**9))
def test_asking_changes_nothing(seed: int) -> None:
    life = Life(seed, 4)
    predictor, snapshot = predictor_of(life.fleet), life.fleet.snapshot(life.now)
    predictor.predict(ask(500.0), snapshot)
    one = predictor.predict(ask(500.0), snapshot, np.full(4, 100.0))
    kept = {name: getattr(one, name).copy() for name in FIELDS}
    predictor.predict(ask(9000.0), snapshot)
    two = predictor.predict(ask(500.0), snapshot, np.full(4, 100.0))
    for name in FIELDS:
        assert getattr(one, name).tolist() == kept[name].tolist() == getattr(two, name).tolist()
