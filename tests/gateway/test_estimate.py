"""Lengths learnt from what engines report."""

import math

from hypothesis import given
from hypothesis import strategies as st

from gateway.estimate import Lengths


def test_an_unknown_model_starts_with_four_bytes_a_token_and_a_bounded_answer() -> None:
    lengths = Lengths()
    assert abs(lengths.prompt_tokens(4000) - 1000.0) <= 1.0 and lengths.prompt_tokens(0) == 1.0
    assert (
        lengths.output_tokens(None) == 200.0 and lengths.output_tokens(16) == 16.0 and lengths.output_tokens(0) == 1.0
    )


def test_both_follow_what_is_counted() -> None:
    lengths = Lengths()
    for _ in range(500):
        lengths.learn(3000, 1000, 50)
    assert abs(lengths.prompt_tokens(3000) - 1000.0) < 2.0 and abs(lengths.output_tokens(None) - 50.0) < 1.0


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(-1, 10**7), st.integers(-1, 10**7)), max_size=30))
def test_no_count_however_odd_makes_an_estimate_that_is_not_a_number(counts: list[tuple[int, int, int]]) -> None:
    lengths = Lengths()
    for size, prompt, output in counts:
        lengths.learn(size, prompt, output)
    assert math.isfinite(lengths.prompt_tokens(1000)) and lengths.prompt_tokens(1000) >= 1000 / 16
    assert math.isfinite(lengths.output_tokens(None)) and lengths.output_tokens(None) > 0.0


def test_what_was_not_counted_teaches_nothing() -> None:
    lengths = Lengths()
    lengths.learn(1000, -1, 0)
    lengths.learn(0, 10, -1)
    assert (lengths.bytes_per_token, lengths.output) == (4.0, 200.0)


def test_a_limit_of_any_size_is_only_a_limit() -> None:
    assert Lengths().output_tokens(10**400) == 200.0 and Lengths().output_tokens(-(10**400)) == 1.0
