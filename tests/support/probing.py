"""A prober at work on servers that can be changed while they run, for its tests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

from aiohttp import web

from backends import create
from gateway.config.types import HealthCheck, Pool, Scrape, Secret
from gateway.core.fleet import Fleet
from gateway.core.health import Rule, State
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
