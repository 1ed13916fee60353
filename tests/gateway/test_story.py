"""A request's coroutine, driven by the callbacks that move it."""

from __future__ import annotations

import asyncio

import pytest

from gateway.story import Story, Turn, in_a_task


def run(coroutine):
    bugs: list[BaseException] = []
    story = Story(coroutine, bugs.append)
    story.step(None)
    return story, bugs


def test_a_story_goes_on_inside_the_call_that_moves_it():
    told: list[str] = []
    turn = Turn()

    async def tell() -> None:
        told.append("begun")
        await turn
        told.append("gone on")

    story, bugs = run(tell())
    assert told == ["begun"] and not story.is_over
    turn.take()
    assert told == ["begun", "gone on"] and story.is_over and not bugs


def test_a_turn_that_was_taken_before_is_not_waited_for():
    turn = Turn()
    turn.take()

    async def tell() -> None:
        await turn

    assert run(tell())[0].is_over


def test_taking_a_turn_twice_moves_the_story_once():
    steps: list[int] = []
    first, second = Turn(), Turn()

    async def tell() -> None:
        await first
        steps.append(1)
        await second
        steps.append(2)

    run(tell())
    first.take()
    first.take()
    assert steps == [1]


def test_cancelling_unwinds_the_story_where_it_waits():
    ends: list[str] = []

    async def tell() -> None:
        try:
            await Turn()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        finally:
            ends.append("cleaned up")

    story, bugs = run(tell())
    story.cancel()
    assert ends == ["cancelled", "cleaned up"] and story.is_over and not bugs
    story.cancel()
    assert len(ends) == 2


def test_a_story_does_not_cancel_itself_while_it_runs():
    seen: list[bool] = []
    stories: list[Story] = []
    turn = Turn()

    async def tell() -> None:
        await turn
        stories[0].cancel()
        seen.append(True)

    stories.append(run(tell())[0])
    turn.take()
    assert seen == [True]


def test_an_exception_that_escapes_is_reported():
    async def tell() -> None:
        raise ValueError("a bug")

    story, bugs = run(tell())
    assert story.is_over and isinstance(bugs[0], ValueError)


async def test_a_story_waits_for_tasks_and_takes_their_exceptions():
    seen: list[object] = []
    over = asyncio.Event()

    async def fail() -> None:
        raise OSError("refused")

    async def tell() -> None:
        seen.append(await asyncio.get_running_loop().create_task(asyncio.sleep(0, "slept")))
        with pytest.raises(OSError):
            await asyncio.get_running_loop().create_task(fail())
        over.set()

    run(tell())
    await asyncio.wait_for(over.wait(), 5)
    assert seen == ["slept"]


async def test_cancelling_also_cancels_the_task_that_is_waited_for():
    task = asyncio.get_running_loop().create_task(asyncio.sleep(60))

    async def tell() -> None:
        await task

    story, _ = run(tell())
    story.cancel()
    await asyncio.sleep(0)
    assert story.is_over and task.cancelled()


async def test_a_task_may_wait_for_a_story_and_hears_how_it_ended() -> None:
    turn = Turn()

    async def told(error: Exception | None) -> None:
        await turn
        if error is not None:
            raise error

    task = asyncio.create_task(in_a_task(told(None)))
    await asyncio.sleep(0)
    assert not task.done()
    turn.take()
    await task
    with pytest.raises(KeyError):
        await in_a_task(told(KeyError("no")))


async def test_a_task_that_is_cancelled_ends_its_story() -> None:
    ended = []

    async def told() -> None:
        try:
            await Turn()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    task = asyncio.create_task(in_a_task(told()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled() and ended == ["cancelled"]
