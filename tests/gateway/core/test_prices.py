"""The fit finds what engines cost and how they differ, from answers alone; and what it makes of too few."""

from __future__ import annotations

import math
from dataclasses import astuple, replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.learning import Learning
from gateway.core.prediction import Prior
from gateway.core.prices import LOWEST, NAMES, Prices, recentre
from gateway.core.types import Floats
from gateway.core.window import Window
from tests.support.predicting import PLAIN, Engines, Situation


def prices_of(prior: Prior) -> Prices:
    return Learning(prior).prices


def true_prices(prior: Prior) -> Floats:
    return np.array(astuple(prior)[: len(NAMES)])


def fit(prices: Prices, window: Window, chunk: float, rows: int, times: int = 4) -> tuple[Floats, Floats, float]:
    """Fit again and again, as it happens while answers come. Returns what the last one found."""
    factors = np.zeros((rows, 2))
    for _ in range(times):
        factors, variances, error = prices.fit(window, chunk, factors, np.ones(rows))
        prices.accept()
    return factors, variances, error


@pytest.mark.parametrize("seconds", [0.005, 0.0005])
def test_a_few_answers_much_sooner_than_any_engine_could_give_them_spoil_no_price(seconds: float) -> None:
    """Something before the engine gave them, or the prompt was cached and nobody knew."""
    engines, window, prices = Engines(PLAIN, [(1.0, 1.0)] * 2, Random(5)), Window(), prices_of(PLAIN)
    engines.fill(window, 300)
    for i in range(6):
        s = engines.situation()
        window.add_first(i % 2, seconds, s.rest, s.tokens, s.decoding, s.context, s.pairs)
    fit(prices, window, PLAIN.chunk, 2)
    each = prices.each
    for tokens, pairs in ((1000.0, 5e5), (8000.0, 3.2e7)):
        found = float(prices.added(np.array(0.0), np.array(tokens)) @ np.array(each[4:7])) + each[7] * pairs
        assert found == pytest.approx(engines.slope(tokens) + PLAIN.pair * pairs, rel=0.2)


def test_a_chunk_adds_its_tokens_piece_by_piece() -> None:
    added = prices_of(PLAIN).added(np.array([0.0, 0.0, 90.0, 450.0, 600.0]), np.array([50.0, 800.0, 30.0, 100.0, 10.0]))
    assert added.tolist() == [[50, 0, 0], [100, 400, 300], [10, 20, 0], [0, 50, 50], [0, 0, 10]]


def test_the_vectors_and_the_scalars_count_the_same_pieces() -> None:
    learning, random = Learning(PLAIN), Random(1)
    for _ in range(200):
        decoding, chunk = float(random.randrange(900)), random.uniform(1.0, 4000.0)
        expected = learning.prices.added(np.array(decoding), np.array(chunk)).tolist()
        assert learning.added(decoding, chunk) == pytest.approx(expected)


def test_the_quantities_times_the_prices_are_what_engines_take() -> None:
    engines, window, prices = Engines(PLAIN, [(1.0, 1.0)], Random(4), noise=0.0), Window(), prices_of(PLAIN)
    engines.fill(window, 50)
    size = len(window.first)
    seconds = prices.quantities(window, PLAIN.chunk) @ true_prices(PLAIN)
    first, rest = window.full_first > 0.0, window.full_rest > 0.0
    np.testing.assert_allclose(seconds[:size][first] + window.first[first, 3], window.first[first, 2])
    np.testing.assert_allclose(seconds[size:][rest], window.rest[rest, 2])


# --- what is found ---------------------------------------------------------------------------------------------------


ANOTHER = replace(PLAIN, base=0.006, decode=2.2e-5, context=1.6e-7, slope1=1.8e-5, slope2=1.5e-5, slope3=2.5e-5)


@pytest.mark.parametrize("times", [0.25, 1.0, 4.0])
def test_prices_are_found_one_by_one_whatever_was_believed_before(times: float) -> None:
    truth = replace(PLAIN, **{name: getattr(PLAIN, name) * times for name in NAMES[1:]})
    engines, window, prices = Engines(truth, [(1.0, 1.0)] * 4, Random(2), noise=0.0), Window(), prices_of(PLAIN)
    engines.fill(window, 400)
    factors, _, error = fit(prices, window, PLAIN.chunk, 4, times=8)
    assert prices.each == pytest.approx(true_prices(truth).tolist(), rel=0.05)
    assert np.exp(factors) == pytest.approx(np.ones((4, 2)), rel=0.01)
    assert error < 0.01


@pytest.mark.parametrize("truth", [PLAIN, ANOTHER])
def test_noise_is_averaged_out_of_what_prompts_and_streams_take(truth: Prior) -> None:
    engines, window, prices = Engines(truth, [(1.0, 1.0)] * 4, Random(2), noise=0.05), Window(), prices_of(PLAIN)
    engines.fill(window, 500)
    fit(prices, window, PLAIN.chunk, 4)
    off = off_by(prices, truth)
    assert off.mean() < 0.02 and off.max() < 0.1


def off_by(prices: Prices, truth: Prior) -> Floats:
    """By how much these prices are off, as a share, for answers of engines without noise."""
    fresh, exact = Window(), Engines(truth, [(1.0, 1.0)], Random(77), noise=0.0)
    exact.fill(fresh, 300)
    seconds = prices.quantities(fresh, PLAIN.chunk) @ np.array(prices.each)
    size = len(fresh.first)
    seconds[:size] += fresh.first[:, 3]
    there = np.concatenate((fresh.full_first, fresh.full_rest)) > 0.0
    off: Floats = np.abs(seconds[there] / np.concatenate((fresh.first, fresh.rest))[there, 2] - 1.0)
    return off


def test_a_named_profile_is_believed_more_than_a_guess() -> None:
    moved = []
    for sure in (False, True):
        window, prices = Window(), prices_of(replace(PLAIN, sure=sure))
        window.add_rest(0, 2.0 * 50.0 * 0.01, 50.0, 0.0, 0.0, [0.0] * 4)
        fit(prices, window, PLAIN.chunk, 1, times=1)
        moved.append(prices.each[1] / PLAIN.base)
    assert 1.4 < moved[1] < moved[0] < 2.0


@pytest.mark.parametrize("factors", [
    [(1.0, 1.0)] * 4 + [(2.5, 2.5)] * 4,
    [(1.0, 1.0)] * 3 + [(1.6, 1.6)] * 3 + [(3.0, 3.0)] * 2,
    [(1.0, 1.0)] * 3 + [(1.0, 1.8)],
])  # fmt: skip
def test_endpoints_that_differ_are_found(factors: list[tuple[float, float]]) -> None:
    engines, window, prices = Engines(PLAIN, factors, Random(2)), Window(), prices_of(PLAIN)
    engines.fill(window, 600)
    found, variances, _ = fit(prices, window, PLAIN.chunk, len(factors))
    ratios = np.exp(found - found[0])
    assert ratios == pytest.approx(np.array(factors) / factors[0], rel=0.05)
    assert (variances < 0.002).all() and (variances > 0.0).all()


def test_what_most_endpoints_are_is_the_price_and_not_a_factor() -> None:
    beta, factors = np.ones(8), np.log(np.array([[2.0, 3.0], [2.0, 3.0], [2.0, 3.0], [6.0, 6.0], [1.0, 1.0]]))
    heard = np.array([True, True, True, True, False])
    found, left = recentre(beta, factors, heard)
    assert found.tolist() == pytest.approx([1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0])
    assert np.exp(left) == pytest.approx(np.array([[1.0, 1.0]] * 3 + [[3.0, 2.0]] + [[1.0, 1.0]]))
    assert recentre(beta, factors, heard & False)[1] is factors


def test_a_tenth_of_wild_answers_does_not_move_the_prices() -> None:
    engines, window, prices = Engines(PLAIN, [(1.0, 1.0)] * 4, Random(2), noise=0.03), Window(), prices_of(PLAIN)
    engines.fill(window, 400)
    random = Random(9)
    for table in (window.first, window.rest):
        for place in range(len(table)):
            if random.random() < 0.1:
                table[place, 2] *= random.choice([20.0, 0.2])
    fit(prices, window, PLAIN.chunk, 4)
    assert off_by(prices, PLAIN).mean() < 0.04


def test_a_fifth_of_answers_from_a_machine_that_stands_still_now_and_then_tells_nothing_of_the_others() -> None:
    engines, window, prices = Engines(PLAIN, [(1.0, 1.0)] * 2, Random(2), noise=0.05), Window(), prices_of(PLAIN)
    engines.fill(window, 300)
    random = Random(9)
    for table in (window.first, window.rest):
        for place in range(len(table)):
            if random.random() < 0.2:
                table[place, 2] *= random.uniform(2.0, 9.0)
    fit(prices, window, PLAIN.chunk, 2)
    assert off_by(prices, PLAIN).mean() < 0.06


def test_engines_of_quite_another_kind_are_told_from_a_few_answers_too() -> None:
    """A CPU: its tokens cost 40 times as much, each of them the same, and its iterations hardly more."""
    truth = replace(PLAIN, overhead=0.003, base=0.014, slope1=6e-4, slope2=6e-4, slope3=6e-4, pair=4e-8)
    engines, window, prices = Engines(truth, [(1.0, 1.0)] * 2, Random(2), noise=0.05), Window(), prices_of(PLAIN)
    for tokens in (40.0, 90.0, 160.0, 300.0, 600.0) * 6:
        s = Situation(tokens, 0.0, 0.0, tokens * tokens / 2.0, 0.0)
        window.add_first(0, engines.first(0, s), 0.0, tokens, 0.0, 0.0, s.pairs)
        window.add_rest(0, engines.stretch(0, s, 30.0, [0.0] * 4), 30.0, 1.0, tokens, [0.0] * 4)
    fit(prices, window, PLAIN.chunk, 1, times=5)
    for tokens in (45.0, 200.0, 550.0):
        row = np.concatenate(([1.0, 1.0, 0.0, 0.0], prices.added(np.array(0.0), np.array(tokens)), [tokens**2 / 2.0]))
        assert row @ np.array(prices.each) == pytest.approx(float(row @ true_prices(truth)), rel=0.06)


@pytest.mark.parametrize(("times", "unseen"), [(1.0, (0.99, 1.01)), (2.0, (1.4, 2.2))])
def test_prices_of_which_nothing_is_seen_go_with_the_others(times: float, unseen: tuple[float, float]) -> None:
    """Idle engines and short prompts say nothing of KV reads and the third slope; but a GPU is slow at most of it."""
    engines, window, prices = Engines(PLAIN, [(times, times)], Random(2), noise=0.0), Window(), prices_of(PLAIN)
    for i in range(60):
        s = Situation(50.0 + i, 0.0, 0.0, 2000.0, 0.0)
        window.add_first(0, engines.first(0, s), 0.0, s.tokens, 0.0, 0.0, s.pairs)
    fit(prices, window, PLAIN.chunk, 1)
    for i in (3, 6):
        assert unseen[0] < prices.each[i] / true_prices(PLAIN)[i] < unseen[1]


def test_what_was_found_for_long_becomes_what_is_believed() -> None:
    engines, window, prices = Engines(PLAIN, [(2.0, 2.0)], Random(2), noise=0.0), Window(), prices_of(PLAIN)
    engines.fill(window, 100)
    fit(prices, window, PLAIN.chunk, 1, times=100)
    window.forget(0)
    window.add_rest(0, 2.0 * 50.0 * 0.01, 50.0, 0.0, 0.0, [0.0] * 4)  # from now on only idle engines are seen
    fit(prices, window, PLAIN.chunk, 1, times=5)
    assert np.array(prices.each[1:]) / true_prices(PLAIN)[1:] == pytest.approx(np.full(7, 2.0), rel=0.05)


def test_old_answers_count_less_than_new_ones() -> None:
    old, new = Engines(PLAIN, [(1.0, 1.0)], Random(2)), Engines(PLAIN, [(1.4, 1.4)], Random(2))
    base = []
    for gap in (0, 10_000):
        window, prices = Window(), prices_of(PLAIN)
        old.fill(window, 100)
        window.count += gap
        new.fill(window, 100)
        fit(prices, window, PLAIN.chunk, 1)
        base.append(prices.each[1] / PLAIN.base)
    assert base[1] == pytest.approx(1.4, rel=0.06)
    assert base[0] < base[1] - 0.1


# --- too little, and the impossible ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_an_empty_window_leaves_the_prior() -> None:
    prices = prices_of(PLAIN)
    factors, variances, _ = fit(prices, Window(), PLAIN.chunk, 3)
    assert prices.each == pytest.approx(true_prices(PLAIN).tolist())
    assert factors.tolist() == [[0.0, 0.0]] * 3
    assert np.isfinite(variances).all()


def test_a_single_answer_moves_the_prices_a_little_and_breaks_nothing() -> None:
    window, prices = Window(), prices_of(PLAIN)
    window.add_first(0, 0.05, 0.0, 1000.0, 0.0, 0.0, 5e5)
    factors, _, error = fit(prices, window, PLAIN.chunk, 2, times=1)
    assert np.isfinite(factors).all() and math.isfinite(error)
    assert factors[1].tolist() == [0.0, 0.0]
    assert np.array(prices.each) / true_prices(PLAIN) == pytest.approx(np.ones(8), rel=0.9)


def seconds_of(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(math.log(low), math.log(high)).map(math.exp)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 3), seconds_of(1e-4, 1e3), st.floats(1.0, 1e5), st.floats(0.0, 500.0),
                          seconds_of(1e-3, 1e3), st.floats(16.0, 4000.0)), min_size=1, max_size=40))  # fmt: skip
def test_no_answers_make_a_price_below_the_lowest_or_none(answers: list[tuple]) -> None:
    window, prices = Window(), prices_of(PLAIN)
    for row, seconds, tokens, decoding, later, steps in answers:
        window.add_first(row, seconds, min(0.02, seconds), tokens, decoding, decoding * 500.0, tokens * tokens / 2.0)
        window.add_rest(row, later, steps, decoding, decoding * 500.0, [10.0, 20.0, 30.0, 1e4])
    for _ in range(3):
        factors, variances, error = fit(prices, window, PLAIN.chunk, 4, times=1)
        assert np.isfinite(factors).all() and (variances > 0.0).all() and 0.0 <= error <= 1.0
        assert (prices.beta >= LOWEST * 0.999).all() and np.isfinite(prices.beta).all()


def test_the_prices_in_use_change_when_a_fit_is_accepted_and_not_before() -> None:
    engines, window, prices = Engines(PLAIN, [(2.0, 2.0)], Random(2)), Window(), prices_of(PLAIN)
    engines.fill(window, 100)
    before = prices.each
    prices.fit(window, PLAIN.chunk, np.zeros((1, 2)), np.ones(1))
    assert prices.each == before and prices.fits == 0
    prices.accept()
    assert prices.each[1] == pytest.approx(2.0 * PLAIN.base, rel=0.15) and prices.fits == 1
