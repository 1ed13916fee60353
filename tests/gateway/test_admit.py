"""Waiting for a turn: in order, bounded in number and time, and no turn is lost."""

import asyncio

import pytest

from gateway.admit import Turnstile
from gateway.core.errors import Refused
from tests.support.loop import on_uvloop


async def waiting(turnstile: Turnstile, count: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(turnstile.wait_for_room(30.0)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


@on_uvloop
async def test_turns_are_given_in_order_and_one_at_a_time() -> None:
    turnstile = Turnstile()
    tasks = await waiting(turnstile, 3)
    for number in range(3):
        turnstile.release()
        await asyncio.wait_for(tasks[number], 1.0)
        assert [task.done() for task in tasks] == [True] * (number + 1) + [False] * (2 - number)
    turnstile.release()  # nobody waits: nothing happens
    assert len(turnstile) == 0


@on_uvloop
async def test_a_full_queue_refuses_at_once_and_a_turn_that_does_not_come_later() -> None:
    turnstile = Turnstile(limit=1)
    (task,) = await waiting(turnstile, 1)
    with pytest.raises(Refused) as caught:
        await turnstile.wait_for_room(30.0)
    assert (caught.value.reason, caught.value.status) == ("queue_full", 429) and caught.value.retry_after
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    with pytest.raises(Refused) as caught:
        await turnstile.wait_for_room(0.0)
    assert caught.value.reason == "queue_timeout" and len(turnstile) == 0


@on_uvloop
async def test_whoever_leaves_the_queue_does_not_keep_a_turn() -> None:
    turnstile = Turnstile()
    first, second, third, fourth = await waiting(turnstile, 4)
    first.cancel()
    turnstile.release()
    await asyncio.wait_for(second, 1.0)
    turnstile.release()
    third.cancel()  # its turn has come and it has not run yet: the next one is to have it
    await asyncio.gather(first, third, return_exceptions=True)
    await asyncio.wait_for(fourth, 1.0)


@on_uvloop
async def test_whose_turn_came_in_vain_is_still_the_first() -> None:
    turnstile = Turnstile(limit=1)
    (other,) = await waiting(turnstile, 1)
    first = asyncio.create_task(turnstile.wait_for_room(5.0, again=True))
    await asyncio.sleep(0)
    turnstile.release()
    await first
    assert not other.done()
    turnstile.release()
    await other
