"""The dispatcher against a store in memory and an executor that does as it is told: what it takes and gives back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.jobs import dispatcher as module
from gateway.jobs.dispatcher import AHEAD
from gateway.jobs.execute import End
from gateway.jobs.model import Claim
from tests.support.dispatching import OK, Run, at_once, for_ever, in_line, running, shelf_of
from tests.support.loop import until
from tests.support.shelf import Shelf


async def test_everything_there_is_ends_once() -> None:
    async with running(Run(shelf_of(300), at_once)) as run:
        await until(lambda: len(run.shelf.ended) == 300, "all of it")
    assert set(run.stage.runs.values()) == {1}
    assert run.told == {"completed": 300}


async def test_no_more_is_claimed_than_may_stand_in_line() -> None:
    async with running(Run(shelf_of(300), in_line)) as run:
        await until(lambda: run.stage.now == AHEAD, "a full line")
        await asyncio.sleep(0.05)
        assert run.stage.most == AHEAD == len(run.dispatcher.hands)


async def test_bodies_in_our_hands_are_bounded_and_no_model_waits_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 20_000)
    shelf = Shelf()
    for n in range(100):
        shelf.put(f"large{n}", model="large", body=b"x" * 1000)
        shelf.put(f"small{n}", model="small", deadline=3e9)
    async with running(Run(shelf, for_ever)) as run:
        await until(lambda: run.stage.runs["small0"], "one of the other model")
        await asyncio.sleep(0.05)
        assert run.dispatcher.hands.bytes <= 20_000 + AHEAD * 1000


async def test_what_runs_makes_room_for_more() -> None:
    async with running(Run(shelf_of(300), for_ever)) as run:
        await until(lambda: run.stage.now == 300, "all of it at once")


async def test_a_stopped_dispatcher_gives_back_what_it_holds() -> None:
    async with running(Run(shelf_of(40), in_line)) as run:
        await until(lambda: run.stage.now == AHEAD, "a full line")
    assert not any(piece.held for piece in run.shelf.pieces.values())
    assert run.told == {"stopped": AHEAD}


async def test_what_runs_may_end_while_it_stops_and_what_waits_is_given_back() -> None:
    go = asyncio.Event()

    async def some(claim: Claim, sent: Callable[[], None]) -> End:
        if int(claim.key) >= 5:
            await asyncio.sleep(3600)
        sent()
        await go.wait()
        return OK

    run = Run(shelf_of(10), some)
    run.dispatcher.start()
    await until(lambda: run.stage.now == 10, "all of them")
    stopping = asyncio.create_task(run.dispatcher.stop(timeout=30.0))
    await until(lambda: run.stage.now == 5, "those in line to be gone")
    go.set()
    await stopping
    assert len(run.shelf.ended) == 5
    assert not any(piece.held for piece in run.shelf.pieces.values())


async def test_a_store_that_is_away_stops_nothing_that_runs_and_is_told_later() -> None:
    go = asyncio.Event()

    async def waits(claim: Claim, sent: Callable[[], None]) -> End:
        sent()
        await go.wait()
        return OK

    async with running(Run(shelf_of(20), waits)) as run:
        await until(lambda: run.stage.now == 20, "all of them")
        run.shelf.away = True
        go.set()
        await until(lambda: run.dispatcher.is_cut_off and run.stage.now == 0, "all results")
        assert not run.shelf.ended
        run.shelf.away = False
        await until(lambda: len(run.shelf.ended) == 20, "all results written")
    assert set(run.stage.runs.values()) == {1}


async def test_a_lost_lease_stops_the_work_and_nothing_is_written() -> None:
    async with running(Run(shelf_of(3), for_ever, lease=1.0)) as run:
        await until(lambda: run.stage.now == 3, "all of them")
        run.shelf.lose(run.shelf.pieces["1"])
        await until(lambda: run.stage.runs["1"] == 2, "the lost one again")
        assert run.shelf.released["1"] == 0
        await until(lambda: run.stage.now == 3, "its first run stopped")


async def test_one_that_was_lost_and_claimed_again_here_goes_on() -> None:
    go = asyncio.Event()

    async def tough(claim: Claim, sent: Callable[[], None]) -> End:
        """The first run of it does not stop when it is told to."""
        sent()
        while claim.attempt == 1 and not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
        await asyncio.sleep(3600)
        return OK

    async with running(Run(shelf_of(1), tough, lease=1.0)) as run:
        await until(lambda: run.stage.now == 1)
        run.shelf.lose(run.shelf.pieces["0"])
        await until(lambda: run.stage.runs["0"] == 2, "the lost one again")
        renewed = run.shelf.asked["renew"]
        await until(lambda: run.shelf.asked["renew"] >= renewed + 3 or run.stage.now == 1, "more renewals")
        both, held = run.stage.now == 2, run.shelf.pieces["0"].held
        go.set()
        assert both and held and run.shelf.released["0"] == 0
        await until(lambda: run.stage.now == 1, "its first run stopped")


async def test_what_was_cancelled_is_stopped_and_given_back() -> None:
    async with running(Run(shelf_of(3), for_ever, lease=1.0)) as run:
        await until(lambda: run.stage.now == 3, "all of them")
        run.shelf.pieces["1"].cancelled = True
        await until(lambda: run.stage.now == 2, "the cancelled one gone")
        await until(lambda: run.shelf.released["1"] == 1, "it given back")
