"""Brings the outside into a pool's fleet: which endpoints exist, whether they live, what load they tell.

The idea: each endpoint has two loops of its own that ask, wait and ask again, so nothing overlaps and a slow server
delays nobody else. Scrapes are jittered and back off from a server that is slow or fails; a scrape that fails is only a
scrape that fails: its old figures grow stale in the fleet, and nothing is held against the endpoint. The health check
is another matter, and it opens a new connection each time: a server that shuts down still answers on its old ones.

A page whose figures stand still while our requests there come and go is not believed either: a frozen engine's page
says idle for as long as one cares to look.

Left to others: what pages mean (`backends`), what evidence leads to (`gateway.core.health`), where endpoints come from
(`gateway.discovery`).
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

from backends import Backend, create, detect, telling_pages
from backends.samples import MAX_BYTES, Samples, ScrapeError
from gateway.config.types import Pool, UpstreamTls
from gateway.core.fleet import Fleet
from gateway.core.health import Evidence, State
from gateway.core.types import Endpoint
from gateway.pace import JITTER, SLOW, Motion, Pace, until_next_check

# Figures older than this many intervals are not believed, as are those that have not moved for so long.
STALE = 3.0
HEALTH_TIMEOUT = 5.0
# A pool's scrapes and checks a second, at most: what a large pool may cost is bounded, its intervals stretch instead.
MAX_SCRAPES = 200.0
MAX_CHECKS = 100.0
# How long `ready` waits for the first round of health checks.
FIRST_ROUND = 2.0
DETECT_AGAIN = 60.0

Clock = Callable[[], float]
Endpoints = Collection[Endpoint]


class Discovery(Protocol):
    def watch(self) -> AsyncIterator[Endpoints]: ...


class Log(Protocol):
    def __call__(self, event: str, **fields: object) -> None: ...


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
        self._on_scrape_failure = on_scrape_failure
        self._log = log
        self._on_freed = on_freed
        self._random = random or Random()
        self._backends: dict[str, Backend] = {}
        self._loops: dict[str, tuple[Endpoint, list[asyncio.Task[None]]]] = {}
        self._failing: dict[str, str] = {}
        self._warned: set[str] = set()
        self._unchecked: set[str] = set()
        self._known = asyncio.Event()
        self._checked = asyncio.Event()
        self._scrape_every = pool.scrape.every
        self._check_every = pool.health.every
        self._stretch(0)

    def backend_for(self, endpoint_id: str) -> Backend:
        """The adapter for an endpoint: with `auto` the one that was found, until then one that knows nothing."""
        return self._backends.get(endpoint_id, self.backend)

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
            loops.create_task(self._forget())
            await self._follow(loops, pages, checks)

    # --- who is there ------------------------------------------------------------------------------------------

    async def _follow(
        self, loops: asyncio.TaskGroup, pages: aiohttp.ClientSession, checks: aiohttp.ClientSession
    ) -> None:
        while True:
            sets = self._watch if isinstance(self._watch, AsyncIterator) else self._watch.watch()
            try:
                async for endpoints in sets:
                    self._take(endpoints, loops, pages, checks)
                return
            except Exception as error:  # discovery is someone's plug-in: the last good set goes on
                self._log("discovery_failed", pool=self.pool.name, error=repr(error))
                if sets is self._watch:
                    return
            await asyncio.sleep(self.pool.health.every)

    def _take(
        self,
        endpoints: Endpoints,
        loops: asyncio.TaskGroup,
        pages: aiohttp.ClientSession,
        checks: aiohttp.ClientSession,
    ) -> None:
        first = not self._known.is_set()
        # A fleet that lives on through a reload is not fresh: those who join it ramp.
        fresh = first and not any(self.fleet.members())
        self._on_freed(self.fleet.update(endpoints, self._clock(), fresh=fresh))
        self._stretch(len(endpoints))
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
                    loops.create_task(self._scrape_again_and_again(endpoint, pages)),
                ]
                self._loops[endpoint.id] = (endpoint, tasks)
        self._known.set()
        self._note_checked("")

    def _drop(self, endpoint_id: str) -> None:
        del self._loops[endpoint_id]
        self._backends.pop(endpoint_id, None)
        self._failing.pop(endpoint_id, None)
        self._warned = {warned for warned in self._warned if not warned.endswith(f" {endpoint_id}")}
        self._note_checked(endpoint_id)

    def _note_checked(self, endpoint_id: str) -> None:
        self._unchecked.discard(endpoint_id)
        if not self._unchecked:
            self._checked.set()

    def _stretch(self, count: int) -> None:
        """Set the intervals for so many endpoints."""
        self._scrape_every = max(self.pool.scrape.every, count / MAX_SCRAPES)
        self._check_every = max(self.pool.health.every, count / MAX_CHECKS)
        self.fleet.stale_after = STALE * self._scrape_every

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

    # --- what load it tells ------------------------------------------------------------------------------------

    async def _scrape_again_and_again(self, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        pace = Pace(self._scrape_every, self._random)
        motion = Motion(self.fleet.stale_after)
        if self.backend.name == "auto":
            await self._find_out(endpoint, session)
        backend = self.backend_for(endpoint.id)
        url = backend.metrics_url(endpoint)
        if url is None:
            return
        await asyncio.sleep(pace.first())
        while True:
            row = self.fleet.row_of(endpoint.id)
            if row is None or self.fleet.health(row).state is State.DOWN:
                await asyncio.sleep(self._scrape_every)
                continue
            pace.every, motion.patience = self._scrape_every, self.fleet.stale_after
            started = self._clock()
            cause = await self._scrape(endpoint, backend, url, session, motion)
            self._note_scrape(endpoint, cause)
            await asyncio.sleep(pace.after(not cause, self._clock() - started))

    async def _scrape(
        self, endpoint: Endpoint, backend: Backend, url: str, session: aiohttp.ClientSession, motion: Motion
    ) -> str:
        """One scrape into the fleet. Returns why it gave nothing (one word), or an empty string."""
        row = self.fleet.row_of(endpoint.id)
        ours = float(self.fleet.ours[row]) if row is not None else 0.0
        try:
            samples = Samples(await self._get(session, url, endpoint), backend.wanted)
            load = backend.load(samples, self._clock())
        except Exception as error:  # whatever a server can think of: it is a failed scrape and no more
            return _cause(error)
        if samples.bad:
            self._on_scrape_failure(self.pool.name, endpoint.id, "bad_value")
        if motion.is_frozen(load, ours):
            return "frozen"
        row = self.fleet.row_of(endpoint.id)
        if row is not None:
            self.fleet.observe(row, load, ours)
        return ""

    def _note_scrape(self, endpoint: Endpoint, cause: str) -> None:
        """Every failure is counted, but only a change is logged."""
        if cause:
            self._on_scrape_failure(self.pool.name, endpoint.id, cause)
        before = self._failing.get(endpoint.id, "")
        if cause and cause != before:
            self._failing[endpoint.id] = cause
            self._log("scrape_failed", pool=self.pool.name, endpoint=endpoint.id, cause=cause)
        elif before and not cause:
            del self._failing[endpoint.id]
            self._log("scrape_works_again", pool=self.pool.name, endpoint=endpoint.id)

    async def _find_out(self, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        """Ask until it is known which engine this is. Endpoints that never tell stay plain HTTP, asked ever less."""
        wait = self.pool.scrape.every
        while True:
            pages = {}
            for key, url in telling_pages(endpoint.url).items():
                with contextlib.suppress(Exception):
                    pages[key] = await self._get(session, url, endpoint)
            engine = detect(pages)
            if engine is not None:
                self._backends[endpoint.id] = create(engine)
                self._log("engine_detected", pool=self.pool.name, endpoint=endpoint.id, engine=engine)
                return
            await asyncio.sleep(wait * self._random.uniform(1.0 - JITTER, 1.0 + JITTER))
            wait = min(DETECT_AGAIN, wait * 2.0)

    # --- asking ------------------------------------------------------------------------------------------------

    async def _get(self, session: aiohttp.ClientSession, url: str, endpoint: Endpoint) -> bytes:
        """The body of a 200. Raises ScrapeError (`status`, `encoded`, `too_big`) and what aiohttp raises."""
        guarded = urlsplit(url).hostname == urlsplit(endpoint.url).hostname
        headers = self._headers() if guarded else {}
        async with session.get(url, headers=headers, allow_redirects=False) as answer:
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
