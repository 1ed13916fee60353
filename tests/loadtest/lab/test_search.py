"""The search for g95 and g99 on curves whose answer is known."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.lab.search import Found, place_of, rate_at, search


class Knee:
    """Attainment that falls through 95 % at `g95`, with a given steepness; broken off below 85 %."""

    def __init__(self, g95: float, width: float = 0.02):
        self.g95, self.width, self.asked = g95, width, list[float]()

    def __call__(self, rate: float) -> dict[str, float]:
        self.asked.append(rate)
        odds = math.log(19) - math.log(rate / self.g95) / self.width
        share = 1.0 / (1.0 + math.exp(-max(-50.0, min(50.0, odds))))
        return {"attainment": max(share, 0.85), "complete": float(share > 0.85)}


@given(st.floats(0.5, 2000), st.floats(0.3, 3.0), st.floats(0.01, 0.1))
def test_the_goal_is_found_within_one_percent_wherever_it_is_begun(g95: float, off: float, width: float) -> None:
    found = search(Knee(g95, width), g95 * off)
    assert found.goals[0.95] == pytest.approx(g95, rel=0.01)
    assert found.goals[0.99] == pytest.approx(g95 * math.exp(-width * math.log(99 / 19)), rel=0.01)


def test_a_search_that_begins_close_needs_few_runs() -> None:
    knee = Knee(158.0)
    search(knee, 157.0)
    assert len(knee.asked) <= 8


def test_no_rate_is_run_twice() -> None:
    knee = Knee(60.0)
    search(knee, 150.0)
    assert len(set(knee.asked)) == len(knee.asked)


def test_rates_lie_on_one_grid() -> None:
    knees = Knee(100.0), Knee(101.3)
    for knee in knees:
        search(knee, knee.g95)
    every = set(knees[0].asked) | set(knees[1].asked)
    assert all(rate_at(place_of(rate)) == rate for rate in every)


def always(share: float) -> Found:
    return search(lambda rate: {"attainment": share, "complete": 1.0}, 10.0)


def test_a_goal_that_is_met_everywhere_or_nowhere_has_no_rate() -> None:
    assert math.isnan(always(1.0).goals[0.95]) and math.isnan(always(0.2).goals[0.95])


def test_of_several_crossings_the_lowest_counts() -> None:
    def bumpy(rate: float) -> dict[str, float]:
        fails = 90 < rate < 100 or rate > 120
        return {"attainment": 0.9 if fails else 0.999, "complete": 1.0}

    found = search(bumpy, 95.0, (0.95,))
    assert found.goals[0.95] == pytest.approx(90.0, rel=0.02)
