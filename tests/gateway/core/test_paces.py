"""How fast each endpoint is: equal ones stay equal, different ones are found, a stall is not believed."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.paces import HALF_LIFE, IN_A_ROW, LEAST, NOISE, PATIENCE, Pace, Paces
from gateway.core.prices import MOST_FACTOR

APART = math.inf  # when an answer came that was under way together with none before it
DECODING, PREFILLING = (1.0, 0.1, 0.05), (0.1, 1.0, 0.05)  # seconds at a factor of 1: decoding, prefill, neither


def answers(pace: Pace, count: int, factor: float, random: Random, noise: float = 0.08) -> list[bool]:
    """So many answers of an endpoint that takes `factor` times as long as predicted for factors of 1."""
    found = []
    for i in range(count):
        decoding, prefilling, rest = DECODING if i % 2 else PREFILLING
        seconds = (factor * (decoding + prefilling) + rest) * math.exp(random.gauss(0.0, noise))
        found.append(pace.learn(decoding, prefilling, rest, seconds, NOISE, APART))
    return found


def factors(pace: Pace) -> tuple[float, float]:
    return math.exp(pace.mean[0]), math.exp(pace.mean[1])


# --- one endpoint ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.4, 1.0, 1.3, 2.5])
def test_an_endpoints_pace_is_found_from_its_answers(factor: float) -> None:
    pace = Pace()
    answers(pace, 100, factor, Random(1))
    assert factors(pace) == pytest.approx((factor, factor), rel=0.04)


def test_what_is_slow_at_prefill_only_is_told_from_what_is_slow_at_both() -> None:
    random, pace = Random(1), Pace()
    for i in range(200):
        decoding, prefilling, rest = DECODING if i % 2 else PREFILLING
        seconds = (decoding + 3.0 * prefilling + rest) * math.exp(random.gauss(0.0, 0.05))
        pace.learn(decoding, prefilling, rest, seconds, NOISE, APART)
    assert factors(pace) == pytest.approx((1.0, 3.0), rel=0.06)


def test_one_answer_says_much_of_both_factors_since_a_slow_card_is_mostly_slow_at_both() -> None:
    pace = Pace()
    pace.learn(1.0, 0.0, 0.0, 2.0, NOISE, APART)
    assert pace.mean[0] == pytest.approx(math.log(2.0), rel=0.1)
    assert pace.mean[1] == pytest.approx(pace.mean[0], rel=0.2)


def test_a_sudden_slowdown_is_believed_after_so_many_answers_and_at_once() -> None:
    random, pace = Random(1), Pace()
    answers(pace, 200, 1.0, random)
    changed = answers(pace, IN_A_ROW, 3.0, random)
    assert changed == [False] * (IN_A_ROW - 1) + [True]
    changed = answers(pace, 4, 3.0, random)
    assert not any(changed)
    assert factors(pace) == pytest.approx((3.0, 3.0), rel=0.15)


def test_it_is_believed_that_a_slow_one_has_recovered_too() -> None:
    random, pace = Random(1), Pace()
    answers(pace, 100, 3.0, random)
    assert answers(pace, IN_A_ROW, 1.0, random)[-1]
    answers(pace, 10, 1.0, random)
    assert factors(pace) == pytest.approx((1.0, 1.0), rel=0.1)


def test_a_stall_now_and_then_is_not_the_endpoint() -> None:
    random, pace = Random(1), Pace()
    answers(pace, 200, 1.0, random)
    for _ in range(20):
        assert answers(pace, 1, 20.0, random) == [False]
        assert factors(pace) == pytest.approx((1.0, 1.0), rel=0.1)
        answers(pace, 10, 1.0, random)


def test_stalls_on_either_side_are_no_change() -> None:
    random, pace = Random(1), Pace()
    answers(pace, 200, 1.0, random)
    for i in range(12):
        assert answers(pace, 1, 5.0 if i % 2 else 0.2, random) == [False]
    assert factors(pace) == pytest.approx((1.0, 1.0), rel=0.15)


def test_answers_that_one_stall_made_late_are_one_sign_of_a_change() -> None:
    random, pace = Random(1), Pace()
    answers(pace, 200, 1.0, random)
    for i in range(8):  # sent at 100.0, 100.1 and so on; all stand still until 106
        assert not pace.learn(*DECODING, 6.0 - 0.1 * i, NOISE, 106.0)
    assert factors(pace) == pytest.approx((1.0, 1.0), rel=0.2)
    assert not pace.learn(*DECODING, 3.0, NOISE, 109.0)  # sent after that one was over: a second sign
    assert not pace.learn(*DECODING, 3.0, NOISE, 109.5)
    assert pace.learn(*DECODING, 3.0, NOISE, 112.0)  # a third one


quantities = st.just(0.0) | st.floats(1e-9, 1e3)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.tuples(quantities, quantities, quantities, st.just(-1.0) | quantities), max_size=80))
def test_nothing_that_may_be_observed_makes_a_figure_that_cannot_be(observed: list[tuple[float, ...]]) -> None:
    pace = Pace()
    for decoding, prefilling, rest, seconds in observed:
        pace.learn(decoding, prefilling, rest, seconds, NOISE, APART)
        assert all(math.isfinite(value) for value in (*pace.mean, *pace.variance, pace.cross))
        assert all(value >= LEAST for value in pace.variance)
        assert pace.cross**2 <= pace.variance[0] * pace.variance[1] * 1.001 + 1e-12


def test_what_has_no_length_teaches_nothing() -> None:
    pace = Pace()
    for figures in ((0.0, 0.0, 0.0, 1.0), (1.0, 1.0, 0.0, 0.0), (1.0, 1.0, 0.0, math.nan), (math.nan, 0.0, 0.0, 1.0)):
        assert not pace.learn(*figures, NOISE, APART)
    assert pace.mean == [0.0, 0.0]


# --- a pool ----------------------------------------------------------------------------------------------------------


def settle(paces: Paces, factors: list[float], variance: float = 1e-4) -> None:
    """A fit has found these factors, for rows that have answered."""
    for row in range(len(factors)):
        paces.learn(row, 1.0, 1.0, 0.0, 2.0, APART)
    logs = np.log(np.array(factors))
    paces.accept(np.stack((logs, logs), axis=1), np.full((len(factors), 2), variance))


def test_endpoints_that_cannot_be_told_apart_get_one_and_the_same_factor() -> None:
    paces = Paces()
    settle(paces, [1.0, 1.01, 0.99, 2.5, 2.48, 2.52])
    decode = paces.decode.tolist()
    assert decode[0] == decode[1] == decode[2] == pytest.approx(1.0, rel=0.005)
    assert decode[3] == decode[4] == decode[5] == pytest.approx(2.5, rel=0.005)
    assert paces.prefill.tolist() == decode
    assert decode[6:] == [1.0, 1.0]
    assert paces.table()[3] == (decode[3], decode[3])


def test_how_far_apart_two_must_be_depends_on_how_sure_each_is() -> None:
    paces = Paces()
    settle(paces, [1.0, 1.2], variance=1e-4)
    assert paces.decode[1] / paces.decode[0] == pytest.approx(1.2, rel=1e-6)
    settle(paces, [1.0, 1.2], variance=0.04)
    assert paces.decode[0] == paces.decode[1]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(-1.5, 1.5), st.floats(1e-6, 0.5)), min_size=2, max_size=20))
def test_pooling_keeps_the_order_and_never_leaves_the_range(found: list[tuple[float, float]]) -> None:
    paces = Paces(2)
    paces.reach(len(found))
    for row in range(len(found)):
        paces.learn(row, 1.0, 1.0, 0.0, 2.0, APART)
    logs, variances = np.array([f for f, _ in found]), np.array([v for _, v in found])
    paces.accept(np.stack((logs, -logs), axis=1), np.stack((variances, variances), axis=1))
    for values, used in ((logs, np.log(paces.decode)), (-logs, np.log(paces.prefill))):
        in_order = used[np.lexsort((used, values))]
        assert (np.diff(in_order) >= -1e-9).all()
        assert values.min() - 1e-9 <= used.min() and used.max() <= values.max() + 1e-9


def test_what_the_prices_took_over_makes_no_factor_endless() -> None:
    """A fit moves what is common into the prices: the slowest of a pool of mostly fast ones is then beyond the most."""
    paces = Paces()
    for row in range(3):
        paces.learn(row, 0.1, 0.0, 0.0, 0.1, APART)
    logs = np.array([0.0, 0.0, 2.0 * MOST_FACTOR])
    paces.accept(np.stack((logs, -logs), axis=1), np.full((3, 2), 1e-4))
    assert paces.table()[2] == pytest.approx((math.exp(MOST_FACTOR), math.exp(-MOST_FACTOR)))


def test_of_a_single_endpoint_everything_belongs_to_the_price_list() -> None:
    paces = Paces()
    for _ in range(30):
        paces.learn(0, 1.0, 1.0, 0.0, 6.0, APART)
    paces.pool()
    assert paces.decode[0] == paces.prefill[0] == 1.0
    assert paces.table() == {0: (1.0, 1.0)}


def test_an_endpoint_that_is_gone_leaves_its_row_as_new() -> None:
    paces = Paces()
    settle(paces, [1.0, 2.5, 1.0])
    paces.forget(1)
    assert paces.decode[1] == paces.prefill[1] == 1.0
    assert 1 not in paces.table()
    assert paces.estimates(3)[0][1].tolist() == [0.0, 0.0]
    paces.forget(99)


def test_more_rows_keep_what_is_known_and_begin_with_one() -> None:
    paces = Paces(2)
    settle(paces, [1.0, 2.5])
    paces.reach(5)
    assert paces.decode.tolist() == pytest.approx([1.0, 2.5, 1.0, 1.0, 1.0])
    paces.reach(3)
    assert len(paces.decode) == len(paces.prefill) == 5


def test_factors_of_a_former_life_are_used_and_given_up_easily() -> None:
    paces = Paces()
    paces.resume(0, 1.0, 1.0)
    paces.resume(1, 2.0, 3.0)
    paces.pool()
    assert (paces.decode[1], paces.prefill[1]) == pytest.approx((2.0, 3.0))
    for _ in range(12):
        paces.learn(1, *DECODING, 1.15, APART)
        paces.learn(1, *PREFILLING, 1.15, APART)
        paces.learn(0, *DECODING, 1.15, APART)
        paces.learn(0, *PREFILLING, 1.15, APART)
    paces.pool()
    assert paces.decode[0] == paces.decode[1]


def test_factors_of_a_former_life_outlast_fits_that_know_nothing_of_them_but_not_for_ever() -> None:
    paces = Paces()
    for row, factor in enumerate((1.0, 2.0, 6.0)):
        paces.resume(row, factor, factor)
    for _ in range(3 * PATIENCE):
        paces.learn(0, *DECODING, 1.15, APART)
    nothing, unsure = np.zeros((3, 2)), np.full((3, 2), 0.4)
    unsure[0] = 1e-4
    paces.accept(nothing, unsure)
    assert paces.decode[:3].tolist() == pytest.approx([1.0, 2.0, 6.0], rel=0.02)
    paces.learn(1, *DECODING, 1.15, APART)  # now one of them has spoken, and the other one is silent for too long
    paces.accept(nothing, unsure)
    assert paces.decode[:3].tolist() == pytest.approx([1.0] * 3)


def test_who_has_long_said_nothing_has_less_and_less_to_say() -> None:
    paces = Paces()
    settle(paces, [1.0, 2.5])
    heard = []
    for i in range(1, 2 * (PATIENCE + 3 * int(HALF_LIFE)) + 1):
        paces.learn(0, *DECODING, 1.15, APART)
        if i in (2 * PATIENCE, 2 * (PATIENCE + HALF_LIFE), 2 * (PATIENCE + 3 * HALF_LIFE)):
            heard.append(paces.estimates(2)[1].tolist())
    assert heard == [[1.0, 1.0], [1.0, 0.5], [1.0, 0.125]]
    paces.learn(1, *DECODING, 2.8, APART)
    assert paces.estimates(2)[1].tolist() == [1.0, 1.0]
