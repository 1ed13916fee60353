"""Faults at work on one simulated server: what they do to its port, its engine, its streams and its metrics.

The idea: a table from fault to what happens when it begins and when it ends; everything else asks whether a fault is
active at the moment it matters. `POST /sim/fault {"kind", "value", "for"}` switches one on (`"clear": true` off;
kind `none` clears all), `GET /sim/state` shows everything. A server whose port is closed cannot be asked, so a
sibling in the same process takes `"port"`.
"""

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from backends.sim import errors
from backends.sim.exchange import Exchange
from backends.sim.faults import BadFault, Fault, fault
from backends.sim.http import HttpRequest, Reply
from backends.sim.pages import JSON

if TYPE_CHECKING:
    from backends.sim.server import SimServer

CLOSES_PORT = {"crash", "killed", "silent", "refuse"}
METRICS = {"content-type": "text/plain; version=0.0.4; charset=utf-8", "vary": "Origin"}


class Control:
    """The faults of `server`, and its control and metrics pages."""

    def __init__(self, server: "SimServer") -> None:
        self.siblings: list[SimServer] = [server]
        self._server = server
        self._active: dict[str, Fault] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._frozen_metrics = b""
        self._tasks: set[asyncio.Task[None]] = set()
        self._begins: dict[str, Callable[[], None]] = {
            "hang": lambda: server.runner.freeze(),
            "slow": self._pace,
            "crash": self._crash,
            "killed": self._killed,
            "silent": self._silent,
            "refuse": self._refuse,
            "cut": self._cut_open,
            "reset": self._reset_open,
            "frozen_metrics": self._remember_metrics,
        }
        self._ends: dict[str, Callable[[], None]] = {
            "hang": lambda: server.runner.thaw(),
            "slow": self._pace,
            "crash": self._reopen,
            "killed": self._reopen,
            "silent": self._unsilence,
            "refuse": self._reopen,
        }

    @property
    def active(self) -> dict[str, Fault]:
        """Faults at work, by kind."""
        return dict(self._active)

    def begin(self, wanted: Fault) -> None:
        """Switch a fault on; one of the same kind is replaced."""
        self._cancel_timer(wanted.kind)
        self._active[wanted.kind] = wanted
        self._begins.get(wanted.kind, _nothing)()
        once = wanted.kind in ("cut", "reset") and wanted.value is None
        if wanted.seconds is not None or once:
            loop = asyncio.get_running_loop()
            self._timers[wanted.kind] = loop.call_later(wanted.seconds or 0.0, self.end, wanted.kind)

    def end(self, kind: str) -> None:
        """Switch a fault off, if it is on."""
        self._cancel_timer(kind)
        if self._active.pop(kind, None) is not None:
            self._ends.get(kind, _nothing)()

    def stop(self) -> None:
        """Forget all timers."""
        for kind in list(self._timers):
            self._cancel_timer(kind)
        for task in list(self._tasks):
            task.cancel()

    # -- questions the server asks

    def refuse_if_faulty(self) -> None:
        """Raises the ApiError an active fault answers every generation with."""
        if "drain" in self._active:
            raise errors.ApiError(500, "InternalServerError", errors.SHUTTING_DOWN)
        if "503" in self._active:
            self._server.stats.rejections += 1
            raise errors.ApiError(503, "Service Unavailable", errors.BUSY)
        if "5xx" in self._active:
            value = self._active["5xx"].value or 500.0
            if value > 1.0 or self._server.random.random() < value:
                raise errors.ApiError(int(value) if value > 1.0 else 500, "InternalServerError", "simulated failure")

    def arm(self, exchange: Exchange, reply: Reply) -> None:
        """Let a new stream be cut or reset later if that fault is active."""
        for kind, end in (("cut", reply.cut), ("reset", reply.reset)):
            if kind in self._active:
                exchange.cut_after = max(1, int(self._active[kind].value or 1))
                exchange.cut = end

    # -- pages

    def get_health(self, request: HttpRequest, reply: Reply) -> None:
        """`/health`: 200 and nothing, also while the engine hangs."""
        if "dead_health" not in self._active:
            reply.send(503 if "unhealthy" in self._active else 200, {"vary": "Origin"})

    def get_metrics(self, request: HttpRequest, reply: Reply) -> None:
        """`/metrics`, or what a fault makes of it."""
        active = self._active
        if "dead_metrics" in active:
            return
        if "slow_metrics" in active:
            delay = active["slow_metrics"].value or 0.0
            asyncio.get_running_loop().call_later(delay, reply.send, 200, METRICS, self._metrics())
        elif "no_metrics" in active:
            reply.send(404, JSON, b'{"detail":"Not Found"}')
        elif "garbage_metrics" in active:
            reply.send(200, METRICS, b"\x00\xffvllm:num_requests_running{engine= oops\n<html>502</html>\n}} NaN NaN\n")
        elif "empty_metrics" in active:
            reply.send(200, METRICS, b"# HELP python_info Python platform information\n# TYPE python_info gauge\n")
        elif "frozen_metrics" in active:
            reply.send(200, METRICS, self._frozen_metrics)
        else:
            reply.send(200, METRICS, self._metrics())

    def get_state(self, request: HttpRequest, reply: Reply) -> None:
        """`/sim/state`: what the server knows of itself, without any fault's colouring."""
        reply.send(200, JSON, errors.dump(self.state()))

    def state(self) -> dict[str, object]:
        """Counts, the engine's clock, time lost to a busy processor, and the active faults."""
        server = self._server
        engine = server.engine
        return {
            "profile": server.options.profile.name,
            "model": server.model,
            "speed": server.options.speed,
            "port": server.port,
            "running": len(engine.running),
            "waiting": len(engine.waiting),
            "asked": server.asked,
            "open_requests": len(server.exchanges),
            "connections": len(server.connections),
            "kv_usage": engine.pool.usage,
            "kv_tokens": engine.capacity_tokens(),
            "preemptions": engine.preemptions,
            "queried_tokens": engine.queried_tokens,
            "hit_tokens": engine.hit_tokens,
            "output_tokens": server.stats.output_tokens,
            "steps": server.runner.steps,
            "lost_seconds": server.runner.lost_seconds,
            "frozen": server.runner.frozen,
            "faults": [{"kind": f.kind, "value": f.value, "for": f.seconds} for f in self._active.values()],
        }

    def post_fault(self, request: HttpRequest, reply: Reply) -> None:
        """`/sim/fault`. 400 with the reason for what cannot be done."""
        try:
            body = json.loads(request.body)
            if not isinstance(body, dict):
                raise BadFault("send a JSON object with kind, and optionally value, for, clear, port")
            target = self._sibling(body.get("port"))
            kind = body.get("kind")
            if kind == "none":
                for active in list(target.active):
                    target.end(active)
            elif body.get("clear"):
                target.end(str(kind))
            else:
                target.begin(fault(str(kind), body.get("value"), body.get("for")))
        except ValueError as error:
            reply.send(400, JSON, errors.dump({"error": str(error)}))
            return
        reply.send(200, JSON, errors.dump(target.state()))

    def _sibling(self, port: object) -> "Control":
        if port is None:
            return self
        for server in self.siblings:
            if server.port == port:
                return server.control
        raise BadFault(f"no server on port {port} here; ports: {[server.port for server in self.siblings]}")

    # -- what faults do

    def _pace(self) -> None:
        server, slow = self._server, self._active.get("slow")
        server.slow = (slow.value or 1.0) if slow else 1.0
        server.engine.pace = server.slow / server.options.speed

    def _crash(self) -> None:
        server = self._server
        server.close_port()
        server.runner.stop()
        for connection in list(server.connections):
            connection.reset()
        self._restart()

    def _killed(self) -> None:
        server = self._server
        server.close_port()
        server.runner.stop()
        dead = errors.ApiError(500, "InternalServerError", errors.ENGINE_DEAD)
        for exchange in list(server.exchanges):
            exchange.fail(dead)
        for connection in list(server.connections):
            connection.close_when_idle()
        self._restart()

    def _restart(self) -> None:
        self.end("hang")
        self._server.exchanges.clear()
        self._server.new_engine()

    def _refuse(self) -> None:
        self._server.close_port()
        for connection in list(self._server.connections):
            connection.close_when_idle()

    def _silent(self) -> None:
        self._server.runner.freeze()
        self._server.close_port()

    def _unsilence(self) -> None:
        self._server.runner.thaw()
        self._reopen()

    def _reopen(self) -> None:
        if self._active.keys() & CLOSES_PORT:
            return
        task = asyncio.get_running_loop().create_task(self._listen_again())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen_again(self) -> None:
        while not self._active.keys() & CLOSES_PORT:
            try:
                return await self._server.listen()
            except OSError:  # somebody took the port meanwhile, for instance as the source of a connection
                await asyncio.sleep(0.1)

    def _cut_open(self) -> None:
        for exchange in list(self._server.exchanges):
            if exchange.streaming:
                exchange.drop_connection(hard=False)

    def _reset_open(self) -> None:
        for exchange in list(self._server.exchanges):
            if exchange.streaming:
                exchange.drop_connection(hard=True)

    def _remember_metrics(self) -> None:
        self._frozen_metrics = self._metrics()

    def _metrics(self) -> bytes:
        return self._server.stats.text(self._server.engine, idle=self._server.runner.frozen)

    def _cancel_timer(self, kind: str) -> None:
        timer = self._timers.pop(kind, None)
        if timer is not None:
            timer.cancel()


def _nothing() -> None:
    """Faults that only change answers have nothing to begin or end."""
