"""Scores and terms from one product: the same as plain sums over one candidate after the other."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.prediction import Prediction
from gateway.core.types import Floats
from policies.picking.weighing import HARM_FROM, LOGISTIC, TPOT_SHARE, TTFT_SHARE, Promise, Weighing
from tests.support.predicting import make_pool, prediction_of


def step(x: float) -> float:
    return 1.0 / (1.0 + math.exp(min(700.0, -LOGISTIC * x)))


def slowly(p: Prediction, promise: Promise, cached: Floats | None, again: Floats | None) -> list[list[float]]:
    """For each candidate its score and its terms."""
    found = []
    for i in range(len(p.rows)):
        ttft, before, after = p.ttft[i] / promise.ttft, p.tpot_now[i] / promise.tpot, p.tpot[i] / promise.tpot
        late, slow = step((ttft - 1.0) / promise.ttft_spread), step((before - 1.0) / promise.tpot_spread)
        hurt = promise.harm * p.batch[i] * p.work[i] * step((after - HARM_FROM) / promise.tpot_spread)
        twice = 0.0 if again is None else again[i]
        score = TTFT_SHARE * ttft + TPOT_SHARE * after + late + slow + hurt + twice
        found.append([score, p.ttft[i], p.tpot[i], late, slow, hurt, 0.0 if cached is None else cached[i], twice])
    return found


def made_up(random: Random, count: int) -> Prediction:
    def some(most: float) -> Floats:
        return np.array([random.choice([0.0, most * random.random() ** 3]) for _ in range(count)])

    paces = (some(0.1) + 0.001, some(0.1) + 0.001)
    lasting = random.choice([0.2, 0.7, 1.0])
    levels = (random.uniform(0.001, 0.1), random.uniform(0.001, 0.1))
    return prediction_of(make_pool(count), some(20.0) + 0.001, *paces, some(3.0), some(300.0), lasting, *levels)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 10**9))
def test_one_product_says_what_plain_sums_say(seed: int) -> None:
    random, weighing = Random(seed), Weighing()
    for _ in range(4):
        prediction = made_up(random, random.choice([1, 2, 9]))
        promise = Promise(random.uniform(0.05, 9.0), random.uniform(0.005, 0.5), random.uniform(0.1, 0.5),
                          random.uniform(0.1, 0.5), random.choice([0.0, 0.2, 3.0]))  # fmt: skip
        cached = random.choice([None, np.array([random.random() * 9e3 for _ in prediction.rows])])
        again = random.choice([None, np.array([random.random() for _ in prediction.rows])])
        scores, terms = weighing.weigh(prediction, promise, cached, again)
        got = np.concatenate(([scores], terms)).T
        np.testing.assert_allclose(got, slowly(prediction, promise, cached, again), rtol=1e-9, atol=1e-11)


def test_what_was_weighed_is_the_callers_own() -> None:
    random, weighing = Random(3), Weighing()
    promise = Promise(1.0, 0.05, 0.2, 0.2, 1.0)
    one, other = made_up(random, 5), made_up(random, 5)
    scores, terms = weighing.weigh(one, promise, np.full(5, 7.0))
    kept = scores.tolist(), terms.tolist()
    weighing.weigh(other, promise, None)
    assert (scores.tolist(), terms.tolist()) == kept
    scores[:] = terms[:] = -1.0
    again = weighing.weigh(one, promise, np.full(5, 7.0))
    assert (again[0].tolist(), again[1].tolist()) == kept


def test_a_hopeless_candidate_is_weighed_without_overflow() -> None:
    with np.errstate(all="raise", under="ignore"):
        p = prediction_of(make_pool(2), np.array([1e9, 0.1]), *[np.array([1e6, 0.01])] * 2, np.ones(2), np.ones(2))
        scores, terms = Weighing().weigh(p, Promise(0.1, 0.01, 0.1, 0.1, 1.0), None)
    assert scores[0] > 1e9 and terms[2:5, 0].tolist() == [1.0, 1.0, 1.0] and scores[1] == pytest.approx(
        TTFT_SHARE + TPOT_SHARE + 1.0 + terms[4, 1])  # fmt: skip
