"""What is usual of the stable arm: where logarithms are cut, and where grossly late begins."""

from __future__ import annotations

import math
import random

from policies.routing.seen import USUAL, Usual


def usual(deviation: float, count: int = 400, middle: float = 0.0) -> Usual:
    draw, made = random.Random(1), Usual()
    for _ in range(count):
        made.see(draw.gauss(middle, deviation))
    return made


def test_nothing_is_usual_before_enough_was_seen() -> None:
    made = usual(0.3, USUAL - 1)
    assert math.isnan(made.middle)
    made.see(0.0)
    assert not math.isnan(made.middle)


def test_values_are_cut_three_spreads_from_the_middle() -> None:
    made = usual(0.5, middle=1.0)
    assert abs(made.middle - 1.0) < 0.1
    assert 0.4 < made.spread < 0.6
    assert made.cut(1.3) == 1.3
    assert made.cut(9.0) == made.middle + 3.0 * made.spread
    assert made.cut(-9.0) == made.middle - 3.0 * made.spread


def test_where_hardly_anything_varies_three_times_as_long_still_counts_nearly_whole() -> None:
    made = usual(0.01)
    assert made.cut(math.log(3.0)) > 0.9
    assert made.gross < math.log(3.0)


def test_what_is_usual_moves_with_the_last_few_hundred() -> None:
    made = usual(0.3)
    for _ in range(1200):
        made.see(2.0)
    assert made.middle == 2.0
