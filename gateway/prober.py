"""Brings the outside into a pool's fleet: which endpoints exist, whether they live, and (`scraper`) what they tell.

The idea: each endpoint has two loops of its own, one that scrapes and one that checks its health. The check opens a new
connection each time: a server that shuts down still answers on its old ones. This is also the only place that fetches
pages: with a limit on size and time, without following redirects, unpacking anything or keeping cookies.

Left to others: what evidence leads to (`gateway.core.health`), where endpoints come from (`gateway.discovery`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Collection
from random import Random
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp

from backends import Backend
from backends.samples import MAX_BYTES, ScrapeError
from gateway.config.types import Pool, UpstreamTls
from gateway.core.fleet import Fleet
from gateway.core.health import Evidence
from gateway.core.types import Endpoint
from gateway.pace import JITTER, SLOW, until_next_check
from gateway.scraper import Log, Scraper

HEALTH_TIMEOUT = 5.0
# A pool's checks a second, at most: what a large pool may cost is bounded, its interval stretches instead.
MAX_CHECKS = 100.0
# How long `ready` waits for the first round of health checks.
FIRST_ROUND = 2.0

Clock = Callable[[], float]
Endpoints = Collection[Endpoint]


class Discovery(Protocol):
    def watch(self) -> AsyncIterator[Endpoints]: ...


class Prober:
    """One pool's loops. `run` until cancelled; `ready` when the pool may be used."""

    def __init__(
        self,
        pool: Pool,
        fleet: Fleet,
        backend: Backend,
        watch: Discovery | AsyncIterator[Endpoints],
        clock: Clock,
        on_scrape_failure: Callable[[str, str, str], None],
        log: Log,
        *,
        on_freed: Callable[[Collection[int]], None] = lambda rows: None,
        random: Random | None = None,
    ):
        self.pool = pool
        self.fleet = fleet
        self.backend = backend
        self._watch = watch
        self._clock = clock
        self._log = log
        self._on_freed = on_freed
        self._random = random or Random()
        self._loops: dict[str, tuple[Endpoint, list[asyncio.Task[None]]]] = {}
        self._warned: set[str] = set()
        self._unchecked: set[str] = set()
        self._known = asyncio.Event()
        self._checked = asyncio.Event()
        self._check_every = pool.health.every
        self._pages: aiohttp.ClientSession | None = None
        self._scraper = Scraper(pool, fleet, backend, self._get, _cause, clock, on_scrape_failure, log, self._random)

    def backend_for(self, endpoint_id: str) -> Backend:
        """The adapter for an endpoint: with `auto` the one that was found, until then one that knows nothing."""
        return self._scraper.backend_for(endpoint_id)

    async def ready(self) -> None:
        """Return when the first endpoints are in the fleet and have been checked once, or 2 s after they came."""
        await self._known.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._checked.wait(), FIRST_ROUND)

    async def run(self) -> None:
        """Follow discovery, scrape and check until cancelled."""
        self._loops.clear()
        tls = _tls_context(self.pool.tls)
        connect = self.pool.timeouts.connect
        async with (
            _session(tls, keep=True, timeout=self.pool.scrape.timeout, connect=connect) as pages,
            _session(tls, keep=False, timeout=min(self.pool.health.every, HEALTH_TIMEOUT), connect=connect) as checks,
            asyncio.TaskGroup() as loops,
        ):
            self._pages = pages
            loops.create_task(self._forget())
            await self._follow(loops, checks)

    # --- who is there ------------------------------------------------------------------------------------------

    async def _follow(self, loops: asyncio.TaskGroup, checks: aiohttp.ClientSession) -> None:
        while True:
            sets = self._watch if isinstance(self._watch, AsyncIterator) else self._watch.watch()
            try:
                async for endpoints in sets:
                    self._take(endpoints, loops, checks)
                return
            except Exception as error:  # discovery is someone's plug-in: the last good set goes on
                self._log("discovery_failed", pool=self.pool.name, error=repr(error))
                if sets is self._watch:
                    return
            await asyncio.sleep(self.pool.health.every)

    def _take(self, endpoints: Endpoints, loops: asyncio.TaskGroup, checks: aiohttp.ClientSession) -> None:
        first = not self._known.is_set()
        # A fleet that lives on through a reload is not fresh: those who join it ramp.
        fresh = first and not any(self.fleet.members())
        self._on_freed(self.fleet.update(endpoints, self._clock(), fresh=fresh))
        self._scraper.stretch(len(endpoints))
        self._check_every = max(self.pool.health.every, len(endpoints) / MAX_CHECKS)
        wanted = {endpoint.id: endpoint for endpoint in endpoints}
        for endpoint_id, (endpoint, tasks) in list(self._loops.items()):
            if wanted.get(endpoint_id) != endpoint:
                for task in tasks:
                    task.cancel()
                self._drop(endpoint_id)
        for endpoint in wanted.values():
            if endpoint.id not in self._loops:
                if first:
                    self._unchecked.add(endpoint.id)
                tasks = [
                    loops.create_task(self._check_again_and_again(endpoint, checks)),
                    loops.create_task(self._scraper.watch(endpoint)),
                ]
                self._loops[endpoint.id] = (endpoint, tasks)
        self._known.set()
        self._note_checked("")

    def _drop(self, endpoint_id: str) -> None:
        del self._loops[endpoint_id]
        self._scraper.forget(endpoint_id)
        self._warned = {warned for warned in self._warned if not warned.endswith(f" {endpoint_id}")}
        self._note_checked(endpoint_id)

    def _note_checked(self, endpoint_id: str) -> None:
        self._unchecked.discard(endpoint_id)
        if not self._unchecked:
            self._checked.set()

    async def _forget(self) -> None:
        while True:
            await asyncio.sleep(self.pool.scrape.every)
            self.fleet.forget_stale(self._clock())

    # --- whether it lives --------------------------------------------------------------------------------------

    async def _check_again_and_again(self, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await asyncio.sleep(self._random.random() * min(0.25, self._check_every / 4.0))
        while True:
            started = self._clock()
            evidence = await self._check(endpoint, session)
            self._note_checked(endpoint.id)
            row = self.fleet.row_of(endpoint.id)
            wait = self._check_every
            if row is not None:
                before = self.fleet.health(row).state
                after = self.fleet.see(row, evidence, self._clock())
                if after is not before:
                    self._log("endpoint_state", pool=self.pool.name, endpoint=endpoint.id, state=after.value,
                              reason=self.fleet.health(row).reason)  # fmt: skip
                wait = until_next_check(wait, evidence, after)
            jitter = self._random.uniform(1.0 - JITTER, 1.0 + JITTER)
            await asyncio.sleep(max(wait * jitter - (self._clock() - started), wait * SLOW))

    async def _check(self, endpoint: Endpoint, session: aiohttp.ClientSession) -> Evidence:
        path = self.pool.health.path or self.backend_for(endpoint.id).health_path
        try:
            async with session.get(endpoint.url + path, headers=self._headers(), allow_redirects=False) as answer:
                status = answer.status
        except Exception as error:
            return Evidence.REFUSED if _cause(error) == "refused" else Evidence.PROBE_FAILED
        if status >= 500 and status != 501:
            return Evidence.PROBE_FAILED
        if status >= 400:
            self._warn("health_path", endpoint, path=path, status=status)
        return Evidence.PROBE_OK

    # --- asking ------------------------------------------------------------------------------------------------

    async def _get(self, url: str, endpoint: Endpoint) -> bytes:
        """The body of a 200. Raises ScrapeError (`status`, `encoded`, `too_big`) and what aiohttp raises."""
        assert self._pages is not None
        guarded = urlsplit(url).hostname == urlsplit(endpoint.url).hostname
        headers = self._headers() if guarded else {}
        async with self._pages.get(url, headers=headers, allow_redirects=False) as answer:
            if answer.status != 200:
                raise ScrapeError(f"{url} answered {answer.status}", "status")
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise ScrapeError(f"{url} is compressed, which was not asked for", "encoded")
            body = bytearray()
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) > MAX_BYTES:
                    raise ScrapeError(f"{url} has more than {MAX_BYTES} bytes", "too_big")
            return bytes(body)

    def _headers(self) -> dict[str, str]:
        key = self.pool.api_key
        return {} if key is None else {"Authorization": f"Bearer {key.reveal()}"}

    def _warn(self, about: str, endpoint: Endpoint, **fields: object) -> None:
        """Log it once for an endpoint."""
        if (mark := f"{about} {endpoint.id}") not in self._warned:
            self._warned.add(mark)
            self._log(f"{about}_unusual", pool=self.pool.name, endpoint=endpoint.id, **fields)


def _session(tls: ssl.SSLContext | bool, *, keep: bool, timeout: float, connect: float) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0, ssl=tls, force_close=not keep)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers={"Accept-Encoding": "identity", "Accept": "text/plain;version=0.0.4, */*;q=0.1"},
        timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(connect, timeout)),
        max_line_size=8190,
        max_field_size=8190,
    )


def _tls_context(tls: UpstreamTls | None) -> ssl.SSLContext | bool:
    """What to believe of https endpoints. True: the system's authorities."""
    if tls is None:
        return True
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.cert:
        context.load_cert_chain(tls.cert, tls.key)
    if tls.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _cause(error: Exception) -> str:
    """One word for why an answer did not come: the label of a metric, so the words are few."""
    if isinstance(error, ScrapeError):
        return error.cause
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "dns"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "tls"
    if isinstance(error, aiohttp.ConnectionTimeoutError | aiohttp.ClientConnectorError):
        return "refused"
    if isinstance(error, TimeoutError):
        return "timeout"
    return "broken"
