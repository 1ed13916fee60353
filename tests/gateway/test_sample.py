"""A sample is as large as its share says, in every stretch, and two samples know nothing of each other."""

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.sample import CAPTURED, MIRRORED, Sample

GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@settings(deadline=None, max_examples=50)
@given(st.floats(0.0, 1.0), st.integers(0, 2**32), st.sampled_from([MIRRORED, CAPTURED]), st.integers(1, 5000))
def test_any_stretch_has_its_share_within_a_few(share: float, seed: int, step: float, length: int) -> None:
    sample = Sample(share, step, Random(seed))
    for _ in range(seed % 997):
        sample.take()
    taken = sum(sample.take() for _ in range(length))
    assert abs(taken - length * share) <= 2.0 + 2.0 * math.log(length)


@pytest.mark.parametrize(("share", "all_of"), [(0.0, 0), (1.0, 10_000)])
def test_none_is_none_and_all_is_all(share: float, all_of: int) -> None:
    sample = Sample(share, MIRRORED, Random(1))
    assert sum(sample.take() for _ in range(10_000)) == all_of


@pytest.mark.parametrize(("one", "other"), [(MIRRORED, CAPTURED), (MIRRORED, GOLDEN), (CAPTURED, GOLDEN)])
def test_what_one_sample_takes_says_nothing_of_another(one: float, other: float) -> None:
    first, second = Sample(0.1, one, Random(1)), Sample(0.5, other, Random(2))
    both = sum(a and b for a, b in ((first.take(), second.take()) for _ in range(20_000)))
    assert abs(both - 1000) < 60
