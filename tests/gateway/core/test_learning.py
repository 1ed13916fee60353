"""What a pool learns from its answers: prices, paces, the chunk budget; and that it can be kept and taken up again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from gateway.core.learning import CHUNKS, FIRST_FIT, IDLE, LASTING, SATURATED, Learning
from gateway.core.paces import IN_A_ROW, PATIENCE
from gateway.core.prediction import Prior
from gateway.core.types import Forecast
from tests.support.predicting import PLAIN, Engines, Situation, forecast_of

EVERY = 0.05  # seconds between answers of a pool


def taught(factors: list[tuple[float, float]], count: int, prior: Prior = PLAIN, seed: int = 3,
           noise: float = 0.05) -> tuple[Learning, Engines, float]:  # fmt: skip
    """A pool after so many streams, of all its endpoints in turn. Returns the time too."""
    learning, engines = Learning(prior), Engines(PLAIN, factors, Random(seed), noise)
    learning.paces.reach(len(factors))
    for i in range(count):
        engines.teach(learning, i % len(factors), i * EVERY)
    return learning, engines, count * EVERY


def test_equal_endpoints_have_exactly_equal_factors() -> None:
    learning, _, _ = taught([(1.0, 1.0)] * 8, 800)
    assert len(set(learning.paces.table().values())) == 1
    assert learning.paces.decode[0] == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize("seed", [3, 4])
def test_four_endpoints_that_are_slower_by_two_and_a_half_are_found(seed: int) -> None:
    learning, _, _ = taught([(1.0, 1.0)] * 4 + [(2.5, 2.5)] * 4, 800, seed=seed)
    table = learning.paces.table()
    for part in (0, 1):
        fast, slow = {table[row][part] for row in range(4)}, {table[row][part] for row in range(4, 8)}
        assert len(fast) == len(slow) == 1
        assert slow.pop() / fast.pop() == pytest.approx(2.5, rel=0.05)


def test_three_kinds_of_gpu_are_found() -> None:
    learning, _, _ = taught([(1.0, 1.0)] * 3 + [(1.7, 1.7)] * 3 + [(3.2, 3.2)] * 3, 1200)
    table = learning.paces.table()
    for part in (0, 1):
        each = [sorted({table[3 * kind + i][part] for i in range(3)}) for kind in range(3)]
        assert each[1][0] / each[0][0] == pytest.approx(1.7, rel=0.06)
        assert each[2][0] / each[0][0] == pytest.approx(3.2, rel=0.06)
    assert len({table[row][0] for row in range(9)}) == 3


def test_predictions_of_another_gpu_become_as_good_as_its_noise() -> None:
    """Engines three times as fast as what was believed: at first all is wrong, after a hundred streams nothing is."""
    prior = replace(PLAIN, **{name: getattr(PLAIN, name) * 3.0 for name in ("base", "decode", "context", "slope1",
                                                                            "slope2", "slope3", "pair")})  # fmt: skip
    learning, engines, now = taught([(1.0, 1.0)] * 4, 100, prior)
    off = [abs(engines.teach(learning, i % 4, now + i * EVERY)) for i in range(100)]
    assert sum(off) / len(off) < 0.06


def test_a_few_answers_are_enough_for_the_first_fit_and_fewer_change_no_price() -> None:
    learning, engines = Learning(PLAIN), Engines(PLAIN, [(2.0, 2.0)], Random(1))
    before = learning.prices.each
    for i in range(FIRST_FIT - 1):
        s = engines.situation()
        learning.first_token(0, forecast_of(learning, 0, s), engines.first(0, s), i * EVERY)
        assert learning.prices.each == before
    s = engines.situation()
    learning.first_token(0, forecast_of(learning, 0, s), engines.first(0, s), 1.0)
    assert learning.prices.each != before and learning.prices.fits == 1


def test_a_busy_pool_is_fitted_about_once_a_second() -> None:
    learning, engines, now = taught([(1.0, 1.0)] * 2, 400)
    before = learning.prices.fits
    for i in range(300):
        engines.teach(learning, i % 2, now + i * 0.01)
    assert 2 <= learning.prices.fits - before <= 4


@pytest.mark.parametrize("truth", [512.0, 1024.0, 4096.0])
def test_the_chunk_budget_is_found(truth: float) -> None:
    learning = Learning(replace(PLAIN, chunk=0.0))
    engines = Engines(replace(PLAIN, chunk=truth), [(1.0, 1.0)] * 4, Random(5), noise=0.02)
    assert learning.chunk in CHUNKS
    off = [abs(engines.teach(learning, i % 4, i * EVERY)) for i in range(700)]
    assert learning.chunk == truth
    assert max(off[-200:]) < 0.1  # the prices in use are those of this budget, also after another one has been tried


def test_a_chunk_budget_that_is_told_is_not_doubted() -> None:
    learning = Learning(replace(PLAIN, chunk=3000.0))
    engines = Engines(replace(PLAIN, chunk=512.0), [(1.0, 1.0)], Random(5))
    for i in range(200):
        engines.teach(learning, 0, i * EVERY)
    assert learning.chunk == 3000.0


# --- changes ---------------------------------------------------------------------------------------------------------


def test_a_sudden_slowdown_is_in_the_predictions_after_so_many_answers() -> None:
    learning, engines, now = taught([(1.0, 1.0)] * 4, 600)
    engines.factors[2] = (3.0, 3.0)
    for i in range(IN_A_ROW):
        assert learning.paces.decode[2] < 1.4
        s = Situation(1000.0, 8.0, 8000.0, 5e5, 0.0)
        learning.first_token(2, forecast_of(learning, 2, s), engines.first(2, s), now + 1.0 * i)
    assert learning.paces.decode[2] == pytest.approx(3.0, rel=0.25)
    assert learning.paces.prefill[2] == pytest.approx(3.0, rel=0.25)
    assert (learning.window.first[learning.window.full_first > 0.0, 0] == 2.0).sum() == 1  # what was before is no news
    for i in range(40):
        engines.teach(learning, i % 4, now + 10.0 + i * EVERY)
    assert learning.paces.decode[2] / learning.paces.decode[0] == pytest.approx(3.0, rel=0.08)
    assert learning.paces.decode[0] == learning.paces.decode[1] == learning.paces.decode[3]


def test_answers_that_were_under_way_when_a_slowdown_was_found_out_do_not_make_it_worse() -> None:
    learning, engines, now = taught([(1.0, 1.0)] * 4, 600)
    sent = [(s, forecast_of(learning, 2, s)) for s in [Situation(1000.0, 8.0, 8000.0, 5e5, 0.0)] * 20]
    engines.factors[2] = (3.0, 3.0)
    for i, (s, forecast) in enumerate(sent):
        learning.first_token(2, forecast, engines.first(2, s), now + 1.0 * min(i, IN_A_ROW))
    assert learning.paces.decode[2] == pytest.approx(3.0, rel=0.15)


def test_a_stall_is_not_the_endpoint() -> None:
    learning, engines, now = taught([(1.0, 1.0)] * 4, 600)
    for i in range(100):
        engines.teach(learning, i % 4, now + i * EVERY)
        if i % 20 == 0:
            s = engines.situation()
            learning.first_token(2, forecast_of(learning, 2, s), 20.0 * engines.first(2, s), now + i * EVERY)
    assert len(set(learning.paces.table().values())) == 1


def test_where_answers_differ_much_anyway_a_few_slow_ones_tell_less_of_their_endpoint() -> None:
    factors = []
    for noise in (0.05, 0.6):
        learning, engines, _ = taught([(1.0, 1.0)] * 2, 300, noise=noise)
        learning.window.forget(1)
        engines.factors[1], engines.noise = (3.0, 3.0), 0.0
        for _ in range(4):
            s = Situation(1000.0, 8.0, 8000.0, 5e5, 0.0)
            learning.window.add_first(1, engines.first(1, s), 0.0, s.tokens, s.decoding, s.context, s.pairs)
        learning._fit()
        factors.append(learning.paces.prefill[1] / learning.paces.prefill[0])
    assert factors[0] > 1.5 * factors[1] >= 1.5


def test_an_endpoint_that_is_not_asked_any_more_counts_as_normal_again() -> None:
    learning, engines, now = taught([(1.0, 1.0)] * 3 + [(3.0, 3.0)], 600)
    assert learning.paces.decode[3] > 2.5
    for i in range(PATIENCE * 4 * 8):
        engines.teach(learning, i % 3, now + i * EVERY)
    assert learning.paces.table()[3] == learning.paces.table()[0]


def test_an_endpoint_that_is_gone_takes_its_answers_with_it() -> None:
    learning, engines, now = taught([(1.0, 1.0)] * 3 + [(3.0, 3.0)], 400)
    learning.forget(3)
    assert 3 not in learning.paces.table() and learning.paces.decode[3] == 1.0
    assert not (learning.window.first[learning.window.full_first > 0.0, 0] == 3.0).any()
    engines.factors[3] = (1.0, 1.0)
    for i in range(40):
        engines.teach(learning, i % 4, now + i * EVERY)
    assert learning.paces.table()[3] == learning.paces.table()[0]


def test_a_window_that_has_become_empty_is_survived() -> None:
    learning, engines, now = taught([(1.0, 1.0)], 100)
    learning.forget(0)
    for i in range(30):
        engines.teach(learning, 0, now + 2.0 * i)
    assert np.isfinite(learning.prices.beta).all()


# --- answers as a whole ----------------------------------------------------------------------------------------------


def test_the_mean_length_of_an_answer_is_followed() -> None:
    learning = Learning(PLAIN)
    for _ in range(300):
        learning.whole(50.0, 0.0)
    assert learning.mean_output == pytest.approx(50.0, rel=0.02)
    assert learning.per_event == 1.0


def test_tokens_that_come_several_at_a_time_are_counted() -> None:
    """Speculative decoding: three tokens with each event of a stream; never less than one."""
    learning = Learning(PLAIN)
    for _ in range(300):
        learning.whole(300.0, 100.0)
    assert learning.per_event == pytest.approx(3.0, rel=0.02)
    for _ in range(600):
        learning.whole(50.0, 100.0)
    assert learning.per_event == pytest.approx(1.0, rel=0.02)


def paced(now: float, level: float, base: float = 0.02) -> Forecast:
    f = Forecast()
    f.pace_now, f.pace_level, f.tpot, f.tpot_base, f.pace_regime = now, level, base, base, 0
    return f


@pytest.mark.parametrize("lasting", [0.3, 0.9])
def test_how_much_of_a_difference_in_pace_lasts_is_learnt(lasting: float) -> None:
    learning, random = Learning(PLAIN), Random(1)
    assert learning.lasting == LASTING
    for _ in range(3000):
        apart = random.uniform(-0.5, 0.5)
        came = 0.02 * (1.0 + lasting * apart) * math.exp(random.gauss(0, 0.05))
        learning.pace(paced(0.02 * (1.0 + apart), 0.02), came)
    assert learning.lasting == pytest.approx(lasting, abs=0.07)


def test_equal_endpoints_teach_nothing_of_how_long_differences_last() -> None:
    learning, random = Learning(PLAIN), Random(1)
    for _ in range(1000):
        learning.pace(paced(0.02, 0.02), 0.02 * math.exp(random.gauss(0, 0.3)))
    assert learning.lasting == pytest.approx(LASTING, abs=0.01)


def test_a_short_stretch_of_a_stream_says_nothing_of_its_pace() -> None:
    learning = Learning(PLAIN)
    learning.stretch(0, 50.0, 15.0, 1.0, 100.0, [0.0] * 4, 0.0)
    assert learning.window.count == 0 and learning.paces.table() == {}


def test_an_answer_that_is_no_number_leaves_prices_and_paces_as_they_are() -> None:
    learning, _, _ = taught([(1.0, 1.0), (2.0, 2.0)], 100)
    prices, paces = learning.prices.each, learning.paces.table()
    learning.window.add_first(0, math.nan, 0.0, 900.0, 1.0, 500.0, 1000.0)
    learning._fit()
    assert learning.prices.each == prices and learning.paces.table() == paces


def test_errors_are_kept_by_how_busy_the_endpoint_was() -> None:
    learning, engines = Learning(PLAIN), Engines(PLAIN, [(1.0, 1.0)], Random(1))
    for tokens in (100.0, 9000.0, 9000.0):
        s = Situation(tokens, 0.0, 0.0, 0.0, 0.0)
        learning.first_token(0, forecast_of(learning, 0, s), engines.first(0, s), 0.0)
    assert [learning.ttft.regimes[regime].samples for regime in (IDLE, SATURATED)] == [1, 2]


# --- keeping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [PLAIN, replace(PLAIN, chunk=0.0), Prior()])
def test_what_was_learnt_goes_through_json_and_back(prior: Prior) -> None:
    learning, engines, now = taught([(1.5, 1.5)] * 2, 200, prior)
    learning.whole(900.0, 300.0)
    learning.pace(paced(0.03, 0.02), 0.025)
    state = json.loads(json.dumps(learning.to_state()))
    again = Learning(prior)
    again.restore(state)
    after, before = again.to_state(), learning.to_state()
    assert after.pop("beta") == pytest.approx(before.pop("beta"))
    assert after == before
    assert again.prices.each == pytest.approx(learning.prices.each)
    for _ in range(20):
        s = engines.situation()
        assert forecast_of(again, 0, s).ttft_base == pytest.approx(forecast_of(learning, 0, s).ttft_base, rel=0.1)
    engines.teach(again, 0, now)  # and it goes on learning
    again.pace(paced(0.03, 0.02), 0.025)
    assert again.lasting == pytest.approx(learning.lasting, abs=0.1)


def test_prices_are_kept_in_seconds_though_the_prior_has_changed() -> None:
    learning, _, _ = taught([(1.5, 1.5)], 200)
    again = Learning(replace(PLAIN, base=0.03, slope2=1e-6))
    again.restore(learning.to_state())
    assert again.prices.each == pytest.approx(learning.prices.each)


def spoilt(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda state: {**state, **changes}


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda state: {key: value for key, value in state.items() if key != name}


SPOILT = {
    "empty": lambda state: {},
    **{f"without {name}": without(name) for name in ("version", "prior", "beta", "chunk", "lasting", "ttft", "tpot")},
    "another version": spoilt(version=2),
    "seven prices": lambda state: {**state, "beta": state["beta"][:7]},
    "seven priors": lambda state: {**state, "prior": state["prior"][:7], "beta": state["beta"][:7]},
    "one price": spoilt(beta=1.0),
    "no price": spoilt(beta=None),
    "prices in prices": lambda state: {**state, "beta": [state["beta"]], "prior": [state["prior"]]},
    "ragged prices": lambda state: {**state, "beta": [*state["beta"][:7], [1.0]]},
    "words": spoilt(beta=["a"] * 8),
    "a table": spoilt(beta={"base": 1.0}),
    "NaN in a price": lambda state: {**state, "beta": [*state["beta"][:7], math.nan]},
    "a negative price": lambda state: {**state, "beta": [*state["beta"][:7], -1.0]},
    "an endless price": lambda state: {**state, "prior": [*state["prior"][:7], math.inf]},
    "a chunk of nothing": spoilt(chunk=0.0),
    "a chunk nobody has": spoilt(chunk=777.0),
    "a chunk in words": spoilt(chunk="many"),
    "chunks": spoilt(chunk=[2048.0]),
    "NaN tokens": spoilt(mean_output=math.nan),
    "less than nothing lasts": spoilt(lasting=-0.5),
    "more than all lasts": spoilt(lasting=1e10),
    "an answer without end": spoilt(mean_output=1e300),
    "prices beyond all numbers": spoilt(beta=[1e300] * 8, prior=[1e300] * 8),
    "prices of another world": spoilt(beta=[1e8] * 8),
    "a number too large for a float": spoilt(mean_output=10**400),
    "regimes of another version": lambda state: {**state, "ttft": state["ttft"][:2]},
    "a regime that cannot be": lambda state: {**state, "tpot": [[0.0, 0.3, -0.3, 5.0], *state["tpot"][1:]]},
    "regimes in words": spoilt(ttft="fine"),
    "a number for regimes": spoilt(tpot=[1.0, 2.0, 3.0, 4.0]),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_what_nobody_kept_is_refused_and_changes_nothing(kind: str) -> None:
    learning, _, _ = taught([(1.5, 1.5)] * 2, 60)
    other, _, _ = taught([(0.5, 0.5)] * 2, 60)
    before = json.dumps(other.to_state())
    with pytest.raises(ValueError):
        other.restore(SPOILT[kind](learning.to_state()))
    assert json.dumps(other.to_state()) == before
