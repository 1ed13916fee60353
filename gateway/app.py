"""Wiring: a configuration in, a running gateway out. The only file that picks concrete classes.

Everything is built from a frozen configuration and can be built again from the next one: a reload makes new lanes,
names and limits and swaps them between two requests, keeping fleets, connections and what policies have learnt where
their configuration did not change. A reload that fails changes nothing.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING

from backends import create as create_backend
from gateway import VERSION
from gateway.admin import Admin
from gateway.calibration import CalibrationWatch
from gateway.config.loader import changes_needing_restart
from gateway.config.types import Config, Pool
from gateway.core.errors import UpstreamError
from gateway.core.fleet import Fleet
from gateway.core.health import State
from gateway.decisions import DecisionRing
from gateway.discovery.base import Report
from gateway.front import Front
from gateway.gauges import Filled, Gauges, Queued
from gateway.grants import Reading
from gateway.lane import Lane
from gateway.ledger import Ledger
from gateway.limits import Limiter
from gateway.logs import Events, RequestLog
from gateway.metrics import Metrics
from gateway.parts import Parts, source_of
from gateway.prober import Prober
from gateway.proxy import Proxy
from gateway.queues import filled, queues_of, rules_of
from gateway.state import Keeps, StateFolder
from gateway.tls import listener_tls
from gateway.wire.server import Server
from policies.admission.filler import Filler

if TYPE_CHECKING:
    from gateway.jobs.service import JobsService
    from gateway.shared.limits import SharedLimits

TICK = 0.1  # seconds between sweeps of time-outs and flushes of logs
_SLOW_TICK = 10  # ticks between learning, reaping and forgetting
_IDLE_BEFORE_CLOSE = 2.0  # seconds a connection must be idle before a draining gateway closes it

Load = Callable[[], Awaitable[Config]]


class Gateway:
    """One gateway process. `start`, then `reload` as often as needed, then `drain`."""

    def __init__(self, config: Config, load: Load, request_log: RequestLog, events: Events):
        self.config = config
        self._metrics = Metrics(version=VERSION)
        self._decisions = DecisionRing(config.decisions.keep, config.decisions.file)
        self._ledger = Ledger(self._metrics, self._decisions, request_log)
        self.events = events
        self._state = StateFolder(None, events)
        self._calibration = CalibrationWatch(events)
        self._load = load
        self._request_log = request_log
        self._lanes: dict[str, Lane] = {}
        self._retired: list[Lane] = []
        self._probers: dict[str, asyncio.Task[None]] = {}
        self._prober_of: dict[str, Prober] = {}
        self._shared = self._sharing(config)
        self.limiter = Limiter(config, self._shared)
        self.proxy = Proxy(self._lanes, self._metrics, self._decisions, config.expose)
        self.front = self._front(config)
        self._jobs = self._jobs_service(config)
        self.server = Server(self.front, config.limits)
        self.gauges = Gauges(self.fleets, self._queues, self._fillers, connections=lambda: len(self.server.connections),
                             log_dropped=lambda: request_log.dropped)  # fmt: skip
        self._admin: Admin | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._due = 0.0
        self._is_draining = False
        self._reloading = asyncio.Lock()  # one after the other: the file that was read last is the one that stays

    # --- what the admin listener sees ----------------------------------------------------------------------------

    @property
    def metrics(self) -> Metrics:
        """Counts of everything that has ended up to now."""
        self._ledger.settle()
        return self._metrics

    @property
    def decisions(self) -> DecisionRing:
        """The records of everything that has ended up to now."""
        self._ledger.settle()
        return self._decisions

    def fleets(self) -> Mapping[str, Fleet]:
        return {name: lane.fleet for name, lane in self._lanes.items()}

    def limits(self) -> Sequence[Reading]:
        """What each tenant with limits has left."""
        return self.limiter.readings(time.monotonic())

    def jobs(self) -> Mapping[str, object] | None:
        """What asynchronous work there is; None where none is kept."""
        return self._jobs.view() if self._jobs is not None else None

    def _queues(self) -> Mapping[str, Mapping[str, Queued]]:
        return queues_of(self._lanes.values(), time.monotonic())

    def _fillers(self) -> Mapping[str, Filled]:
        found = {pool: lane.filler for pool, lane in self._lanes.items()}
        return {pool: filled(filler.counts().values(), filler.aborted, filler.report())
                for pool, filler in found.items() if isinstance(filler, Filler)}  # fmt: skip

    def is_ready(self) -> bool:
        """Not stopping, and somebody is there to answer."""
        return not self._is_draining and any(
            lane.fleet.health(row).state is not State.DOWN
            for lane in self._lanes.values() for row, _ in lane.fleet.members()
        )  # fmt: skip

    def now(self) -> float:
        return time.monotonic()

    async def reload(self) -> tuple[bool, Sequence[str]]:
        """Read the configuration again; the last good one stays when the new one is bad."""
        async with self._reloading:
            return await self._reload()

    async def _reload(self) -> tuple[bool, Sequence[str]]:
        try:
            config = await self._load()
        except Exception as error:  # whatever is wrong with the file must not hurt what runs
            problems = str(error).splitlines() or [repr(error)]
            return self._reload_refused(problems)
        needs_restart = changes_needing_restart(self.config, config)
        if needs_restart:
            return self._reload_refused([f"{name}: a change needs a restart" for name in needs_restart])
        if config.digest == self.config.digest:
            return True, []
        try:
            self._apply(config)
        except Exception as error:  # a policy of somebody else may raise anything
            return self._reload_refused([str(error) or repr(error)])
        self.events.log("info", "reloaded", digest=config.digest[:12])
        return True, []

    def _reload_refused(self, problems: Sequence[str]) -> tuple[bool, Sequence[str]]:
        self._metrics.reload_failed()
        self.events.log("error", "reload_refused", problems=list(problems)[:20])
        return False, problems

    # --- building ------------------------------------------------------------------------------------------------

    def _front(self, config: Config) -> Front:
        return Front(config, self.proxy, self.limiter, self._ledger.note, self.is_ready, self._known_models,
                     lambda: self._jobs.api if self._jobs is not None else None)  # fmt: skip

    def _jobs_service(self, config: Config) -> JobsService | None:
        """Files, batches and jobs, where the file says so."""
        if config.jobs is None:
            return None
        from gateway.jobs.service import JobsService  # nobody else needs what it brings along

        return JobsService(config, self.front.intake, lambda: self.front, self._ledger.note, lambda: self._metrics,
                           self.events)  # fmt: skip

    def _sharing(self, config: Config) -> SharedLimits | None:
        """Counting together with other gateways, where the file says so."""
        if config.shared is None:
            return None
        from gateway.shared.limits import SharedLimits  # nobody else needs a library for Redis

        return SharedLimits(config.shared, lambda event, why: self.events.log("warning", event, why=why))

    def _known_models(self, pool: str) -> list[str]:
        """What the endpoints of a pool serve, as configured or else as they say: behind a model that stands for any."""
        lane, prober = self._lanes.get(pool), self._prober_of.get(pool)
        if lane is None or prober is None:
            return []
        said = prober.models
        return sorted({name for _, e in lane.fleet.members() for name in e.models or said.get(e.id, ())})

    def _apply(self, config: Config) -> None:
        """Make lanes for this configuration and swap it in. Raises before anything has changed."""
        prepared = {name: Parts(pool) for name, pool in config.pools.items() if self._changed(pool)}
        lanes: dict[str, Lane] = {}
        for name, pool in config.pools.items():
            parts = prepared.get(name)
            lanes[name] = self._lanes[name] if parts is None else self._build(pool, parts)
        for name in self._lanes.keys() - lanes.keys():
            self._retire(name)
        self._lanes = lanes
        self.proxy.lanes = lanes
        self.proxy.expose = config.expose
        self.decisions.reconfigure(config.decisions.keep, config.decisions.file)
        self.limiter.reconfigure(config, time.monotonic())
        for lane in lanes.values():
            lane.admit_by(rules_of(config.classes), self._filler(lane, config))
        self.config = config
        self.server.limits = config.limits
        self.front = self.server.front = self._front(config)
        if self._jobs is not None:
            self._jobs.reconfigure(config, self.front.intake)
        self._request_log.set_level(config.log.level)
        self.events.set_level(config.log.level)
        self._metrics.config_info(config.digest)

    def _filler(self, lane: Lane, config: Config) -> Filler | None:
        """What decides how much filler the lane's fleet takes; what it has learnt stays while its rule does."""
        rule = next((found.filler for found in config.classes.values() if found.filler is not None), None)
        if rule is None:
            return None
        return lane.filler if isinstance(lane.filler, Filler) and lane.filler.rule == rule else Filler(rule)

    def _changed(self, pool: Pool) -> bool:
        lane = self._lanes.get(pool.name)
        return lane is None or lane.config != pool

    def _build(self, pool: Pool, parts: Parts) -> Lane:
        """A new lane, or the old one with new parts: the fleet and its counts of what is in flight live on."""
        old = self._lanes.get(pool.name)
        task = self._probers.pop(pool.name, None)
        if task is not None:
            task.cancel()
        fleet = old.fleet if old is not None else Fleet(pool.name, parts.rule, Random())
        fleet.set_rule(parts.rule)
        was_predicting = fleet.predictor is not None
        lane = old
        source = source_of(pool, self._discovery_event(pool.name))
        prober = Prober(pool, fleet, create_backend(pool.engine), source, time.monotonic,
                        self._metrics.scrape_failed, self._pool_event, tls=parts.tls,
                        on_freed=lambda rows: self._rows_freed(pool.name, rows))  # fmt: skip
        if lane is None:
            lane = Lane(pool, fleet, parts.policy, prober.backend_for, parts.tls, parts.prior)
        else:
            policy = lane.policy if lane.config.pick == pool.pick else parts.policy
            lane.reconfigure(pool, policy, prober.backend_for, parts.tls, parts.prior)
        if fleet.predictor is not None and not was_predicting:
            self._state.restore(f"predictor-{pool.name}", fleet.predictor)
        if pool.endpoints:  # known without looking: there for the next request
            for row in fleet.update(source.endpoints(pool.endpoints), time.monotonic(), fresh=old is None):
                lane.row_left(row)
        self._prober_of[pool.name] = prober
        self._probers[pool.name] = asyncio.get_running_loop().create_task(self._probe(pool.name, prober))
        return lane

    async def _probe(self, pool: str, prober: Prober) -> None:
        """A prober that dies takes the pool's sight with it: say so and start it again."""
        while True:
            try:
                await prober.run()
                return
            except Exception as error:
                self.events.log("error", "prober_failed", pool=pool, error=repr(error))
                await asyncio.sleep(1.0)

    def _pool_event(self, event: str, **fields: object) -> None:
        self.events.log("warning", event, **fields)

    def _discovery_event(self, pool: str) -> Report:
        return lambda what: self.events.log("warning", "discovery", pool=pool, what=what)

    def _rows_freed(self, pool: str, rows: object) -> None:
        lane = self._lanes.get(pool)
        if lane is not None and isinstance(rows, Sequence):
            for row in rows:
                lane.row_left(row)

    def _retire(self, name: str) -> None:
        """The pool left the configuration: nothing new goes there, what runs finishes."""
        lane = self._lanes[name]
        self._probers.pop(name).cancel()
        self._prober_of.pop(name, None)
        lane.fleet.update([], time.monotonic())
        lane.admission.changed()
        self._retired.append(lane)

    # --- running -------------------------------------------------------------------------------------------------

    async def start(self, client_socket: socket.socket, admin_socket: socket.socket) -> None:
        """Find the endpoints, then listen. Raises OSError, ValueError or ssl.SSLError with what is wrong."""
        config = self.config
        self._state = StateFolder(config.state, self.events)
        self._apply(config)
        self._state.restore("limits", self.limiter)
        if self._shared is not None:
            await self._shared.start()
        if self._jobs is not None:
            self.gauges.jobs, self.gauges.at_risk = self._jobs.stats, self._jobs.at_risk
            self._jobs.start()
        self._metrics.watch(self.gauges)
        await asyncio.gather(*(prober.ready() for prober in self._prober_of.values()))
        tls = listener_tls(config.listen.tls) if config.listen.tls is not None else None
        await self.server.start(client_socket, tls)
        self._admin = Admin(self)
        await self._admin.start(admin_socket)
        self._due = time.monotonic() + TICK
        self._ticker = asyncio.get_running_loop().call_later(TICK, self._tick)

    def _tick(self) -> None:
        """The gateway's clock: everything that is due by time and not by an event."""
        now = time.monotonic()
        late = now - self._due
        self._metrics.loop_lag(late)
        self._ticks += 1
        lanes = [*self._lanes.values(), *self._retired]
        if late < 1.0:  # after a stall of our own, silence proves nothing
            for lane in lanes:
                lane.sweep(now)
        if self._ticks % _SLOW_TICK == 0:
            for lane in lanes:
                lane.learn_pace()
                lane.reap(now)
            self._calibration.look(self.fleets())
            self._state.keep(self._keepers(), now)
            self._retired = [lane for lane in self._retired if lane.relays]
        self._ledger.settle()
        self._request_log.flush()
        self._decisions.flush()
        self._due = now + TICK
        self._ticker = asyncio.get_running_loop().call_later(TICK, self._tick)

    def _keepers(self) -> dict[str, Keeps]:
        """Whose state is kept, by the name of its file."""
        has_limits = any(key.limits is not None for key in self.config.keys)
        found: dict[str, Keeps] = {"limits": self.limiter} if has_limits else {}
        for name, lane in self._lanes.items():
            if lane.fleet.predictor is not None:
                found[f"predictor-{name}"] = lane.fleet.predictor
        return found

    async def drain(self, delay: float, timeout: float) -> None:
        """Stop: not ready at once, no new connections after `delay`, what runs may finish until `timeout`."""
        self._is_draining = True
        await asyncio.sleep(delay)
        self.server.stop_accepting()
        until = time.monotonic() + timeout
        jobs = asyncio.create_task(self._jobs.drain(timeout)) if self._jobs is not None else None
        while (self.server.connections or (jobs and not jobs.done())) and time.monotonic() < until:
            self.server.close_idle(time.monotonic() - _IDLE_BEFORE_CLOSE)
            await asyncio.sleep(0.05)
        self.server.close_idle(time.monotonic())
        error = UpstreamError("the gateway is stopping", cause="stopping", status=503)
        for lane in (*self._lanes.values(), *self._retired):
            for relay in tuple(lane.relays):
                relay.fail(error, "cancelled")
        if self.server.connections:
            await asyncio.sleep(0.2)  # the error events leave
        if jobs is not None:
            await jobs
        await self.stop()

    async def stop(self) -> None:
        """Drop what is left and close everything."""
        self.server.stop()
        if self._ticker is not None:
            self._ticker.cancel()
        if self._jobs is not None:
            await self._jobs.stop()
        for task in self._probers.values():
            task.cancel()
        await asyncio.gather(*self._probers.values(), return_exceptions=True)
        for lane in self._lanes.values():
            lane.close()
        if self._admin is not None:
            await self._admin.stop()
        if self._shared is not None:
            await self._shared.stop()
        self._state.close(self._keepers())
        self._ledger.settle()
        self._request_log.flush()
        self._decisions.close()
