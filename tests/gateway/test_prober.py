"""The prober against servers of this test: what it asks, how often, and what it makes of what comes back."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator

import pytest

from gateway.core.errors import UpstreamError
from gateway.core.health import State
from gateway.prober import LEFT, Prober
from tests.support.probing import PAGE, Server, endpoint, probing, until


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = await Server().start()
    yield server
    await server.stop()


async def test_what_a_server_tells_is_in_the_fleet(server):
    async with probing(endpoint(server.url)) as at_work:
        await until(lambda: at_work.others() == 7.0)
        assert at_work.fleet.kv_used[0] == 0.5
        assert at_work.state() is State.HEALTHY
        assert not at_work.failures


async def test_when_it_is_ready_the_endpoints_are_known_and_were_checked(server):
    async with probing(endpoint(server.url)):
        assert any(request.path == "/health" for request in server.seen)


async def test_our_own_requests_are_not_counted_twice(server):
    async with probing(endpoint(server.url)) as at_work:
        at_work.fleet.ours[0] = 5.0
        at_work.fleet.others[0] = math.nan  # what was seen before is averaged with; here only what is seen now counts
        await until(lambda: at_work.others() == 2.0)


async def test_scrapes_of_one_server_never_overlap_and_a_slow_one_is_left_in_peace(server):
    server.delay = 0.05
    async with probing(endpoint(server.url)):
        await until(lambda: server.scrapes >= 4)
    assert server.most_at_once == 1


async def test_a_slow_server_delays_no_other(server):
    slow = await Server(delay=30.0).start()
    try:
        async with probing(endpoint(slow.url, "slow"), endpoint(server.url, "quick")):
            await until(lambda: server.scrapes >= 5)
            assert slow.scrapes <= 1
    finally:
        await slow.stop()


@pytest.mark.parametrize(("page", "cause"), [
    (b"<html><body>hello</body></html>", "garbage"),
    (PAGE.replace(b" 3\n", b" NaN\n"), "bad_value"),
    (PAGE.replace(b" 3\n", b" +Inf\n"), "bad_value"),
    (PAGE.replace(b" 3\n", b" -1\n"), "bad_value"),
    (PAGE.replace(b" 3\n", b" 1e308\n"), "bad_value"),
    (b"", "missing"),
    (b"# HELP x\nup 1\n", "missing"),
    (b"\x00\xff" * 100, "garbage"),
    (b"# filler line of fifty bytes ----------------------\n" * 50_000, "too_big"),
])  # fmt: skip
async def test_garbage_is_a_failed_scrape_with_its_cause_and_nothing_else(server, page, cause):
    server.metrics = page
    async with probing(endpoint(server.url)) as at_work:
        await until(lambda: len(at_work.failures) >= 2)
        assert at_work.causes() == {cause}
        assert at_work.failures[0][:2] == ("p", "a")
        assert math.isnan(at_work.others())
        assert at_work.state() is State.HEALTHY
        assert len(at_work.logged("scrape_failed")) == 1


async def test_a_bad_optional_value_is_counted_and_the_rest_is_believed(server):
    server.metrics = PAGE.replace(b"0.5", b"55")
    async with probing(endpoint(server.url)) as at_work:
        await until(lambda: at_work.others() == 7.0)
        assert math.isnan(at_work.fleet.kv_used[0])
        assert at_work.causes() == {"bad_value"}


async def test_a_series_that_is_there_twice_is_no_fault(server):
    server.metrics = PAGE + PAGE
    async with probing(endpoint(server.url)) as at_work:
        await until(lambda: at_work.others() == 7.0)


async def test_a_page_that_comes_too_late_is_a_failed_scrape(server):
    server.delay = 60.0
    async with probing(endpoint(server.url), timeout=0.05) as at_work:
        await until(lambda: bool(at_work.failures))
        assert at_work.causes() == {"timeout"}
        assert at_work.state() is State.HEALTHY


async def test_a_compressed_page_is_not_unpacked(server):
    server.metrics_headers = {"Content-Encoding": "gzip"}
    async with probing(endpoint(server.url)) as at_work:
        await until(lambda: bool(at_work.failures))
        assert at_work.causes() == {"encoded"}


async def test_a_redirect_is_not_followed(server):
    server.metrics_status, server.metrics_headers = 302, {"Location": "/elsewhere"}
    async with probing(endpoint(server.url)) as at_work:
        await until(lambda: bool(at_work.failures))
        assert at_work.causes() == {"status"}
        assert not any(request.path == "/elsewhere" for request in server.seen)


async def test_figures_that_come_no_more_become_unknown_and_come_back(server):
    async with probing(endpoint(server.url)) as at_work:
        await until(lambda: at_work.others() == 7.0)
        server.metrics_status = 500
        await until(lambda: math.isnan(at_work.others()))
        assert at_work.state() is State.HEALTHY
        server.metrics_status = 200
        await until(lambda: at_work.others() == 7.0)
        assert at_work.logged("scrape_works_again")


async def test_figures_that_stand_still_while_our_requests_move_become_unknown(server):
    server.is_frozen = True
    async with probing(endpoint(server.url)) as at_work:
        await until(lambda: at_work.others() == 7.0)

        def moving() -> bool:
            at_work.fleet.ours[0] = (at_work.fleet.ours[0] + 1.0) % 3.0
            return math.isnan(at_work.others())

        await until(moving)
        assert at_work.causes() == {"frozen"}


async def test_a_command_waits_for_the_first_endpoints(server):
    """After a reload the pool's prober is a new one: what it had not seen yet was taken to have left."""
    async with probing(endpoint(server.url)) as before:
        sets = asyncio.Queue()

        class Watched:
            async def watch(self):
                while True:
                    yield await sets.get()

        prober = Prober(before.prober.pool, before.fleet, before.prober.backend, Watched(), time.monotonic,
                        lambda *failure: None, lambda event, **fields: None)  # fmt: skip
        running = asyncio.create_task(prober.run())
        posted = asyncio.create_task(prober.post(endpoint(server.url), "/v1/load_lora_adapter", b"{}"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not posted.done()
        sets.put_nowait([endpoint(server.url)])
        assert (await posted).status == 405, "the server was asked"
        with pytest.raises(UpstreamError) as caught:
            await prober.post(endpoint(server.url, "another"), "/v1/load_lora_adapter", b"{}")
        assert caught.value.cause == LEFT
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
