"""The scraper without a network: pages come from a function of the test."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from random import Random

import pytest

from backends import create
from gateway.config.types import Pool, Scrape
from gateway.core.fleet import Fleet
from gateway.core.health import Evidence, Rule, State
from gateway.core.types import Endpoint
from gateway.rounds import Rounds
from gateway.scraper import Scraper

PAGE = b"vllm:num_requests_waiting 3\nvllm:num_requests_running 4\n"
A = Endpoint(id="a", url="http://a:1", pool="p", engine="vllm")


def strokes() -> Rounds:
    rounds = Rounds()
    rounds.set_step(1.0, 0.002)
    return rounds


class Bench:
    """A scraper on one endpoint; `pages` are answered one by one, the last one for ever."""

    def __init__(self, *pages: bytes | Exception, engine: str = "vllm"):
        self.pages = list(pages)
        self.asked: list[str] = []
        self.now = 0.0
        self.failures: list[str] = []
        self.events: list[str] = []
        self.fleet = Fleet("p", Rule(), Random(1))
        self.fleet.update([A], 0.0, fresh=True)
        self.enough = asyncio.Event()
        self.scraper = Scraper(
            Pool(name="p", engine=engine, scrape=Scrape(0.002, 0.001)), self.fleet, create(engine), self.get,
            lambda error: getattr(error, "cause", "broken"), lambda: self.now,
            lambda pool, endpoint, cause: self.failures.append(cause),
            lambda event, **fields: self.events.append(event), Random(1), strokes(),
        )  # fmt: skip

    async def get(self, url: str, endpoint: Endpoint) -> bytes:
        self.asked.append(url)
        self.now += 1.0
        page = self.pages.pop(0) if len(self.pages) > 1 else self.pages[0]
        if not self.pages or len(self.asked) > 6:
            self.enough.set()
        await self.between()
        if isinstance(page, Exception):
            raise page
        return page

    async def between(self) -> None:
        """What happens while a page is on its way."""

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.scraper.watch(A))
        try:
            async with asyncio.timeout(20):
                await self.enough.wait()
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_a_page_that_failed_is_counted_each_time_and_logged_when_it_begins_and_ends():
    bench = Bench(OSError(), OSError(), OSError(), PAGE)
    async with bench.at_work():
        assert bench.failures == ["broken"] * 3
        assert bench.events == ["scrape_failed", "scrape_works_again"]
        assert bench.fleet.others[0] == 7.0


async def test_an_endpoint_that_left_while_it_was_asked_leaves_its_row_untouched():
    bench = Bench(PAGE)

    asked = asyncio.Event()

    async def leave() -> None:
        asked.set()
        bench.fleet.update([], bench.now)
        bench.fleet.update([Endpoint(id="b", url="http://b:1", pool="p", engine="vllm")], bench.now)

    bench.between = leave  # type: ignore[method-assign]
    task = asyncio.create_task(bench.scraper.watch(A))
    async with asyncio.timeout(20):
        await asked.wait()
    await asyncio.sleep(0.01)
    task.cancel()
    assert bench.fleet.row_of("b") == 0
    assert math.isnan(bench.fleet.others[0])
    assert len(bench.asked) == 1


async def test_a_server_that_is_down_is_not_asked():
    bench = Bench(PAGE)
    for _ in range(2):
        bench.fleet.see(0, Evidence.REFUSED, 0.0)
    assert bench.fleet.health(0).state is State.DOWN
    task = asyncio.create_task(bench.scraper.watch(A))
    await asyncio.sleep(0.02)
    task.cancel()
    assert not bench.asked


async def test_a_kind_without_metrics_is_never_asked():
    bench = Bench(PAGE, engine="http")
    await bench.scraper.watch(A)
    assert not bench.asked


async def test_with_auto_the_telling_pages_come_first_and_then_the_metrics():
    bench = Bench(PAGE, engine="auto")
    async with bench.at_work():
        assert bench.events[0] == "engine_detected"
        assert bench.scraper.backend_for("a").name == "vllm"
    bench.scraper.forget("a")
    assert bench.scraper.backend_for("a").name == "auto"


@pytest.mark.parametrize(("count", "stale"), [(1, 3.0), (200, 3.0), (1000, 15.0)])
def test_the_interval_and_the_age_of_belief_stretch_with_the_pool(count, stale):
    fleet = Fleet("p", Rule(), Random(1))

    async def get(url: str, endpoint: Endpoint) -> bytes:
        return b""

    scraper = Scraper(Pool(name="p"), fleet, create("http"), get, str, lambda: 0.0, lambda *_: None,
                      lambda *_, **__: None, Random(1), Rounds())  # fmt: skip
    scraper.stretch(count)
    assert fleet.stale_after == stale
