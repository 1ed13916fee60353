"""A limit from the time between tokens: it grows while that is short, and falls when it is not."""

from __future__ import annotations

import pytest

from gateway.core.types import UNKNOWN
from policies.admission.limit import LEAST, START, TOLERANCE, AdaptiveLimit


def engine(limit: AdaptiveLimit, answers: int, base: float, each: float, promised: float = UNKNOWN) -> float:
    """An engine whose iterations take `base` and `each` for every request, always filled to its limit."""
    limit.observe(0, base + each, promised, 100.0, 1.0)  # once it was idle
    for _ in range(answers):
        there = limit.limit(0)
        limit.observe(0, base + each * there, promised, 100.0, there)
    return limit.limit(0)


def test_it_settles_where_tokens_take_so_many_times_as_long_as_on_an_idle_engine() -> None:
    found = engine(AdaptiveLimit(), 4000, 0.01, 1e-4)
    assert TOLERANCE * 0.8 < (0.01 + 1e-4 * found) / 0.01 < TOLERANCE * 1.5


def test_it_settles_near_what_is_promised_where_that_is_less() -> None:
    found = engine(AdaptiveLimit(), 4000, 0.01, 1e-4, promised=0.02)
    assert 0.016 < 0.01 + 1e-4 * found < 0.024


def test_an_engine_that_bears_many_gets_many_and_one_that_bears_few_gets_few() -> None:
    assert engine(AdaptiveLimit(), 5000, 0.01, 1e-6) > 1000.0
    assert engine(AdaptiveLimit(), 5000, 0.01, 1e-2) < 15.0


def test_it_never_falls_below_a_few() -> None:
    assert engine(AdaptiveLimit(), 5000, 0.001, 0.5) >= LEAST


def test_an_engine_with_little_to_do_proves_nothing() -> None:
    limit = AdaptiveLimit()
    for _ in range(100):
        limit.observe(0, 0.01, UNKNOWN, 100.0, START / 4.0)
    assert limit.limit(0) == START


def test_plain_and_short_answers_only_let_it_grow() -> None:
    limit = AdaptiveLimit()
    for gap, tokens in ((UNKNOWN, 100.0), (5.0, 2.0)):
        before = limit.limit(0)
        limit.observe(0, gap, UNKNOWN, tokens, before)
        assert limit.limit(0) > before


def test_a_row_that_is_given_to_another_begins_anew() -> None:
    limit = AdaptiveLimit()
    engine(limit, 100, 0.01, 1e-2)
    limit.forget(0)
    limit.forget(99)
    assert limit.limit(0) == limit.limit(99) == START
    limit.observe(20, 0.01, UNKNOWN, 100.0, START)
    assert limit.limit(20) == pytest.approx(START + 0.4)
