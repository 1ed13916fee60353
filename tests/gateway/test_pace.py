"""When to scrape again, and when a page that does not move is no longer believed."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.health import Evidence, State
from gateway.core.types import Load
from gateway.pace import JITTER, MAX_BACK_OFF, Motion, Pace, until_next_check


def test_a_quick_scrape_is_repeated_after_the_interval_with_jitter():
    pace = Pace(1.0, Random(1))
    waits = [pace.after(True, 0.01) for _ in range(200)]
    assert min(waits) >= 1.0 - JITTER - 0.01
    assert max(waits) <= 1.0 + JITTER
    assert len(set(waits)) > 100


def test_first_scrapes_are_spread_over_the_interval():
    first = [Pace(1.0, random).first() for random in [Random(2)] for _ in range(100)]
    assert 0.0 <= min(first) < 0.1 and 0.9 < max(first) < 1.0


@pytest.mark.parametrize(("ok", "took"), [(False, 0.01), (True, 0.9)])
def test_failing_and_slow_scrapes_back_off_up_to_a_bound(ok, took):
    pace = Pace(1.0, Random(3))
    factors = []
    for _ in range(10):
        pace.after(ok, took)
        factors.append(pace.factor)
    assert factors[:4] == [2.0, 4.0, 8.0, 16.0]
    assert factors[-1] == MAX_BACK_OFF


def test_good_scrapes_bring_the_interval_back():
    pace = Pace(1.0, Random(4))
    for _ in range(10):
        pace.after(False, 0.0)
    for _ in range(4):
        pace.after(True, 0.0)
    assert pace.factor == 1.0


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 60.0)), max_size=50), st.floats(0.01, 60.0))
def test_there_is_always_a_rest_between_two_scrapes(story, every):
    pace = Pace(every, Random(5))
    for ok, took in story:
        assert pace.after(ok, took) >= every / 2.0


@pytest.mark.parametrize(("evidence", "state", "wait"), [
    (Evidence.PROBE_OK, State.HEALTHY, 2.0), (Evidence.PROBE_FAILED, State.SUSPECT, 2.0),
    (Evidence.REFUSED, State.SUSPECT, 0.5), (Evidence.REFUSED, State.DOWN, 1.0), (Evidence.PROBE_OK, State.TRIAL, 2.0),
])  # fmt: skip
def test_a_refused_check_is_repeated_soon_and_one_that_is_down_is_looked_for_more_often(evidence, state, wait):
    assert until_next_check(2.0, evidence, state) == wait


def page(at: float, running: float = 4.0, prompt: float = 100.0) -> Load:
    return Load(at=at, waiting=0.0, running=running, prompt_tokens=prompt)


def test_a_page_that_stands_still_while_our_requests_move_is_frozen():
    motion = Motion(3.0)
    assert [motion.is_frozen(page(float(at)), ours=float(at)) for at in range(6)] == [False] * 4 + [True] * 2


def test_a_page_that_moves_is_not_frozen():
    motion = Motion(3.0)
    assert not any(motion.is_frozen(page(float(at), prompt=at), ours=float(at)) for at in range(20))


def test_a_page_that_stands_still_because_nothing_happens_is_not_frozen():
    motion = Motion(3.0)
    assert not any(motion.is_frozen(page(float(at), running=0.0), ours=0.0) for at in range(20))


def test_a_frozen_page_that_moves_again_is_believed_again():
    motion = Motion(3.0)
    for at in range(6):
        motion.is_frozen(page(float(at)), ours=float(at))
    assert not motion.is_frozen(page(6.0, running=5.0), ours=6.0)


def test_an_engine_that_tells_only_its_queue_cannot_be_caught():
    motion = Motion(3.0)
    assert not any(motion.is_frozen(Load(at=float(at), waiting=0.0), ours=float(at)) for at in range(20))
