"""A prediction is written over the last one: nothing of that shows, and nothing that changed meanwhile is missed."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.fleet import Fleet
from gateway.core.formula import Formula
from gateway.core.prediction import Prediction
from gateway.core.types import UNKNOWN, Forecast, Load
from tests.support.predicting import ask, endpoint, finish, make_pool, predictor_of, send

FIELDS = ("ttft", "tpot", "tpot_now", "work", "batch", "rho", "rest")


class Life:
    """Whatever may happen to a pool between two predictions: hooks, scrapes, members, what is learnt."""

    def __init__(self, seed: int):
        self.random = Random(seed)
        self.fleet: Fleet = make_pool(3, size=2)
        self.predictor = predictor_of(self.fleet)
        self.now, self.open = 5.0, []

    def step(self) -> None:
        self.now += self.random.choice([0.0, 0.001, 0.03, 130.0])
        self.random.choice([self.hook] * 6 + [self.scrape, self.join, self.learn])()

    def hook(self) -> None:
        random, fleet = self.random, self.fleet
        row = random.choice([row for row, _ in fleet.members()])
        deed = random.random()
        if deed < 0.4 or not self.open:
            prompt = float(random.choice([1, 300, 3000, 9000]))
            request = ask(prompt, stream=random.random() < 0.8)
            self.open.append(send(fleet, row, request, self.now, prompt * random.random(), forecast=deed < 0.2))
        elif deed < 0.6:
            self.predictor.beat(row, self.now)
        elif deed < 0.9:
            reservation = random.choice(self.open)
            reservation.first_token(self.now)
            reservation.progress(reservation.written + 16.0, self.now)
        else:
            finish(self.open.pop(random.randrange(len(self.open))), self.now, 40.0)

    def scrape(self) -> None:
        running = self.random.choice([0.0, 6.0, UNKNOWN])
        for row, _ in self.fleet.members():
            load = Load(self.now, 0.0, running, kv_capacity=self.random.choice([UNKNOWN, 30_000.0]))
            self.fleet.observe(row, load, 0.0)

    def join(self) -> None:
        if not self.open:
            self.fleet.update([endpoint(i) for i in range(self.random.randint(1, 7))], self.now, fresh=True)

    def learn(self) -> None:
        learnt, random = self.predictor.learnt, self.random
        learnt.prices.use(np.array([random.uniform(0.5, 2.0) for _ in learnt.prices.beta]))
        learnt.chunk, learnt.lasting = random.choice([512.0, 2048.0]), random.choice([0.2, 1.0])
        learnt.paces.resume(random.randrange(9), random.choice([1.0, 2.5]), random.choice([1.0, 0.4]))
        learnt.paces.pool()


def said(prediction: Prediction, forecasts: list[Forecast]) -> list[object]:
    slots = [getattr(forecast, name) for forecast in forecasts for name in Forecast.__slots__]
    return [*(getattr(prediction, name).tolist() for name in FIELDS), slots]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**9))
def test_a_formula_that_was_asked_before_says_what_a_new_one_says(seed: int) -> None:
    life = Life(seed)
    for _ in range(40):
        life.step()
        random, predictor = life.random, life.predictor
        names = [one.id for _, one in life.fleet.members()]
        snapshot = life.fleet.snapshot(life.now, random.sample(names, random.choice([0, 0, len(names) // 2])))
        prompt = random.choice([1.0, 77.0, 20_000.0])
        shares = [random.choice([0.0, random.random()]) for _ in snapshot.rows]
        cached = random.choice([None, np.array(shares) * prompt])
        places = range(len(snapshot))
        one = predictor.predict(ask(prompt), snapshot, cached)
        used = said(one, [predictor.forecast(one, i) for i in places])
        formula = Formula(predictor.learnt, predictor.books)
        other = formula.predict(prompt, snapshot, cached)
        assert used == said(other, [formula.forecast(other, i) for i in places])


def test_a_prediction_allocates_no_rows() -> None:
    fleet = make_pool(5)
    snapshot = fleet.snapshot(1.0)
    sheets = {id(predictor_of(fleet).predict(ask(), snapshot).sheet) for _ in range(3)}
    assert len(sheets) == 1


@pytest.mark.parametrize("avoided", [["e0"], ["e4"], ["e0", "e1", "e2", "e3"]])
def test_a_part_of_the_pool_is_predicted_as_it_is_in_the_whole(avoided: list[str]) -> None:
    fleet = make_pool(5)
    for row in range(5):
        send(fleet, row, ask(700.0 * row + 1.0), 1.0, forecast=False)
    whole = predictor_of(fleet).predict(ask(), fleet.snapshot(1.01)).ttft.copy()
    part = predictor_of(fleet).predict(ask(), fleet.snapshot(1.01, avoided))
    assert part.ttft.tolist() == pytest.approx(whole[part.rows].tolist(), rel=1e-12)
