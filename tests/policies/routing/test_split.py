"""Drawing without an identity: uniform, closer to the weights than chance at every moment, also while they change."""

from __future__ import annotations

from collections import Counter
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.routing.split import Sequence, arm_at, weights_of
from tests.policies.routing.asking import arms

_weights = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=5)


def bound(count: int) -> float:
    """Of the theorem: how many requests an interval may be away from its share, of `count` drawn."""
    return 3.0 + 3.53 * log(count)


@given(st.integers(0, 2**64 - 1), _weights, st.integers(1, 3))
def test_at_every_moment_each_arm_is_within_the_bound_of_its_weight(
    start: int, weights: list[float], stride: int
) -> None:
    numbers, counts, made = Sequence(start), Counter[int](), tuple(weights)
    for count in range(1, 400):
        for _ in range(stride - 1):  # others' requests between
            numbers.next()
        counts[arm_at(made, numbers.next())] += 1
        limit = bound(count) * stride  # (a multiple of the golden ratio is a little further from even)
        assert all(abs(counts[row] - count * w / sum(made)) <= limit for row, w in enumerate(made))


@given(st.integers(0, 2**64 - 1))
def test_a_number_is_never_one_and_no_two_are_alike(start: int) -> None:
    numbers = Sequence(start)
    drawn = [numbers.next() for _ in range(200)]
    assert all(0.0 <= number < 1.0 for number in drawn) and len(set(drawn)) == 200


@given(_weights, st.floats(0.0, 1.0))
def test_every_number_has_an_arm_with_a_weight(weights: list[float], number: float) -> None:
    made = (0.0, *weights, 0.0)
    assert 0 < arm_at(made, number) <= len(weights)


def test_an_arm_has_exactly_the_part_of_its_weight() -> None:
    assert [arm_at((1.0, 2.0, 1.0), number / 8) for number in range(8)] == [0, 0, 1, 1, 1, 1, 2, 2]
    assert arm_at((0.0, 0.0), 0.5) == 0


@given(_weights, st.floats(0.0, 1.0))
def test_a_canary_has_its_share_and_the_others_divide_the_rest_by_weight(weights: list[float], share: float) -> None:
    made = weights_of(arms(7.0, *weights), "a", share)
    assert made[0] / sum(made) == pytest.approx(share, abs=1e-9)
    assert share >= 1.0 or list(made[1:]) == weights, "what is not a canary's is not touched"


def test_a_canary_without_a_share_has_nobody_and_one_with_all_has_all() -> None:
    assert weights_of(arms(99, 1), "b", 0.0) == (99, 0.0)
    assert weights_of(arms(99, 1), "b", 1.0) == (0.0, 1.0)
    assert weights_of(arms(99, 1), None, 0.0) == (99, 1)
