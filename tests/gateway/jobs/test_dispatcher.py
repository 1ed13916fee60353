"""The dispatcher against a store in memory and an executor that does as it is told."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from math import nan
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.jobs import dispatcher as module
from gateway.jobs.dispatcher import AHEAD, Dispatcher
from gateway.jobs.execute import Again, Done, End, GaveWay
from gateway.jobs.holding import SENT, Held
from gateway.jobs.model import Claim, Result, Stats
from gateway.jobs.retry import FAILURES
from tests.support.loop import until
from tests.support.shelf import Shelf

OK = Done(Result(200, b"{}"))
NO = Result(error=("no", "no"))
Play = Callable[[Claim, Callable[[], None]], Awaitable[End]]


class Stage:
    """An executor: `play` is what every piece of work does; what it did is counted by key."""

    def __init__(self, play: Play):
        self.play = play
        self.runs: Counter[str] = Counter()
        self.classes: list[str] = []
        self.now = 0
        self.most = 0

    async def run(self, claim: Claim, klass: str, sent: Callable[[], None]) -> End:
        self.runs[claim.key] += 1
        self.classes.append(klass)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await self.play(claim, sent)
        finally:
            self.now -= 1


class Own:
    """Everything runs as its own class."""

    def class_of(self, claim: Claim, at: float) -> str:
        return claim.klass

    async def look(self, claims: Iterable[Claim], at: float) -> bool:
        return False


class Run:
    def __init__(self, shelf: Shelf, play: Play, lease: float = 30.0, classes: module.Classes | None = None):
        self.shelf = shelf
        self.stage = Stage(play)
        self.told: Counter[str] = Counter()
        self.dispatcher = Dispatcher(shelf.store, self.stage, "me", self._observe, Random(1), classes or Own(), lease)

    def _observe(self, held: Held, how: str, at: float) -> None:
        self.told[how] += 1


@asynccontextmanager
async def running(run: Run) -> AsyncIterator[Run]:
    run.dispatcher.start()
    try:
        yield run
    finally:
        await run.dispatcher.stop()


async def at_once(claim: Claim, sent: Callable[[], None]) -> End:
    sent()
    await asyncio.sleep(0)
    return OK


async def for_ever(claim: Claim, sent: Callable[[], None]) -> End:
    sent()
    await asyncio.sleep(3600)
    return OK


async def in_line(claim: Claim, sent: Callable[[], None]) -> End:
    await asyncio.sleep(3600)
    return OK


def shelf_of(count: int, tenant: str = "", model: str = "m") -> Shelf:
    shelf = Shelf()
    for n in range(count):
        shelf.put(f"{tenant}{n}", tenant=tenant, model=model)
    return shelf


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


async def test_what_was_cancelled_is_stopped_and_given_back() -> None:
    async with running(Run(shelf_of(3), for_ever, lease=1.0)) as run:
        await until(lambda: run.stage.now == 3, "all of them")
        run.shelf.pieces["1"].cancelled = True
        await until(lambda: run.stage.now == 2, "the cancelled one gone")
        await until(lambda: run.shelf.released["1"] == 1, "it given back")


async def test_a_failed_try_is_repeated_later_and_given_up_in_the_end() -> None:
    async def fails(claim: Claim, sent: Callable[[], None]) -> End:
        sent()
        return Again(nan, FAILURES, "item", NO)

    shelf = shelf_of(1)
    async with running(Run(shelf, fails)) as run:
        for _ in range(FAILURES):
            before = run.stage.runs["0"]
            await until(lambda: run.stage.runs["0"] > before or "0" in shelf.ended, "another try")  # noqa: B023
            await until(lambda: "0" in shelf.ended or not shelf.pieces["0"].held, "it back")
            if "0" in shelf.pieces:
                assert shelf.pieces["0"].not_before > time.time()
                shelf.pieces["0"].not_before = 0.0
                run.dispatcher.wake()
        await until(lambda: "0" in shelf.ended, "the end")
    assert run.stage.runs["0"] == FAILURES
    assert shelf.ended["0"] is NO
    assert run.told == {"retried": FAILURES - 1, "failed": 1}


async def test_what_gave_way_is_counted_and_begun_again() -> None:
    async def twice(claim: Claim, sent: Callable[[], None]) -> End:
        sent()
        return GaveWay() if claim.displaced < 2 else OK

    async with running(Run(shelf_of(1), twice)) as run:
        await until(lambda: "0" in run.shelf.ended, "its end")
    assert run.told == {"displaced": 2, "completed": 1}


async def test_a_tenant_at_its_limit_does_not_hold_up_another() -> None:
    async def limited(claim: Claim, sent: Callable[[], None]) -> End:
        if claim.tenant == "full":
            return Again(60.0, 0, "tenant", NO)
        return await at_once(claim, sent)

    shelf = shelf_of(500, tenant="full")
    for n in range(200):
        shelf.put(f"other{n}", tenant="other", deadline=3e9)
    async with running(Run(shelf, limited)) as run:
        await until(lambda: len(shelf.ended) == 200, "all that is the other's")
    refused = sum(count for key, count in run.stage.runs.items() if key.startswith("full"))
    assert refused <= AHEAD


async def test_a_constant_no_is_asked_ever_less_often() -> None:
    async def saturated(claim: Claim, sent: Callable[[], None]) -> End:
        return Again(nan, 0, "model", NO)

    async with running(Run(shelf_of(500), saturated)) as run:
        await asyncio.sleep(2.0)
    assert run.stage.runs.total() <= 4
    assert run.shelf.asked["claim"] <= 6


async def test_a_broken_model_does_not_use_up_everybodys_tries() -> None:
    async def broken(claim: Claim, sent: Callable[[], None]) -> End:
        sent()
        return Again(nan, FAILURES, "item", NO)

    async with running(Run(shelf_of(500), broken)) as run:
        await asyncio.sleep(1.5)
    assert run.stage.runs.total() <= 2 * AHEAD + 4
    assert not run.shelf.ended


async def test_work_that_fails_does_not_hold_up_what_does_not() -> None:
    async def poisoned(claim: Claim, sent: Callable[[], None]) -> End:
        sent()
        return Again(nan, FAILURES, "item", NO) if int(claim.key) % 5 == 0 else await at_once(claim, sent)

    async with running(Run(shelf_of(500), poisoned)) as run:
        await until(lambda: len(run.shelf.ended) >= 400, "all that does not fail")


async def test_a_model_that_is_away_does_not_hold_up_another() -> None:
    async def away(claim: Claim, sent: Callable[[], None]) -> End:
        return Again(1.0, 0, "model", NO) if claim.model == "gone" else await at_once(claim, sent)

    shelf = shelf_of(100, tenant="a", model="gone")
    for n in range(100):
        shelf.put(f"there{n}", model="there", deadline=3e9)
    async with running(Run(shelf, away)) as run:
        await until(lambda: len(shelf.ended) == 100, "all for the one that is there")
    assert run.told["failed"] == 0


async def test_a_fleet_that_comes_back_gets_its_work() -> None:
    there = False

    async def maybe(claim: Claim, sent: Callable[[], None]) -> End:
        return await at_once(claim, sent) if there else Again(0.05, 0, "model", NO)

    async with running(Run(shelf_of(100), maybe)) as run:
        await until(lambda: run.stage.runs.total() >= 2, "some refusals")
        there = True
        await until(lambda: len(run.shelf.ended) == 100, "all of it")


async def test_a_bug_in_the_store_does_not_end_the_dispatcher() -> None:
    shelf = shelf_of(3)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    whole, broken = shelf.stats, [True]

    async def stats() -> Stats:
        if broken[0]:
            broken[0] = False
            raise KeyError("a bug")
        return await whole()

    shelf.stats = stats  # type: ignore[method-assign]
    async with running(Run(shelf, at_once)):
        await until(lambda: len(shelf.ended) == 3, "all of it")


class Hurried(Own):
    """What is called `late` runs as `interactive` from the second look on."""

    def __init__(self) -> None:
        self.looks = 0

    def class_of(self, claim: Claim, at: float) -> str:
        return "interactive" if self.looks and claim.key == "late" else claim.klass

    async def look(self, claims: Iterable[Claim], at: float) -> bool:
        self.looks += 1
        return True


async def test_what_runs_out_of_time_in_line_goes_to_a_better_line() -> None:
    promoted: list[str] = []

    async def line(claim: Claim, sent: Callable[[], None]) -> End:
        if run.stage.classes[-1] == "interactive":
            promoted.append(claim.key)
            return await at_once(claim, sent)
        return await in_line(claim, sent)

    shelf = shelf_of(2)
    shelf.put("late")
    run = Run(shelf, line, classes=Hurried())
    async with running(run):
        await until(lambda: "late" in shelf.ended, "the late one")
    assert promoted == ["late"]
    assert run.stage.runs["0"] == 1


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_nothing_is_forgotten_and_nothing_ends_twice(data: st.DataObject) -> None:
    """Any mixture of ends, cancels, lost leases, a store away, and restarts: each item gets exactly one record."""
    count = data.draw(st.integers(1, 30))
    seed = data.draw(st.integers(0, 2**16))
    events = data.draw(st.lists(st.sampled_from(["away", "back", "lose", "stop", "nothing"]), max_size=12))
    asyncio.run(_chaos(count, seed, events))


async def _chaos(count: int, seed: int, events: list[str]) -> None:
    random = Random(seed)

    async def anything(claim: Claim, sent: Callable[[], None]) -> End:
        if random.random() < 0.8:
            sent()
        await asyncio.sleep(random.choice((0.0, 0.0, 0.001, 0.003)))
        roll = random.random()
        if roll < 0.6:
            return OK
        if roll < 0.7:
            return GaveWay()
        if roll < 0.8:
            return Again(0.001, 0, random.choice(("tenant", "model")), NO)
        return Again(0.001, FAILURES, "item", NO)

    shelf = Shelf()
    for n in range(count):
        shelf.put(f"{n}", tenant=random.choice("ab"), model=random.choice("xy"))
    shelf.clock = time.time
    run = Run(shelf, anything)
    run.dispatcher.start()
    for event in events:
        await asyncio.sleep(random.choice((0.0, 0.002)))
        if event in ("away", "back"):
            shelf.away = event == "away"
        elif event == "lose" and shelf.pieces:
            shelf.lose(random.choice(list(shelf.pieces.values())))
        elif event == "stop":
            shelf.away = False
            await run.dispatcher.stop()
            assert not any(piece.held for piece in shelf.pieces.values()), "a claim was not given back"
            run = Run(shelf, anything)
            run.dispatcher.start()
    shelf.away = False
    for piece in shelf.pieces.values():
        piece.not_before = 0.0
    await run.dispatcher.stop()
    assert set(shelf.records.values()) <= {1}
    assert len(shelf.ended) + len(shelf.pieces) == count
    assert not any(piece.held for piece in shelf.pieces.values())
    assert run.dispatcher.hands.bytes == 0 and len(run.dispatcher.hands) == 0
    assert all(run.dispatcher.hands.of((k, m)) == 0 for k in ("async",) for m in "xy")
    assert SENT not in {held.state for held in run.dispatcher.hands}
