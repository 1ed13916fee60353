"""The dispatcher where work fails, is refused, gives way or runs out of time; and whatever happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from math import nan
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.jobs.dispatcher import AHEAD
from gateway.jobs.execute import Again, End, GaveWay
from gateway.jobs.holding import SENT
from gateway.jobs.model import Claim, Stats
from gateway.jobs.retry import FAILURES
from tests.support.dispatching import NO, OK, Own, Run, at_once, in_line, running, shelf_of
from tests.support.loop import until
from tests.support.shelf import Shelf


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
