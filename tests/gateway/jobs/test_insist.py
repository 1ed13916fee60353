"""While a store is away one asks for all, and nobody is left behind."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from gateway.jobs import insist
from gateway.jobs.base import StoreUnavailable
from gateway.jobs.insist import Insistence
from tests.support.loop import until


class Flaky:
    def __init__(self) -> None:
        self.away = True
        self.calls = 0

    async def call(self) -> int:
        self.calls += 1
        if self.away:
            raise StoreUnavailable("gone fishing")
        return 7


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insist, "PAUSE", 0.01)
    monkeypatch.setattr(insist, "LONGEST_PAUSE", 0.02)


async def test_one_asks_and_all_follow() -> None:
    store, insistence = Flaky(), Insistence(Random(1))
    tasks = [asyncio.create_task(insistence.on(store.call)) for _ in range(500)]
    await until(lambda: store.calls >= 510, "ten more calls")
    assert store.calls < 530 and insistence.is_away and insistence.why == "gone fishing"
    store.away = False
    assert await asyncio.gather(*tasks) == [7] * 500
    assert not insistence.is_away


async def test_when_the_one_that_asks_is_cancelled_another_asks() -> None:
    store, insistence = Flaky(), Insistence(Random(1))
    tasks = [asyncio.create_task(insistence.on(store.call)) for _ in range(20)]
    await until(lambda: store.calls >= 22, "calls")
    for task in tasks[:10]:
        task.cancel()
        await asyncio.sleep(0)
    store.away = False
    assert await asyncio.gather(*tasks[10:]) == [7] * 10


async def test_what_is_no_absence_is_raised() -> None:
    async def broken() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        await Insistence(Random(1)).on(broken)
