"""Waits that end together: on one stroke, near the moment that was asked for, never in the past."""

import asyncio
import math

import pytest

from gateway.rounds import LONGEST, Rounds


async def test_waits_that_end_at_about_the_same_moment_end_at_one_stroke():
    rounds = Rounds()
    rounds.set_step(1.0, 20.0)
    loop = asyncio.get_running_loop()
    strokes: list[tuple[float, list[asyncio.Future[None]]]] = []
    waits = [rounds.wait(0.1) for _ in range(5)]
    strokes.extend(rounds._strokes.items())
    assert sum(len(waiting) for _, waiting in strokes) == 5
    assert len(strokes) <= 2
    for due, _ in strokes:
        assert abs(due - loop.time() - 0.1) <= LONGEST
        assert math.isclose(due / rounds.step, round(due / rounds.step))
    await asyncio.gather(*waits)
    assert not rounds._strokes


async def test_a_wait_that_was_cancelled_hurts_no_other():
    rounds = Rounds()
    first, second = rounds.wait(0.001), rounds.wait(0.001)
    first.cancel()
    await second
    assert first.cancelled()


@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_there_is_no_wait_of_no_time(seconds):
    rounds = Rounds()
    before = asyncio.get_running_loop().time()
    rounds.wait(seconds).cancel()
    assert next(iter(rounds._strokes)) > before


@pytest.mark.parametrize(
    ("rate", "shortest", "step"), [(1.0, 100.0, 0.05), (400.0, 1.0, 0.01), (1.0, 0.02, 0.001), (0.0, 1.0, 0.05)]
)
def test_the_step_is_short_where_many_wait_or_waits_are_short(rate, shortest, step):
    rounds = Rounds()
    rounds.set_step(rate, shortest)
    assert rounds.step == pytest.approx(step)
