"""A dispatcher for tests: its store is in memory, and its executor does as it is told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from random import Random

from gateway.jobs import dispatcher as module
from gateway.jobs.dispatcher import Dispatcher
from gateway.jobs.execute import Done, End
from gateway.jobs.holding import Held
from gateway.jobs.model import Claim, Result
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
