"""Brings the outside into a pool's fleet: which endpoints exist, whether they live, and (`scraper`) what they tell.

The idea: each endpoint has loops of its own: one that scrapes, one that checks its health and one that asks for the
names of its models. The check opens a new connection each time: a server that shuts down still answers on its old ones.

Left to others: fetching (`fetch`), what evidence leads to (`gateway.core.health`), where endpoints come from
(`gateway.discovery`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType
from typing import Protocol

from backends import Backend
from backends.samples import MAX_BYTES, ScrapeError
from gateway.config.types import Pool
from gateway.core.errors import UpstreamError
from gateway.core.fleet import Fleet
from gateway.core.health import Evidence, State
from gateway.core.types import Endpoint
from gateway.fetch import Page, Site
from gateway.model_names import ModelNames, Served
from gateway.pace import JITTER, SLOW, until_next_check
from gateway.rounds import Rounds
from gateway.scraper import Log, Scraper

HEALTH_TIMEOUT = 5.0
COMMAND_TIMEOUT = 60.0  # seconds that a server may take to load an adapter
# A pool's checks a second, at most: what a large pool may cost is bounded, its interval stretches instead.
MAX_CHECKS = 100.0
# How long `ready` waits for the first round of health checks.
FIRST_ROUND = 2.0
FIRST_SET = 10.0  # seconds that a command waits for the first endpoints: after a reload they are looked up again
LEFT = "left"  # the cause where an endpoint, or its pool, is not there any more
# What a page should be; `/metrics` has a newer format than the one that is read.
ACCEPT = "text/plain;version=0.0.4, */*;q=0.1"

Clock = Callable[[], float]
Endpoints = Collection[Endpoint]


class Discovery(Protocol):
    def watch(self) -> AsyncIterator[Endpoints]: ...


@dataclass(slots=True)
class Watched:
    """One endpoint, its pages and the loops that ask for them."""

    endpoint: Endpoint
    site: Site
    loops: list[asyncio.Task[None]] = field(default_factory=list)


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
        tls: ssl.SSLContext | None = None,
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
        self._watched: dict[str, Watched] = {}
        self._warned: set[str] = set()
        self._unchecked: set[str] = set()
        self._known = asyncio.Event()
        self._checked = asyncio.Event()
        self._check_every = pool.health.every
        self._tls = tls
        self._rounds = Rounds()
        self._scraper = Scraper(pool, fleet, backend, self._get, _cause, clock, on_scrape_failure, log, self._random,
                                self._rounds)  # fmt: skip
        self._models = ModelNames(self._get, lambda endpoint_id: self.backend_for(endpoint_id).name, self._random,
                                  self._serves)  # fmt: skip

    @property
    def models(self) -> Mapping[str, tuple[str, ...]]:
        """The names of the models that endpoints (by id) say they serve; those that do not say are not there."""
        return self._models.names

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
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._forget())
                await self._follow(loops)
        finally:
            for watched in self._watched.values():
                watched.site.close()
            self._watched.clear()

    # --- who is there ------------------------------------------------------------------------------------------

    async def _follow(self, loops: asyncio.TaskGroup) -> None:
        while True:
            sets = self._watch if isinstance(self._watch, AsyncIterator) else self._watch.watch()
            try:
                async for endpoints in sets:
                    self._take(endpoints, loops)
                return
            except Exception as error:  # discovery is someone's plug-in: the last good set goes on
                self._log("discovery_failed", pool=self.pool.name, error=repr(error))
                if sets is self._watch:
                    return
            await asyncio.sleep(self.pool.health.every)

    def _take(self, endpoints: Endpoints, loops: asyncio.TaskGroup) -> None:
        first = not self._known.is_set()
        # A fleet that lives on through a reload is not fresh: those who join it ramp.
        fresh = first and not any(self.fleet.members())
        self._on_freed(self.fleet.update(endpoints, self._clock(), fresh=fresh))
        self.fleet.offers.known(row for row, _ in self.fleet.members())
        self._scraper.stretch(len(endpoints))
        self._check_every = max(self.pool.health.every, len(endpoints) / MAX_CHECKS)
        often = min(self._check_every, self._scraper.every)
        self._rounds.set_step(len(endpoints) * (1.0 / self._check_every + 1.0 / self._scraper.every), often)
        wanted = {endpoint.id: endpoint for endpoint in endpoints}
        for endpoint_id, watched in list(self._watched.items()):
            if wanted.get(endpoint_id) != watched.endpoint:
                self._drop(endpoint_id)
        for endpoint in wanted.values():
            if endpoint.id not in self._watched:
                if first:
                    self._unchecked.add(endpoint.id)
                self._watch_one(endpoint, loops)
        self._known.set()
        self._note_checked("")

    def _watch_one(self, endpoint: Endpoint, loops: asyncio.TaskGroup) -> None:
        key = self.pool.api_key
        watched = Watched(endpoint, Site(
            endpoint, timeout=self.pool.scrape.timeout, connect=self.pool.timeouts.connect, tls=self._tls,
            authorization=None if key is None else f"Bearer {key.reveal()}", accept=ACCEPT,
        ))  # fmt: skip
        self._watched[endpoint.id] = watched
        for loop in (self._check_again_and_again(watched), self._scraper.watch(endpoint), self._models.watch(endpoint)):
            watched.loops.append(loops.create_task(loop))

    def _drop(self, endpoint_id: str) -> None:
        watched = self._watched.pop(endpoint_id)
        for loop in watched.loops:
            loop.cancel()
        watched.site.close()
        self._scraper.forget(endpoint_id)
        self._models.forget(endpoint_id)
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

    async def _check_again_and_again(self, watched: Watched) -> None:
        endpoint = watched.endpoint
        await asyncio.sleep(self._random.random() * min(0.25, self._check_every / 4.0))
        while True:
            started = self._clock()
            evidence = Evidence.PROBE_OK if self._has_answered(endpoint.id, started) else await self._check(watched)
            self._note_checked(endpoint.id)
            if evidence is Evidence.PROBE_OK:
                self._models.is_alive(endpoint.id)
            row = self.fleet.row_of(endpoint.id)
            wait = self._check_every
            if row is not None:
                before = self.fleet.health(row).state
                after = self.fleet.see(row, evidence, self._clock())
                if after is not before:
                    self._models.ask_again(endpoint.id)  # who was away may have come back without what it had loaded
                    self._log("endpoint_state", pool=self.pool.name, endpoint=endpoint.id, state=after.value,
                              reason=self.fleet.health(row).reason)  # fmt: skip
                wait = until_next_check(wait, evidence, after)
            jitter = self._random.uniform(1.0 - JITTER, 1.0 + JITTER)
            await self._rounds.wait(max(wait * jitter - (self._clock() - started), wait * SLOW))

    def _has_answered(self, endpoint_id: str, now: float) -> bool:
        """Whether a healthy endpoint answered a request since its last check: that says more than a check would."""
        row = self.fleet.row_of(endpoint_id)
        if row is None or self.fleet.health(row).state is not State.HEALTHY:
            return False
        return bool(now - self.fleet.answered_at[row] < self._check_every)

    async def _check(self, watched: Watched) -> Evidence:
        endpoint = watched.endpoint
        path = self.pool.health.path or self.backend_for(endpoint.id).health_path
        try:
            fetcher, place = watched.site.place(endpoint.url + path)
            status = await fetcher.status(place, timeout=min(self.pool.health.every, HEALTH_TIMEOUT))
        except Exception as error:
            return Evidence.REFUSED if _cause(error) == "refused" else Evidence.PROBE_FAILED
        if status >= 500 and status != 501:
            return Evidence.PROBE_FAILED
        if status >= 400:
            self._warn("health_path", endpoint, path=path, status=status)
        return Evidence.PROBE_OK

    # --- asking ------------------------------------------------------------------------------------------------

    async def _get(self, url: str, endpoint: Endpoint) -> bytes:
        """The body of a 200. Raises ScrapeError (`status`), UpstreamError and ValueError (no URL of a page)."""
        fetcher, place = self._watched[endpoint.id].site.place(url)
        status, body = await fetcher.get(place, limit=MAX_BYTES)
        if status != 200:
            raise ScrapeError(f"{url} answered {status}", "status")
        return body

    async def post(self, endpoint: Endpoint, path: str, body: bytes) -> Page:
        """A command to an endpoint, and its answer. Afterwards it is asked what it serves.

        Raises UpstreamError: `LEFT`, or as `Fetcher.post` does.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SET):
                await self._known.wait()
        watched = self._watched.get(endpoint.id)
        if watched is None:
            raise UpstreamError("the model server has left the pool", cause=LEFT, status=503)
        fetcher, place = watched.site.place(endpoint.url + path)
        try:
            return await fetcher.post(place, body, timeout=COMMAND_TIMEOUT)
        finally:
            self._models.ask_again(endpoint.id)

    def _serves(self, endpoint_id: str, served: Sequence[Served]) -> None:
        row = self.fleet.row_of(endpoint_id)
        if row is not None:
            self.fleet.offers.told(row, [one.name for one in served])
            self.fleet.offers.contexts(row, {one.name: one.context for one in served if one.context})

    def _warn(self, about: str, endpoint: Endpoint, **fields: object) -> None:
        """Log it once for an endpoint."""
        if (mark := f"{about} {endpoint.id}") not in self._warned:
            self._warned.add(mark)
            self._log(f"{about}_unusual", pool=self.pool.name, endpoint=endpoint.id, **fields)


def _cause(error: Exception) -> str:
    """One word for why an answer did not come: the label of a metric, so the words are few."""
    if isinstance(error, ScrapeError):
        return error.cause
    if isinstance(error, UpstreamError):
        return _WORDS.get(error.cause, "broken")
    return "broken"


# What `fetch` says, in the words of the metric. Who cannot be connected to in time is as absent as who refuses.
_WORDS = MappingProxyType({
    "refused": "refused", "connect_timeout": "refused", "dns": "dns", "tls": "tls", "timeout": "timeout",
    "too_large": "too_big", "encoded": "encoded",
})  # fmt: skip
