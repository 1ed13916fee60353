"""Wiring: a configuration in, a running gateway out. With `pools` the only file that picks concrete classes.

Everything is built from a frozen configuration and can be built again from the next one: a reload makes new lanes,
names and limits and swaps them between two requests, keeping fleets, connections and what policies have learnt where
their configuration did not change. A reload that fails changes nothing.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from gateway import VERSION
from gateway.adapters import Adapters
from gateway.admin import Admin
from gateway.calibration import CalibrationWatch
from gateway.captures.captures import Captures
from gateway.config.loader import Loaded, changes_needing_restart
from gateway.config.types import Config
from gateway.core.errors import UpstreamError
from gateway.core.fleet import Fleet
from gateway.core.health import State
from gateway.core.predictor import Predictor
from gateway.counted import CAPTURES, Counted, counted
from gateway.decisions import DecisionRing
from gateway.front import Front
from gateway.gauges import Filled, Gauges, Queued
from gateway.grants import Reading
from gateway.history import FILE, ROLLBACK, History
from gateway.interference import InterferenceLog
from gateway.ledger import Ledger
from gateway.limits import Limiter
from gateway.logs import Events, RequestLog
from gateway.metrics import Metrics
from gateway.mirrors.mirrors import Mirrors
from gateway.pools import Pools
from gateway.proxy import Proxy
from gateway.queues import filled, queues_of
from gateway.rollouts.canaries import Canaries
from gateway.routers import Routers
from gateway.source import Source
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
_STOPPING = "this process is stopping and takes no configuration any more; ask again, for the one that goes on"


class Gateway:
    """One gateway process. `start`, then `reload` as often as needed, then `drain`."""

    def __init__(self, loaded: Loaded, source: Source, request_log: RequestLog, events: Events):
        config = self.config = loaded.config
        self._loaded = loaded
        self._metrics = Metrics(version=VERSION)
        self._decisions = DecisionRing(config.decisions.keep, config.decisions.file)
        self._ledger = Ledger(self._metrics, self._decisions, request_log)
        self.events = events
        self._state = StateFolder(None, events)
        self._calibration = CalibrationWatch(events)
        self._interference = InterferenceLog(events)
        self._source = source
        self._history = History(config.state)
        self._request_log = request_log
        self._pools = Pools(events, self._metrics.scrape_failed, self._restore)
        self._shared = self._sharing(config)
        self.limiter = Limiter(config, self._shared)
        self.canaries = Canaries(events, self._predictor)
        self.routers = Routers(self.canaries.share)
        self.routers.use(self.routers.made(config))
        self.adapters = Adapters(self.fleets, self._pools.post, events, time.monotonic)
        self.proxy = Proxy(self._pools.lanes, self._metrics, self._decisions, config.expose, self.canaries,
                           self.adapters)  # fmt: skip
        self.mirrors = Mirrors(self.proxy, self._metrics.mirrored, self._free_for_bodies, _report_bug, Random())
        self.captures = Captures(Random())
        self.front = self._front(config)
        self._jobs = self._jobs_service(config)
        self.server = Server(self.front, config.limits)
        self.gauges = Gauges(self.fleets, self._queues, self._fillers, connections=lambda: len(self.server.connections),
                             log_dropped=lambda: request_log.dropped, counts=self._counted,
                             canaries=self.canaries.standing)  # fmt: skip
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
        return self._pools.fleets()

    def limits(self) -> Sequence[Reading]:
        """What each tenant with limits has left."""
        return self.limiter.readings(time.monotonic())

    def jobs(self) -> Mapping[str, object] | None:
        """What asynchronous work there is; None where none is kept."""
        return self._jobs.view() if self._jobs is not None else None

    def _free_for_bodies(self) -> float:
        """Bytes that bodies may still take."""
        return float(self.config.limits.buffered - self.server.buffered)

    def _predictor(self, pool: str) -> Predictor | None:
        lane = self._pools.lanes.get(pool)
        return lane.fleet.predictor if lane is not None else None

    def _counted(self) -> Iterator[Counted]:
        yield from counted(self.routers.counts(), self._pools.all(), self.limiter.spared())
        for outcome, count in self.captures.counts().items():
            yield CAPTURES, (outcome,), float(count)

    def _queues(self) -> Mapping[str, Mapping[str, Queued]]:
        return queues_of(self._pools.lanes.values(), time.monotonic())

    def _fillers(self) -> Mapping[str, Filled]:
        found = {pool: lane.filler for pool, lane in self._pools.lanes.items()}
        return {pool: filled(filler.counts().values(), filler.aborted, filler.report())
                for pool, filler in found.items() if isinstance(filler, Filler)}  # fmt: skip

    def is_ready(self) -> bool:
        """Not stopping, and somebody is there to answer."""
        return not self._is_draining and any(
            fleet.health(row).state is not State.DOWN
            for fleet in self.fleets().values() for row, _ in fleet.members()
        )  # fmt: skip

    def now(self) -> float:
        return time.monotonic()

    async def reload(self) -> tuple[bool, Sequence[str]]:
        """Read the configuration again; the last good one stays when the new one is bad."""
        async with self._reloading:
            return (False, [_STOPPING]) if self._is_draining else await self._reload()

    async def _reload(self) -> tuple[bool, Sequence[str]]:
        try:
            loaded = await self._source.read()
        except Exception as error:  # whatever is wrong with the file must not hurt what runs
            problems = str(error).splitlines() or [repr(error)]
            return self._reload_refused(problems)
        return await self._take(loaded, FILE)

    @property
    def history(self) -> History:
        """Which configurations were in use."""
        return self._history

    async def rollback(self, wanted: str) -> tuple[bool, Sequence[str]]:
        """An earlier configuration again, until the file changes: by its digest, or the one before this one."""
        async with self._reloading:
            if self._is_draining:
                return False, [_STOPPING]
            try:
                digest = self._history.earlier(wanted).digest
                text = await asyncio.get_running_loop().run_in_executor(None, self._history.text, digest)
                loaded = await self._source.parse(text)
            except Exception as error:  # what is kept may no longer be good: a certificate gone, a variable
                return self._reload_refused(str(error).splitlines() or [repr(error)])
            return await self._take(loaded, ROLLBACK)

    async def _take(self, loaded: Loaded, by: str) -> tuple[bool, Sequence[str]]:
        """Apply what was loaded, if it can be applied to a running gateway."""
        config = loaded.config
        needs_restart = changes_needing_restart(self.config, config)
        if needs_restart:
            return self._reload_refused([f"{name}: a change needs a restart" for name in needs_restart])
        if config.digest == self.config.digest:
            return True, []
        try:
            self._apply(config)
        except Exception as error:  # a policy of somebody else may raise anything
            return self._reload_refused([str(error) or repr(error)])
        self.events.log("info", "reloaded", digest=config.digest[:12], by=by)
        self._loaded = loaded
        await self._remember(by)
        return True, []

    async def _remember(self, by: str) -> None:
        """Keep what is in use now. A disk that will not costs the history and nothing else."""
        loaded = self._loaded
        if not loaded.text:
            return
        add = partial(self._history.add, loaded.config.digest, loaded.text, time.time(), by, loaded.config.source or "")
        try:
            await asyncio.get_running_loop().run_in_executor(None, add)
        except (OSError, ValueError) as error:
            self.events.log("warning", "history_not_written", why=str(error))

    def _reload_refused(self, problems: Sequence[str]) -> tuple[bool, Sequence[str]]:
        self._metrics.reload_failed()
        self.events.log("error", "reload_refused", problems=list(problems)[:20])
        return False, problems

    # --- building ------------------------------------------------------------------------------------------------

    def _front(self, config: Config) -> Front:
        return Front(config, self.proxy, self.limiter, self._ledger.note, self.is_ready, self._pools.known_models,
                     lambda: self._jobs.api if self._jobs is not None else None, self.routers,
                     self.mirrors, self.captures)  # fmt: skip

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

    def _apply(self, config: Config) -> None:
        """Make lanes for this configuration and swap it in. Raises before anything has changed."""
        routers = self.routers.made(config)
        self._pools.apply(config)
        self.proxy.lanes = self._pools.lanes
        self.proxy.expose = config.expose
        self.decisions.reconfigure(config.decisions.keep, config.decisions.file)
        self.limiter.reconfigure(config, time.monotonic())
        self.canaries.reconfigure(config, time.monotonic())
        self.routers.use(routers)
        self.adapters.reconfigure(config)
        self.mirrors.reconfigure(config)
        self.captures.reconfigure(config)
        self.config = config
        self.server.limits = config.limits
        self.front = self.server.front = self._front(config)
        self.proxy.reroute = self.front.intake.way_now
        if self._jobs is not None:
            self._jobs.reconfigure(config, self.front.intake)
        self._request_log.set_level(config.log.level)
        self.events.set_level(config.log.level)
        self._metrics.config_info(config.digest)

    # --- running -------------------------------------------------------------------------------------------------

    async def start(self, client_socket: socket.socket, admin_socket: socket.socket) -> None:
        """Find the endpoints, then listen. Raises OSError, ValueError or ssl.SSLError with what is wrong."""
        config = self.config
        self._state = StateFolder(config.state, self.events)
        self.canaries.open(config.state, time.monotonic())
        self._apply(config)
        self._state.restore("limits", self.limiter)
        if self._shared is not None:
            await self._shared.start()
        if self._jobs is not None:
            self.gauges.jobs, self.gauges.at_risk = self._jobs.stats, self._jobs.at_risk
            self._jobs.start()
        self._metrics.watch(self.gauges)
        await self._remember(FILE)
        await self._pools.ready()
        tls = listener_tls(config.listen.tls) if config.listen.tls is not None else None
        self.canaries.catch_up()  # as late as can be: the process before decides no more from here on
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
        lanes = self._pools.all()
        if late < 1.0:  # after a stall of our own, silence proves nothing
            for lane in lanes:
                lane.sweep(now)
        self.canaries.tick(now)
        if self._ticks % _SLOW_TICK == 0:
            for lane in lanes:
                lane.learn_pace()
                lane.reap(now)
            self._calibration.look(self.fleets())
            self._interference.look(self._fillers(), now)
            self._state.keep(self._keepers(), now)
            self._pools.forget_idle()
        self._ledger.settle()
        self._request_log.flush()
        self._decisions.flush()
        self._due = now + TICK
        self._ticker = asyncio.get_running_loop().call_later(TICK, self._tick)

    def _keepers(self) -> dict[str, Keeps]:
        """Whose state is kept, by the name of its file."""
        has_limits = any(key.limits is not None for key in self.config.keys)
        found: dict[str, Keeps] = {"limits": self.limiter} if has_limits else {}
        for name, fleet in self.fleets().items():
            if fleet.predictor is not None:
                found[f"predictor-{name}"] = fleet.predictor
        return found

    def _restore(self, pool: str, predictor: Keeps) -> bool:
        return self._state.restore(f"predictor-{pool}", predictor)

    async def drain(self, delay: float, timeout: float) -> None:
        """Stop: not ready at once, no new connections after `delay`, what runs may finish until `timeout`."""
        self._is_draining = True
        self.canaries.stop_obeying()
        self.mirrors.close()
        await asyncio.sleep(delay)
        self.server.stop_accepting()
        until = time.monotonic() + timeout
        jobs = asyncio.create_task(self._jobs.drain(timeout)) if self._jobs is not None else None
        while (self.server.connections or (jobs and not jobs.done())) and time.monotonic() < until:
            self.server.close_idle(time.monotonic() - _IDLE_BEFORE_CLOSE)
            await asyncio.sleep(0.05)
        self.server.close_idle(time.monotonic())
        error = UpstreamError("the gateway is stopping", cause="stopping", status=503)
        for lane in self._pools.all():
            for relay in tuple(lane.relays):
                relay.fail(error, "cancelled")
        if self.server.connections:
            await asyncio.sleep(0.2)  # the error events leave
        if jobs is not None:
            await jobs
        await self.stop()

    async def stop(self) -> None:
        """Drop what is left and close everything."""
        self.mirrors.close()
        self.server.stop()
        if self._ticker is not None:
            self._ticker.cancel()
        if self._jobs is not None:
            await self._jobs.stop()
        await self._pools.stop()
        if self._admin is not None:
            await self._admin.stop()
        if self._shared is not None:
            await self._shared.stop()
        self._state.close(self._keepers())
        self.canaries.close()
        self._ledger.settle()
        self._request_log.flush()
        self._decisions.close()
        self.captures.close()


def _report_bug(error: BaseException) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": "a copy failed", "exception": error})
