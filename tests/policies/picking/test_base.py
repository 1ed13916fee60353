"""The lowest of some values, fairly."""

import random
from collections import Counter

import numpy as np
import pytest

from policies.picking.base import lowest


def test_the_lowest_is_found():
    assert lowest(np.array([3.0, 1.0, 2.0]), random.Random(1)) == 1


def test_equal_values_are_drawn_evenly_and_drift_does_not_decide():
    values = np.array([0.3, 0.1 + 0.2, 5.0, 0.3])
    counts = Counter(lowest(values, random.Random(seed)) for seed in range(3000))
    assert set(counts) == {0, 1, 3}
    assert min(counts.values()) > 850


@pytest.mark.parametrize(
    ("values", "expected"),
    [([np.nan, 2.0, 1.0], {2}), ([np.inf, 4.0, np.nan], {1}), ([np.nan, np.nan], {0, 1}), ([np.inf, np.inf], {0, 1})],
)
def test_unknown_is_never_the_lowest_unless_nothing_is_known(values, expected):
    assert {lowest(np.array(values), random.Random(seed)) for seed in range(50)} == expected
