"""Waits grow, are spread, and keep to what the other side asked for, within reason."""

from __future__ import annotations

from math import nan
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gateway.jobs.retry import FAILURES, FIRST, LONGEST, MOST_ASKED, SPREAD, is_given_up, wait


def test_the_last_try_is_the_last() -> None:
    assert [is_given_up(tries, FAILURES) for tries in range(FAILURES)] == [False] * (FAILURES - 1) + [True]


@given(st.integers(0, 10**9), st.integers(0, 2**32))
def test_a_wait_is_between_the_first_and_the_longest(tries: int, seed: int) -> None:
    assert FIRST * (1 - SPREAD) <= wait(tries, nan, Random(seed)) <= LONGEST * (1 + SPREAD)


@given(st.integers(0, 20), st.floats(0.0, 1e12), st.integers(0, 2**32))
def test_nobody_comes_back_before_the_time_that_was_asked_for(tries: int, asked: float, seed: int) -> None:
    waited = wait(tries, asked, Random(seed))
    assert min(asked, MOST_ASKED) <= waited <= max(LONGEST, MOST_ASKED) * (1 + SPREAD)


def test_what_failed_together_does_not_come_back_together() -> None:
    random = Random(1)
    assert len({round(wait(3, nan, random), 3) for _ in range(100)}) > 90
