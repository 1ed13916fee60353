"""The operators' listener: metrics, health, what is configured, what is known of each endpoint, why, and reload.

The idea: its own port, so that nothing here is ever reachable where clients are. It only reads what others keep
(`AdminView`) and asks them to reload; pages that can be big are made in pieces, with the event loop running in between.
A configured token is needed for everything that tells or changes something (`/api/…`, `/`); `/metrics` and the health
pages are open to scrapers. Without a token (loopback only) a page in the operator's browser could still reach this
port, so a request that another site caused, or that came under a foreign host name, is refused.

aiohttp is safe here in a version without the known request smuggling (its change log up to 3.14.3) and with its C
parser; `check_aiohttp` refuses to start otherwise.

Left to others: what the answers are made from (`metrics`, `decisions`, `core.fleet`), loading a configuration (`app`).
"""

from __future__ import annotations

import asyncio
import hmac
import math
import re
import socket
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from ipaddress import ip_address
from typing import Any, Protocol, cast

import aiohttp
import msgspec
from aiohttp import http_parser, web

from gateway.admin_answers import error, json
from gateway.admin_rollouts import RolloutPages, RolloutView
from gateway.config.types import Config
from gateway.core.fleet import Fleet
from gateway.decisions import DecisionRing, describe
from gateway.describe import describe_endpoint, describe_predictor, describe_queues, describe_reading, masked
from gateway.gauges import Gauges
from gateway.grants import Reading
from gateway.logs import Events
from gateway.metrics import CONTENT_TYPE, Metrics
from gateway.records import RequestRecord
from gateway.rollouts.words import explain_lines
from gateway.routers import Routers

OLDEST = (3, 14, 3)
LATER = ("/",)
# A request here has no body worth reading.
MAX_BODY = 64 << 10
# Endpoints described in one go.
PIECE = 100

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AdminView(RolloutView, Protocol):
    """What the listener shows; the running gateway is one. `now` is the fleets' clock."""

    @property
    def config(self) -> Config: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def decisions(self) -> DecisionRing: ...
    @property
    def events(self) -> Events: ...
    @property
    def gauges(self) -> Gauges: ...
    @property
    def routers(self) -> Routers: ...
    def fleets(self) -> Mapping[str, Fleet]: ...
    def limits(self) -> Sequence[Reading]:
        """What each tenant with limits has left."""
        ...

    def jobs(self) -> Mapping[str, object] | None:
        """The state of asynchronous work in JSON's terms; None where none is kept."""
        ...
    def is_ready(self) -> bool: ...
    def now(self) -> float: ...
    async def reload(self) -> tuple[bool, Sequence[str]]:
        """Load the configuration again: whether it is in use now, and if not, what is wrong with it."""
        ...


def check_aiohttp() -> None:
    """Raises RuntimeError where this aiohttp must not face a network."""
    version = tuple(int(part) for part in re.findall(r"\d+", aiohttp.__version__)[:3])
    if version < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise RuntimeError(f"aiohttp {aiohttp.__version__} has known security holes; install {wanted} or newer")
    if http_parser.HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise RuntimeError(
            "aiohttp runs without its C parser, whose fallback is not safe; install a wheel that has it and "
            "unset AIOHTTP_NO_EXTENSIONS"
        )


class Admin:
    """The listener. `start` it on a bound socket, `stop` it; the socket is closed with it."""

    def __init__(self, view: AdminView):
        check_aiohttp()
        self._view = view
        self._runner: web.AppRunner | None = None
        self._reloading = asyncio.Lock()

    async def start(self, sock: socket.socket) -> None:
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/api/config", self._config)
        app.router.add_get("/api/endpoints", self._endpoints)
        app.router.add_get("/api/queues", self._queues)
        app.router.add_get("/api/limits", self._limits)
        app.router.add_get("/api/jobs", self._jobs)
        app.router.add_get("/api/decisions/{request_id}", self._decision)
        app.router.add_post("/api/reload", self._reload)
        RolloutPages(self._view).add_to(app.router)
        for path in LATER:
            app.router.add_get(path, self._later)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()

    async def stop(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    # --- who may -----------------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every request passes here: first may it, then its page; what goes wrong is an answer in JSON."""
        path = request.path
        if path == "/" or path == "/api" or path.startswith(("/api/", "/canaries/")):
            refusal = self._refusal(request)
            if refusal is not None:
                return refusal
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return error(404, "not_found", "no such page; see GET /api/endpoints, /api/config, /metrics")
        except web.HTTPMethodNotAllowed as wrong:
            allowed = ", ".join(sorted(wrong.allowed_methods))
            return error(405, "method_not_allowed", f"use {allowed} here", {"Allow": allowed})
        except web.HTTPException as wrong:
            return error(wrong.status, "bad_request", wrong.reason)
        except Exception as wrong:
            # A bug of ours. Its text may hold anything, so only its kind and place are told, and only in the log.
            where = traceback.extract_tb(wrong.__traceback__)[-1]
            self._view.events.log(
                "error", "admin_bug", path=path, error=type(wrong).__name__, at=f"{where.filename}:{where.lineno}"
            )
            return error(500, "internal_error", "a bug of this gateway; its log says where")

    def _refusal(self, request: web.Request) -> web.Response | None:
        token = self._view.config.admin.token
        if token is None:
            if _is_foreign(request):
                return error(403, "foreign_origin", "without an admin token this is only for local programs")
            return None
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        # Digests: comparing them tells nothing of the token's length either.
        same = hmac.compare_digest(_digest(given.strip()), _digest(token.reveal()))
        if scheme.lower() == "bearer" and same:
            return None
        return error(401, "unauthorized", "this needs the admin token", {"WWW-Authenticate": "Bearer"})

    # --- pages -------------------------------------------------------------------------------------------------

    async def _metrics(self, request: web.Request) -> web.Response:
        parts = []
        for page in self._view.metrics.pages():
            parts.append(page)
            await asyncio.sleep(0)
        return web.Response(body=b"".join(parts), headers={"Content-Type": CONTENT_TYPE})

    async def _healthz(self, request: web.Request) -> web.Response:
        return json({"status": "ok"})

    async def _readyz(self, request: web.Request) -> web.Response:
        ready = self._view.is_ready()
        return json({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    async def _config(self, request: web.Request) -> web.Response:
        return json(masked(self._view.config))

    async def _endpoints(self, request: web.Request) -> web.Response:
        now, pools = self._view.now(), {}
        predictors = {}
        for name, fleet in list(self._view.fleets().items()):
            paces: Mapping[int, float] = {}
            if fleet.predictor is not None:
                report = fleet.predictor.report()
                predictors[name], paces = describe_predictor(report), report.paces
            found: list[dict[str, object]] = []
            for number, (row, endpoint) in enumerate(list(fleet.members())):
                if number % PIECE == PIECE - 1:
                    await asyncio.sleep(0)
                if fleet.row_of(endpoint.id) == row:  # it may have left meanwhile
                    found.append(describe_endpoint(fleet, row, endpoint, now, paces.get(row, math.nan)))
            pools[name] = found
        return json({"pools": pools, "predictors": predictors})

    async def _queues(self, request: web.Request) -> web.Response:
        gauges = self._view.gauges
        fillers = gauges.fillers()
        pools = {pool: describe_queues(queues, fillers.get(pool)) for pool, queues in gauges.queues().items()}
        return json({"pools": pools})

    async def _limits(self, request: web.Request) -> web.Response:
        return json({"tenants": [describe_reading(reading) for reading in self._view.limits()]})

    async def _jobs(self, request: web.Request) -> web.Response:
        jobs = self._view.jobs()
        if jobs is None:
            return error(404, "jobs_not_configured", "this gateway keeps no jobs: its configuration has no `jobs:`")
        return json(jobs)

    async def _decision(self, request: web.Request) -> web.Response:
        ring, request_id = self._view.decisions, request.match_info["request_id"]
        record = ring.find(request_id)
        if record is None:
            message = f"no decision is kept under this id; the last {ring.keep} are (decisions.keep), {len(ring)} now"
            return error(404, "not_found", message)
        return json({**describe(record), "routing": self._routing(record)})

    def _routing(self, record: RequestRecord) -> list[str]:
        """The rules in words, and how the arm's canary is doing, both as they are now."""
        view = self._view
        if record.route is None:
            return []
        canaries = cast(list[Mapping[str, Any]], view.canaries.views()["canaries"])
        of_model = [one for one in canaries if one["model"] == record.model]
        return [*view.routers.why(record), *explain_lines(msgspec.structs.asdict(record.route), of_model)]

    async def _reload(self, request: web.Request) -> web.Response:
        async with self._reloading:
            done, problems = await self._view.reload()
        if done:
            return json({"reloaded": True, "digest": self._view.config.digest})
        return error(400, "bad_config", "not reloaded, the last good stays", problems=list(problems))

    async def _later(self, request: web.Request) -> web.Response:
        return error(501, "not_implemented", f"{request.path} is not in this version")


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogateescape")).digest()


def _is_foreign(request: web.Request) -> bool:
    """Whether a page of another site may be behind this: it shows its origin, or uses a name of its own for us."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return True
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != request.host:
        return True
    host = request.host.rpartition(":")[0] if re.search(r":\d+$", request.host) else request.host
    if host.lower() == "localhost":
        return False
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return True
    return False
