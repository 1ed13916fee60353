"""The prober against servers that die, fail, join, leave or are of an unknown kind."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from random import Random

import pytest

from backends import create
from gateway.config.types import HealthCheck, Pool, Scrape
from gateway.core.fleet import Fleet
from gateway.core.health import Evidence, Rule, State
from gateway.core.types import Endpoint
from gateway.prober import Prober
from tests.support.probing import Server, endpoint, probing, until


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = await Server().start()
    yield server
    await server.stop()


async def test_a_dead_server_is_down_and_back_when_it_answers_again(server):
    async with probing(endpoint(server.url), health=0.05) as at_work:
        port = int(server.url.rpartition(":")[2])
        await server.stop()
        await until(lambda: at_work.state() is State.DOWN)
        assert at_work.logged("endpoint_state")[-1]["state"] == "down"
        await server.start(port)
        await until(lambda: at_work.state() is State.TRIAL)


async def test_a_server_that_is_down_is_not_scraped():
    closed = await Server().start()
    await closed.stop()
    async with probing(endpoint(closed.url), health=0.05) as at_work:
        await until(lambda: at_work.state() is State.DOWN)
        count = len(at_work.failures)
        await asyncio.sleep(0.1)
        assert len(at_work.failures) <= count + 1


async def test_a_failing_health_check_brings_it_down(server):
    server.health_status = 503
    async with probing(endpoint(server.url), health=0.05) as at_work:
        await until(lambda: at_work.state() is State.DOWN)


async def test_a_passing_check_does_not_end_an_ejection(server):
    async with probing(endpoint(server.url), endpoint(server.url, "b"), engine="http", health=0.2) as at_work:
        at_work.fleet.see(0, Evidence.HUNG, time.monotonic())
        before = len(server.seen)
        await until(lambda: len(server.seen) > before + 6)
        assert at_work.state() is State.EJECTED


@pytest.mark.parametrize("status", [404, 401, 405, 501])
async def test_an_unusual_answer_on_the_health_path_is_a_sign_of_life_told_once(server, status):
    server.health_status = status
    async with probing(endpoint(server.url), health=0.2) as at_work:
        await until(lambda: len([r for r in server.seen if r.path == "/health"]) >= 4)
        assert at_work.state() is State.HEALTHY
        if status != 501:
            assert len(at_work.logged("health_path_unusual")) == 1


async def test_the_health_path_can_be_chosen(server):
    async with probing(endpoint(server.url), path="/alive"):
        assert any(request.path == "/alive" for request in server.seen)


async def test_the_key_goes_to_the_server_and_to_no_other_host(server):
    other = await Server().start()
    elsewhere = other.url.replace("127.0.0.1", "localhost") + "/metrics"
    try:
        async with probing(endpoint(server.url), endpoint(server.url, "b", metrics_url=elsewhere), key="sk-1"):
            await until(lambda: server.scrapes > 0 and other.scrapes > 0)
        assert {request.headers.get("Authorization") for request in server.seen} == {"Bearer sk-1"}
        assert {request.headers.get("Authorization") for request in other.seen} == {None}
    finally:
        await other.stop()


async def test_endpoints_come_and_go_and_the_loops_of_those_that_left_end(server):
    other = await Server().start()
    try:
        async with probing(endpoint(server.url)) as at_work:
            at_work.sets.put_nowait([endpoint(other.url, "b")])
            await until(lambda: at_work.fleet.row_of("b") is not None and other.scrapes > 0)
            assert at_work.fleet.row_of("a") is None
            count = len(server.seen)
            await asyncio.sleep(0.1)
            assert len(server.seen) <= count + 2
    finally:
        await other.stop()


async def test_an_endpoint_that_joins_later_starts_slowly_and_one_from_the_start_does_not(server):
    async with probing(endpoint(server.url)) as at_work:
        at_work.sets.put_nowait([endpoint(server.url), endpoint(server.url, "b")])
        await until(lambda: at_work.fleet.row_of("b") is not None)
        weights = [at_work.fleet.health(row).weight(time.monotonic()) for row, _ in at_work.fleet.members()]
        assert weights[0] == 1.0
        assert weights[1] < 1.0


async def test_a_large_pool_is_asked_less_often_so_that_watching_it_costs_no_more():
    pool = Pool(name="p", engine="http", scrape=Scrape(1.0, 0.5), health=HealthCheck(None, 100.0))
    fleet = Fleet("p", Rule(), Random(1))

    async def watch() -> AsyncIterator[list[Endpoint]]:
        yield [endpoint("http://127.0.0.1:9", str(number)) for number in range(1000)]

    prober = Prober(pool, fleet, create("http"), watch(), time.monotonic, lambda *_: None, lambda *_, **__: None)
    assert fleet.stale_after == 3.0
    running = asyncio.create_task(prober.run())
    await until(lambda: fleet.row_of("999") is not None)
    assert fleet.stale_after == 15.0
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_an_engine_is_found_out_and_then_spoken_to_as_what_it_is(server):
    async with probing(endpoint(server.url), engine="auto") as at_work:
        assert at_work.prober.backend_for("nobody").name == "auto"
        await until(lambda: at_work.others() == 7.0)
        assert at_work.prober.backend_for("a").name == "vllm"
        assert at_work.logged("engine_detected")[0]["engine"] == "vllm"


async def test_an_engine_that_cannot_be_told_stays_plain_http(server):
    server.metrics_status = 404
    async with probing(endpoint(server.url), engine="auto") as at_work:
        await until(lambda: server.scrapes >= 2)
        assert at_work.prober.backend_for("a").injects_usage is False
        assert not at_work.failures


async def test_a_plain_server_is_checked_and_never_scraped(server):
    async with probing(endpoint(server.url), engine="http", health=0.1):
        await until(lambda: len(server.seen) >= 3)
    assert {request.path for request in server.seen} == {"/health"}


async def test_discovery_that_fails_is_logged_and_asked_again(server):
    fleet, events = Fleet("p", Rule(), Random(1)), []

    class Broken:
        calls = 0

        async def watch(self) -> AsyncIterator[list[Endpoint]]:
            self.calls += 1
            if self.calls == 1:
                raise OSError("no such name")
            yield [endpoint(server.url)]
            await asyncio.Event().wait()

    pool = Pool(name="p", engine="vllm", health=HealthCheck(None, 0.02))
    prober = Prober(pool, fleet, create("vllm"), Broken(), time.monotonic, lambda *_: None,
                    lambda event, **fields: events.append(event))  # fmt: skip
    running = asyncio.create_task(prober.run())
    async with asyncio.timeout(20):
        await prober.ready()
    assert events[0] == "discovery_failed"
    assert fleet.row_of("a") == 0
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_one_that_joins_a_fleet_that_lives_on_through_a_reload_starts_slowly(server):
    pool = Pool(name="p", engine="http", health=HealthCheck(None, 0.5))
    fleet = Fleet("p", Rule(), Random(1))
    fleet.update([endpoint(server.url)], time.monotonic(), fresh=True)

    async def watch() -> AsyncIterator[list[Endpoint]]:
        yield [endpoint(server.url), endpoint(server.url, "b")]

    prober = Prober(pool, fleet, create("http"), watch(), time.monotonic, lambda *_: None, lambda *_, **__: None)
    running = asyncio.create_task(prober.run())
    await prober.ready()
    assert fleet.health(0).weight(time.monotonic()) == 1.0
    assert fleet.health(1).weight(time.monotonic()) < 1.0
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_a_prober_that_is_run_again_asks_again(server):
    async with probing(endpoint(server.url)) as at_work:
        await until(lambda: server.scrapes > 0)
    scrapes = server.scrapes
    at_work.sets.put_nowait([endpoint(server.url)])
    again = asyncio.create_task(at_work.prober.run())
    await until(lambda: server.scrapes > scrapes)
    again.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await again


async def test_the_names_of_the_models_are_known_once_the_endpoint_lives(server):
    server.models = b'{"data": [{"id": "small"}, {"id": "large"}]}'
    async with probing(endpoint(server.url)) as at_work:
        await until(lambda: at_work.prober.models.get("a") == ("small", "large"))
        at_work.sets.put_nowait([])
        await until(lambda: not at_work.prober.models)


async def test_an_endpoint_that_answers_requests_is_not_checked_besides(server):
    async with probing(endpoint(server.url), endpoint(server.url, "b"), engine="http", health=0.1) as at_work:
        at_work.fleet.answered_at[0] = math.inf
        await asyncio.sleep(0.12)  # a check that was under way
        before = len(server.seen)
        await until(lambda: len(server.seen) >= before + 4)
        assert at_work.state() is State.HEALTHY
        at_work.fleet.answered_at[0] = -math.inf
        server.health_status = 503
        await until(lambda: at_work.state("a") is State.DOWN)
