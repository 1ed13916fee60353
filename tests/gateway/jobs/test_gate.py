"""A gate opens by degrees and closes at the first no."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from random import Random

from gateway.jobs.execute import Again
from gateway.jobs.gate import IN_A_ROW, Gate
from gateway.jobs.gates import Gates
from gateway.jobs.model import Claim, Result
from tests.support.loop import until


def gate(pause: float = 0.02) -> Gate:
    return Gate(lambda misses, asked, is_own: pause)


async def within(gate_: Gate, count: int) -> list[asyncio.Task[None]]:
    """So many that want to enter; those that have are done."""
    tasks = [asyncio.create_task(gate_.enter()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def entered(tasks: list[asyncio.Task[None]]) -> int:
    return sum(task.done() for task in tasks)


async def test_an_open_gate_lets_everybody_in() -> None:
    one = gate()
    tasks = await within(one, 100)
    assert entered(tasks) == 100 and one.is_open and not one.is_unused


async def test_after_a_no_one_may_try_and_then_twice_as_many_each_time() -> None:
    one = gate()
    one.close()
    tasks = await within(one, 100)
    assert entered(tasks) == 0 and one.has_enough
    await until(lambda: entered(tasks) == 1, "the first")
    one.passed()
    await until(lambda: entered(tasks) == 3, "two more")
    one.passed()
    one.passed()
    await until(lambda: entered(tasks) > 8, "ever more")
    for _ in range(100):
        one.passed()
        await asyncio.sleep(0)
    assert entered(tasks) == 100 and one.is_open


async def test_a_no_at_a_half_open_gate_closes_it_again() -> None:
    one = gate()
    one.close()
    tasks = await within(one, 5)
    await until(lambda: entered(tasks) == 1, "the first")
    one.close()
    one.left()
    assert entered(tasks) == 1 and one.closed_for() > 0.0
    await until(lambda: entered(tasks) == 2, "the second")
    await end(tasks)


async def test_those_sent_before_the_no_count_once() -> None:
    asked: list[int] = []

    def pause(misses: int, after: float, is_own: bool) -> float:
        asked.append(misses)
        return 0.5

    one = Gate(pause)
    await within(one, 50)
    for _ in range(50):
        one.close()
        one.left()
    assert asked == [1]


async def test_those_let_in_before_the_no_do_not_open_it_again() -> None:
    one = gate(pause=60.0)
    await within(one, 50)
    one.close()
    for _ in range(50):
        one.passed()
    assert not one.is_open
    tasks = await within(one, 1)
    assert entered(tasks) == 0
    await end(tasks)


async def test_who_goes_away_while_waiting_takes_no_place() -> None:
    one = gate()
    one.close()
    tasks = await within(one, 3)
    await end(tasks[:2])
    await until(lambda: tasks[2].done() and not tasks[2].cancelled(), "the last")


async def test_room_that_was_made_is_used_at_once() -> None:
    one = gate(pause=60.0)
    one.close()
    tasks = await within(one, 2)
    one.hint()
    await asyncio.sleep(0)
    assert entered(tasks) == 1
    await end(tasks)


async def test_failures_in_a_row_close_it_and_it_takes_a_success_to_forget_them() -> None:
    asked: list[int] = []

    def pause(misses: int, after: float, is_own: bool) -> float:
        asked.append(misses)
        return 0.01

    one = Gate(pause)
    for _ in range(IN_A_ROW - 1):
        one.failed()
    one.worked()
    for _ in range(IN_A_ROW - 1):
        one.failed()
    assert one.is_open and not asked
    for misses in (1, 2, 3):
        one.failed()
        assert asked[-1] == misses
        await until(lambda: not one.closed_for(), "its time")
    one.worked()
    one.failed()
    assert asked == [1, 2, 3]


def claim(tenant: str = "a", model: str = "m") -> Claim:
    return Claim("1", 1, "me", "1", tenant, "async", model, "/x", b"", 2e9)


NO = Again(5.0, 0, "tenant", Result())


async def test_a_tenants_gate_is_nobody_elses() -> None:
    gates = Gates(Random(1))
    passage = gates.passage(claim("a"))
    await passage.enter()
    passage.ended(NO)
    passage.leave()
    assert 4.9 < passage.closed_for() < 5.6
    assert gates.tenants_with_enough(("async", "m")) == {"a"}
    assert gates.passage(claim("b")).is_open and gates.passage(claim("a", "other")).is_open
    assert not gates.tenants_with_enough(("async", "other"))


async def test_one_that_could_not_enter_holds_no_place() -> None:
    gates = Gates(Random(1))
    gates.of_model(("async", "m")).close()
    passage = gates.passage(claim("a"))
    waiting: Coroutine[None, None, None] = passage.enter()
    task = asyncio.create_task(waiting)
    await asyncio.sleep(0)
    await end([task])
    assert gates.of_tenant(claim("a")).is_unused


async def test_gates_that_stand_open_are_forgotten() -> None:
    gates = Gates(Random(1))
    for n in range(100):
        passage = gates.passage(claim(f"t{n}"))
        await passage.enter()
        passage.passed()
    gates.forget()
    assert not gates._tenants and not gates._models
