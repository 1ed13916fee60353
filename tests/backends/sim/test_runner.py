"""An engine in real time, on a clock the test sets."""

import asyncio
from random import Random

import pytest

from backends.sim import runner
from backends.sim.engine import Engine, EngineOptions
from backends.sim.generation import SimRequest, Step
from backends.sim.profiles import profile
from backends.sim.runner import MAX_LAG, Runner


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """One number: the monotonic time the runner sees."""
    now = [100.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: now[0])
    return now


def made() -> tuple[Runner, list[Step]]:
    steps: list[Step] = []
    engine = Engine(profile("h100_llama-3.1-8b_bf16_tp1"), EngineOptions(), Random(0))
    return Runner(engine, steps.append), steps


async def tick(one: Runner) -> None:
    """Fire the timer now, as a loop would when it is due."""
    one._cancel()
    one._tick()


async def test_steps_are_taken_at_the_time_they_were_due(clock: list[float]) -> None:
    one, steps = made()
    one.engine.submit(SimRequest("a", 100, 5), one.now())
    one.wake()
    await asyncio.sleep(0)
    due = one.engine.next_event_at()
    clock[0] = due + 0.004  # the timer is late
    await tick(one)
    assert steps[-1].at == due
    assert one.lost_seconds == 0.0
    one.stop()


async def test_a_process_without_processor_time_stands_still_and_says_so(clock: list[float]) -> None:
    one, steps = made()
    one.engine.submit(SimRequest("a", 100, 500), one.now())
    one.wake()
    await asyncio.sleep(0)
    due = one.engine.next_event_at()
    clock[0] += 5.0
    await tick(one)
    assert one.lost_seconds == pytest.approx(100.0 + 5.0 - due)
    assert one.lost_seconds > MAX_LAG
    assert one.now() == pytest.approx(due)
    assert len(steps) == 2
    one.stop()


async def test_frozen_time_does_not_count(clock: list[float]) -> None:
    one, _ = made()
    before = one.now()
    one.freeze()
    one.freeze()
    clock[0] += 60.0
    assert one.now() == before
    one.thaw()
    one.thaw()
    assert one.now() == before
    assert one.lost_seconds == 0.0


async def test_nothing_happens_after_stop(clock: list[float]) -> None:
    one, steps = made()
    one.stop()
    one.engine.submit(SimRequest("a", 100, 5), one.now())
    one.wake()
    await asyncio.sleep(0)
    assert not steps
