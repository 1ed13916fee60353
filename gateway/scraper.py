"""Reads the load of each endpoint of a pool into its fleet, again and again.

The idea: a loop per endpoint that asks, waits and asks again, so nothing overlaps and a slow server delays nobody else.
Scrapes are jittered and back off from a server that is slow or fails. A scrape that fails is only a scrape that fails:
its old figures grow stale in the fleet, and nothing is held against the endpoint. A page whose figures stand still
while our requests there come and go is not believed either: a frozen engine's page says idle for ever.

Left to others: fetching pages (`fetch`), naming why one did not come (`prober`), what they mean (`backends`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from random import Random
from typing import Protocol

from backends import Backend, create, detect, telling_pages
from backends.samples import Samples
from gateway.config.types import Pool
from gateway.core.fleet import Fleet
from gateway.core.health import State
from gateway.core.types import Endpoint
from gateway.pace import JITTER, Motion, Pace
from gateway.rounds import Rounds

# Figures older than this many intervals are not believed, as are those that have not moved for so long.
STALE = 3.0
# A pool's scrapes a second, at most: what a large pool may cost is bounded, its interval stretches instead.
MAX_SCRAPES = 200.0
# An endpoint that does not show which engine it is, is asked again after this many seconds at most.
DETECT_AGAIN = 60.0

Get = Callable[[str, Endpoint], Awaitable[bytes]]
"""The body of a page of an endpoint. Raises whatever went wrong."""


class Log(Protocol):
    def __call__(self, event: str, **fields: object) -> None: ...


class Scraper:
    """One pool's scrapes: a `watch` per endpoint, run as a task, cancelled and followed by `forget` when it leaves."""

    def __init__(
        self,
        pool: Pool,
        fleet: Fleet,
        backend: Backend,
        get: Get,
        cause: Callable[[Exception], str],
        clock: Callable[[], float],
        on_failure: Callable[[str, str, str], None],
        log: Log,
        random: Random,
        rounds: Rounds,
    ):
        self.pool = pool
        self.fleet = fleet
        self.backend = backend
        self.every = pool.scrape.every
        self._get = get
        self._cause = cause
        self._clock = clock
        self._on_failure = on_failure
        self._log = log
        self._random = random
        self._rounds = rounds
        self._backends: dict[str, Backend] = {}
        self._failing: dict[str, str] = {}
        self.stretch(0)

    def backend_for(self, endpoint_id: str) -> Backend:
        """The adapter for an endpoint: with `auto` the one that was found, until then one that knows nothing."""
        return self._backends.get(endpoint_id, self.backend)

    def stretch(self, count: int) -> None:
        """Set the interval for so many endpoints, and the age at which their figures are forgotten."""
        self.every = max(self.pool.scrape.every, count / MAX_SCRAPES)
        self.fleet.stale_after = STALE * self.every

    def forget(self, endpoint_id: str) -> None:
        """The endpoint is gone, or another one by the same name."""
        self._backends.pop(endpoint_id, None)
        self._failing.pop(endpoint_id, None)

    async def watch(self, endpoint: Endpoint) -> None:
        """Scrape it until cancelled. Returns if it is of a kind that shows no load."""
        pace = Pace(self.every, self._random)
        motion = Motion(self.fleet.stale_after)
        if self.backend.name == "auto":
            await self._find_out(endpoint)
        backend = self.backend_for(endpoint.id)
        url = backend.metrics_url(endpoint)
        if url is None:
            return
        await self._rounds.wait(pace.first())
        while True:
            row = self.fleet.row_of(endpoint.id)
            if row is None or self.fleet.health(row).state is State.DOWN:
                await self._rounds.wait(self.every)
                continue
            pace.every, motion.patience = self.every, self.fleet.stale_after
            started = self._clock()
            cause = await self._scrape(endpoint, row, backend, url, motion)
            self._note(endpoint, cause)
            await self._rounds.wait(pace.after(not cause, self._clock() - started))

    async def _scrape(self, endpoint: Endpoint, row: int, backend: Backend, url: str, motion: Motion) -> str:
        """One scrape into the fleet. Returns why it gave nothing (one word), or an empty string."""
        ours = float(self.fleet.ours[row])
        try:
            samples = Samples(await self._get(url, endpoint), backend.wanted)
            load = backend.load(samples, self._clock())
        except Exception as error:  # whatever a server can think of: it is a failed scrape and no more
            return self._cause(error)
        if samples.bad:
            self._on_failure(self.pool.name, endpoint.id, "bad_value")
        if motion.is_frozen(load, ours):
            return "frozen"
        # It may have left while it was asked, and its row may be another's.
        if self.fleet.row_of(endpoint.id) == row:
            self.fleet.observe(row, load, ours)
        return ""

    def _note(self, endpoint: Endpoint, cause: str) -> None:
        """Every failure is counted, but only a change is logged."""
        if cause:
            self._on_failure(self.pool.name, endpoint.id, cause)
        before = self._failing.get(endpoint.id, "")
        if cause and cause != before:
            self._failing[endpoint.id] = cause
            self._log("scrape_failed", pool=self.pool.name, endpoint=endpoint.id, cause=cause)
        elif before and not cause:
            del self._failing[endpoint.id]
            self._log("scrape_works_again", pool=self.pool.name, endpoint=endpoint.id)

    async def _find_out(self, endpoint: Endpoint) -> None:
        """Ask until it is known which engine this is. Endpoints that never tell stay plain HTTP, asked ever less."""
        wait = self.every
        while True:
            pages = {}
            for key, url in telling_pages(endpoint.url).items():
                with contextlib.suppress(Exception):
                    pages[key] = await self._get(url, endpoint)
            engine = detect(pages)
            if engine is not None:
                self._backends[endpoint.id] = create(engine)
                self._log("engine_detected", pool=self.pool.name, endpoint=endpoint.id, engine=engine)
                return
            await asyncio.sleep(wait * self._random.uniform(1.0 - JITTER, 1.0 + JITTER))
            wait = min(DETECT_AGAIN, wait * 2.0)
