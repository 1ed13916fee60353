"""The pools of a running gateway: a lane and a prober for each, made from the configuration and from the next again.

A reload keeps what it need not change: the fleet and its counts of what is in flight live on, connections and what
policies have learnt stay where their configuration did. A pool that left gets nothing new; what runs there finishes.
With `app` the only file that picks concrete classes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random

from backends import create as create_backend
from gateway.config.types import Config, Pool
from gateway.core.errors import UpstreamError
from gateway.core.fleet import Fleet
from gateway.core.predictor import Predictor
from gateway.core.types import Endpoint
from gateway.discovery.base import Report
from gateway.fetch import Page
from gateway.lane import Lane
from gateway.logs import Events
from gateway.parts import Parts, source_of
from gateway.prober import LEFT, Prober
from gateway.queues import rules_of
from policies.admission.filler import Filler

Restore = Callable[[str, Predictor], object]  # a pool's name, and who goes on from what was learnt


class Pools:
    """`lanes` are those in use, by pool; `retired` those that have left and still run something."""

    def __init__(self, events: Events, scrape_failed: Callable[[str, str, str], None], restore: Restore):
        self.lanes: dict[str, Lane] = {}
        self.retired: list[Lane] = []
        self._events = events
        self._scrape_failed = scrape_failed
        self._restore = restore
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._probers: dict[str, Prober] = {}

    def fleets(self) -> Mapping[str, Fleet]:
        return {name: lane.fleet for name, lane in self.lanes.items()}

    def all(self) -> Iterable[Lane]:
        """Those that have left, too."""
        return (*self.lanes.values(), *self.retired)

    def apply(self, config: Config) -> None:
        """Make lanes for this configuration and swap them in. Raises before anything has changed."""
        prepared = {name: Parts(pool) for name, pool in config.pools.items() if self._changed(pool)}
        lanes: dict[str, Lane] = {}
        for name, pool in config.pools.items():
            parts = prepared.get(name)
            lanes[name] = self.lanes[name] if parts is None else self._build(pool, parts)
        for name in self.lanes.keys() - lanes.keys():
            self._retire(name)
        self.lanes = lanes
        for lane in lanes.values():
            lane.admit_by(rules_of(config.classes), self._filler(lane, config))

    def known_models(self, pool: str) -> list[str]:
        """What the endpoints of a pool serve, as configured or else as they say: behind a model that stands for any."""
        lane, prober = self.lanes.get(pool), self._probers.get(pool)
        if lane is None or prober is None:
            return []
        said = prober.models
        return sorted({name for _, e in lane.fleet.members() for name in e.models or said.get(e.id, ())})

    async def post(self, pool: str, endpoint: Endpoint, path: str, body: bytes) -> Page:
        """A command to an endpoint of a pool. Raises UpstreamError."""
        prober = self._probers.get(pool)
        if prober is None:
            raise UpstreamError("the pool has left the configuration", cause=LEFT, status=503)
        return await prober.post(endpoint, path, body)

    async def ready(self) -> None:
        """Every prober has looked once."""
        await asyncio.gather(*(prober.ready() for prober in self._probers.values()))

    def forget_idle(self) -> None:
        """Of those that have left, keep those that still run something."""
        self.retired = [lane for lane in self.retired if lane.relays]

    async def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for lane in self.lanes.values():
            lane.close()

    # --- building ------------------------------------------------------------------------------------------------

    def _filler(self, lane: Lane, config: Config) -> Filler | None:
        """What decides how much filler the lane's fleet takes; what it has learnt stays while its rule does."""
        rule = next((found.filler for found in config.classes.values() if found.filler is not None), None)
        if rule is None:
            return None
        return lane.filler if isinstance(lane.filler, Filler) and lane.filler.rule == rule else Filler(rule)

    def _changed(self, pool: Pool) -> bool:
        lane = self.lanes.get(pool.name)
        return lane is None or lane.config != pool

    def _build(self, pool: Pool, parts: Parts) -> Lane:
        """A new lane, or the old one with new parts: the fleet and its counts of what is in flight live on."""
        old = self.lanes.get(pool.name)
        task = self._tasks.pop(pool.name, None)
        if task is not None:
            task.cancel()
        fleet = old.fleet if old is not None else Fleet(pool.name, parts.rule, Random())
        fleet.set_rule(parts.rule)
        was_predicting = fleet.predictor is not None
        lane = old
        source = source_of(pool, self._discovery_event(pool.name))
        prober = Prober(pool, fleet, create_backend(pool.engine), source, time.monotonic,
                        self._scrape_failed, self._pool_event, tls=parts.tls,
                        on_freed=lambda rows: self._rows_freed(pool.name, rows))  # fmt: skip
        if lane is None:
            lane = Lane(pool, fleet, parts.policy, prober.backend_for, parts.tls, parts.prior)
        else:
            policy = lane.policy if lane.config.pick == pool.pick else parts.policy
            lane.reconfigure(pool, policy, prober.backend_for, parts.tls, parts.prior)
        if fleet.predictor is not None and not was_predicting:
            self._restore(pool.name, fleet.predictor)
        if pool.endpoints:  # known without looking: there for the next request
            for row in fleet.update(source.endpoints(pool.endpoints), time.monotonic(), fresh=old is None):
                lane.row_left(row)
            fleet.offers.known(row for row, _ in fleet.members())
        self._probers[pool.name] = prober
        self._tasks[pool.name] = asyncio.get_running_loop().create_task(self._probe(pool.name, prober))
        return lane

    async def _probe(self, pool: str, prober: Prober) -> None:
        """A prober that dies takes the pool's sight with it: say so and start it again."""
        while True:
            try:
                await prober.run()
                return
            except Exception as error:
                self._events.log("error", "prober_failed", pool=pool, error=repr(error))
                await asyncio.sleep(1.0)

    def _pool_event(self, event: str, **fields: object) -> None:
        self._events.log("warning", event, **fields)

    def _discovery_event(self, pool: str) -> Report:
        return lambda what: self._events.log("warning", "discovery", pool=pool, what=what)

    def _rows_freed(self, pool: str, rows: object) -> None:
        lane = self.lanes.get(pool)
        if lane is not None and isinstance(rows, Sequence):
            for row in rows:
                lane.row_left(row)

    def _retire(self, name: str) -> None:
        """The pool left the configuration: nothing new goes there, what runs finishes."""
        lane = self.lanes[name]
        self._tasks.pop(name).cancel()
        self._probers.pop(name, None)
        lane.fleet.update([], time.monotonic())
        lane.admission.changed()
        self.retired.append(lane)
