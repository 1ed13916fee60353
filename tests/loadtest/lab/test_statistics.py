"""Means, paired ratios and their intervals, and when a bar counts as met."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.lab.statistics import Interval, is_at_least, is_at_most, mean, paired_ratio, t_quantile


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.7062), (2, 4.30265), (4, 2.77645), (9, 2.26216), (30, 2.04227), (1000, 1.96234)]
)
def test_quantiles_are_those_of_the_tables(freedom: int, value: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(("probability", "freedom"), [(0.5, 3), (1.0, 3), (0.9, 0)])
def test_a_quantile_that_does_not_exist_is_refused(probability: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="probability"):
        t_quantile(probability, freedom)


def test_a_mean_has_the_interval_of_students_t() -> None:
    found = mean([1.0, 2.0, 3.0, 4.0, 5.0, math.nan])
    assert found.value == 3.0 and found.count == 5
    assert found.margin == pytest.approx(2.776445 * math.sqrt(2.5 / 5), rel=1e-6)


def test_pairing_takes_away_what_the_seeds_share() -> None:
    theirs = [100.0, 140.0, 90.0, 120.0, 110.0]
    found = paired_ratio([1.1 * value for value in theirs], theirs)
    assert found.value == pytest.approx(1.1) and found.low == pytest.approx(1.1)


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=2, max_size=8))
def test_a_ratio_and_its_inverse_say_the_same(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    one, other = paired_ratio(ours, theirs), paired_ratio(theirs, ours)
    assert one.value * other.value == pytest.approx(1.0)
    assert one.low * other.high == pytest.approx(1.0)
    assert one.low <= one.value * (1 + 1e-12)


def test_pairs_without_a_figure_are_left_out() -> None:
    assert paired_ratio([1.0, math.nan, 2.0], [1.0, 1.0, 0.0]).count == 1
    assert paired_ratio([math.nan], [1.0]).count == 0


def test_one_seed_has_no_interval() -> None:
    found = mean([2.0])
    assert found.value == 2.0 and math.isnan(found.margin)


@pytest.mark.parametrize(
    ("low", "bar", "met"), [(1.115, 1.12, True), (1.105, 1.12, False), (0.892, 0.9, True), (0.8905, 0.9, False)]
)
def test_a_bar_is_met_when_the_interval_lies_above_it_less_one_percent(low: float, bar: float, met: bool) -> None:
    assert is_at_least(Interval(low + 0.2, low, low + 0.4, 5), bar) is met


def test_an_upper_bar_is_met_when_the_interval_lies_below_it() -> None:
    assert is_at_most(Interval(0.09, 0.08, 0.1005, 5), 0.1) is True
    assert is_at_most(Interval(0.09, 0.08, 0.102, 5), 0.1) is False


def test_few_seeds_leave_a_bar_open_unless_the_figure_itself_misses() -> None:
    assert is_at_least(Interval(1.2, 0.8, 1.6, 2), 1.12) is None
    assert is_at_least(Interval(1.0, 0.8, 1.2, 2), 1.12) is False
    assert is_at_least(Interval(1.2, math.nan, math.nan, 1), 1.12) is None
    assert is_at_least(mean([]), 1.0) is None
