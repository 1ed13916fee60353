"""The prober against servers of this test: what it asks, how often, and what it makes of what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

import pytest
from aiohttp import web

from backends import create
from gateway.config.types import HealthCheck, Pool, Scrape, Secret
from gateway.core.fleet import Fleet
from gateway.core.health import Evidence, Rule, State
from gateway.core.types import Endpoint
from gateway.prober import Prober

PAGE = (
    b'vllm:num_requests_waiting{engine="0"} 3\nvllm:num_requests_running{engine="0"} 4\n'
    b'vllm:kv_cache_usage_perc{engine="0"} 0.5\n'
)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Server:
    """A model server: what it answers can be changed while it runs; it notes what it was asked."""

    metrics: bytes = PAGE
    models: bytes = b""
    is_frozen: bool = False
    metrics_status: int = 200
    health_status: int = 200
    delay: float = 0.0
    metrics_headers: dict[str, str] = field(default_factory=dict)
    seen: list[web.Request] = field(default_factory=list)
    scrapes: int = 0
    at_once: int = 0
    most_at_once: int = 0
    url: str = ""
    runner: web.AppRunner | None = None
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        if request.path == "/health":
            return web.Response(status=self.health_status)
        if request.path == "/v1/models" and self.models:
            return web.Response(body=self.models)
        if request.path != "/metrics":
            return web.Response(status=404)
        self.scrapes += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.closing.wait(), self.delay)
        finally:
            self.at_once -= 1
        page = self.metrics
        if not self.is_frozen and page.startswith(b"vllm:"):
            page += b"vllm:prompt_tokens_total %d\nvllm:prompt_tokens_cached_total 0\n" % self.scrapes
        return web.Response(status=self.metrics_status, body=page, headers=self.metrics_headers)

    async def start(self, port: int = 0) -> Server:
        app = web.Application()
        app.router.add_route("GET", "/{path:.*}", self.answer)
        self.runner = web.AppRunner(app, shutdown_timeout=0.0)
        await self.runner.setup()
        self.closing.clear()
        await web.TCPSite(self.runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        self.closing.set()
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None


@dataclass
class Probing:
    """A prober at work on some endpoints."""

    prober: Prober
    fleet: Fleet
    sets: asyncio.Queue[list[Endpoint]]
    failures: list[tuple[str, str, str]]
    events: list[tuple[str, dict[str, object]]]

    def causes(self) -> set[str]:
        return {cause for _, _, cause in self.failures}

    def logged(self, event: str) -> list[dict[str, object]]:
        return [fields for name, fields in self.events if name == event]

    def state(self, endpoint_id: str = "a") -> State:
        row = self.fleet.row_of(endpoint_id)
        assert row is not None
        return self.fleet.health(row).state

    def others(self, endpoint_id: str = "a") -> float:
        row = self.fleet.row_of(endpoint_id)
        assert row is not None
        return float(self.fleet.others[row])


def endpoint(url: str, name: str = "a", **labels: str) -> Endpoint:
    return Endpoint(id=name, url=url, pool="p", engine="vllm", labels=labels)


@contextlib.asynccontextmanager
async def probing(
    *endpoints: Endpoint,
    engine: str = "vllm",
    every: float = 0.02,
    timeout: float = 5.0,
    health: float = 0.5,
    path: str | None = None,
    key: str | None = None,
) -> AsyncIterator[Probing]:
    pool = Pool(name="p", engine=engine, scrape=Scrape(every, timeout), health=HealthCheck(path, health),
                api_key=Secret(key) if key else None)  # fmt: skip
    fleet = Fleet("p", Rule(), Random(1))
    sets: asyncio.Queue[list[Endpoint]] = asyncio.Queue()
    sets.put_nowait(list(endpoints))

    class Watched:
        async def watch(self) -> AsyncIterator[list[Endpoint]]:
            while True:
                yield await sets.get()

    failures: list[tuple[str, str, str]] = []
    events: list[tuple[str, dict[str, object]]] = []
    prober = Prober(pool, fleet, create(engine), Watched(), time.monotonic, lambda *failure: failures.append(failure),
                    lambda event, **fields: events.append((event, fields)), random=Random(2))  # fmt: skip
    running = asyncio.create_task(prober.run())
    try:
        await prober.ready()
        yield Probing(prober, fleet, sets, failures, events)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that must come; a test that waits in vain fails after a long time and not before."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for is a figure, nobody sets an event for it
            await asyncio.sleep(0.005)


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
