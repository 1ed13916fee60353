"""LoRA adapters that are loaded when they are asked for, and let go when others need their place.

The idea: an adapter is a model that a server can learn in a second, so a request for one that nobody has waits for it
to be loaded on one endpoint: of those in service the one with the fewest adapters, then the fewest requests. After that
the endpoints' own lists say who has it (`core.offers`), and its requests go there. Of an adapter there is one load at a
time; whoever comes meanwhile waits for the same one. When an endpoint is full, the adapter that was used longest ago
and that nobody uses or waits for is unloaded first; one that is on its way there counts as there. When those who have
an adapter are busier by `SPREAD` requests than one who has not, it is loaded there too, and nobody waits for that.

A load that failed is not tried again for a while: requests are refused with the server's own words. A server that says
it does not know an adapter which it listed (it was started again) is not believed to have it any longer, and neither is
one that has it by a path that a reload has changed.

Left to others: which endpoints list what (`prober`), who uses what (`adapter_uses`), sending (`fetch`). Paths and
bodies are vLLM's: `POST /v1/load_lora_adapter {"lora_name", "lora_path"}`, `/v1/unload_lora_adapter {"lora_name"}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from gateway.adapter_uses import Uses
from gateway.config.types import Config, Lora
from gateway.core.errors import HeadwayError, UpstreamError
from gateway.core.fleet import Fleet
from gateway.core.health import State
from gateway.core.types import Endpoint
from gateway.fetch import Page
from gateway.logs import Events
from gateway.prober import LEFT

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
SPREAD = 8.0  # requests
FORGET = 10.0  # seconds after which a load that failed is tried again
AWAY = 1.0  # ... and one for which there was no server
NOT_LOADED = "adapter_not_loaded"
ALREADY = "already"  # in the words of a server that has the adapter

Post = Callable[[str, Endpoint, str, bytes], Awaitable[Page]]
"""POST a body to a path of an endpoint of the pool. Raises UpstreamError, with `LEFT` where it is not there now."""


class _Failed(NamedTuple):
    until: float
    message: str


class Adapters:
    """All of one gateway. `fleets` are those in use, by pool; `clock` is theirs."""

    def __init__(self, fleets: Callable[[], Mapping[str, Fleet]], post: Post, events: Events,
                 clock: Callable[[], float]):  # fmt: skip
        self._fleets = fleets
        self._post = post
        self._events = events
        self._clock = clock
        self._managed: dict[str, Lora] = {}
        self._loading: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._coming: dict[tuple[str, str], str] = {}  # where those that are being loaded go
        self._failed: dict[tuple[str, str], _Failed] = {}
        self._doubted: dict[tuple[str, str, str], float] = {}
        self._uses = Uses(fleets, clock)

    def reconfigure(self, config: Config) -> None:
        """Which adapters are ours to load and unload: those with a path. Others stay where they are.

        One whose path is another now is not believed to be anywhere before it has been loaded from there.
        """
        before = self._managed
        self._managed = {model.upstream_name(model.name): model.lora for model in config.models.values()
                         if model.lora is not None and model.lora.path is not None}  # fmt: skip
        changed = {name for name, lora in self._managed.items() if name in before and before[name].path != lora.path}
        self._failed = {key: failed for key, failed in self._failed.items() if key[1] not in changed}
        for fleet in self._fleets().values():
            fleet.offers.on_demand(frozenset(self._managed))
            for name in changed:
                for row in fleet.offers.having(name):
                    fleet.offers.distrust(row, name)

    # --- requests ------------------------------------------------------------------------------------------------

    def is_ours(self, name: str) -> bool:
        """Whether what endpoints call by this name is an adapter that is loaded and unloaded here."""
        return name in self._managed

    async def wait_for(self, pools: Sequence[str], name: str) -> None:
        """Return when an endpoint of one of the pools has the adapter; later ones are asked when earlier ones cannot.

        Raises HeadwayError where it cannot be loaded anywhere, with what the first pool said.
        """
        first: HeadwayError | None = None
        for pool in pools:
            try:
                return await self._wait_for(pool, name)
            except HeadwayError as error:
                first = first or error
        if first is not None:
            raise first

    async def _wait_for(self, pool: str, name: str) -> None:
        fleet = self._fleets().get(pool)
        if fleet is None or name not in self._managed:
            return
        there = self._in_service(fleet, fleet.offers.having(name))
        failed = self._failed.get((pool, name))
        may_load = failed is None or self._clock() >= failed.until
        if there:
            target = self._relief(fleet, there) if may_load else None
            if target is not None:
                self._start(pool, fleet, name, target)
            return
        if failed is not None and not may_load and (pool, name) not in self._loading:
            raise HeadwayError(failed.message, status=503, code=NOT_LOADED)
        await asyncio.shield(self._start(pool, fleet, name, None))

    def has(self, pool: str, name: str) -> bool:
        """Whether a request for this model may go to this pool. Where an adapter is not loaded, loading it begins."""
        if name not in self._managed:
            return True
        fleet = self._fleets().get(pool)
        if fleet is None or fleet.offers.having(name):
            return True
        failed = self._failed.get((pool, name))
        if failed is None or self._clock() >= failed.until:
            self._start(pool, fleet, name, None)
        return False

    def wants(self, name: str) -> None:
        """A request for this model has come: it may wait long for its place, and must find the adapter then."""
        if name in self._managed:
            self._uses.wants(name)

    def leaves(self, name: str) -> None:
        """It has ended."""
        self._uses.leaves(name)

    def begins(self, pool: str, endpoint: str, name: str) -> None:
        """A request for this model was sent there."""
        if name in self._managed:
            self._uses.begins((pool, endpoint, name))

    def ends(self, pool: str, endpoint: str, name: str) -> None:
        """It has ended."""
        self._uses.ends((pool, endpoint, name))

    def is_forgotten(self, pool: str, endpoint: str, name: str) -> bool:
        """The endpoint answered that something is not there: whether that may be the adapter (it is loaded anew then).

        Clients can ask for other things that are not there, so that is done now and then only.
        """
        fleet, now, place = self._fleets().get(pool), self._clock(), (pool, endpoint, name)
        row = fleet.row_of(endpoint) if fleet is not None else None
        if fleet is None or row is None:
            return False
        if name not in fleet.offers.of(row):
            return True  # somebody else has been told so already
        if now < self._doubted.get(place, -math.inf) + FORGET:
            return False
        self._doubted = {known: at for known, at in self._doubted.items() if now < at + FORGET}
        self._doubted[place] = now
        fleet.offers.unlearn(row, name)
        self._uses.forget(place)
        self._events.log("warning", "adapter_missing", pool=pool, endpoint=endpoint, adapter=name)
        return True

    # --- loading -------------------------------------------------------------------------------------------------

    def _start(self, pool: str, fleet: Fleet, name: str, target: Endpoint | None) -> asyncio.Task[None]:
        """The load of this adapter that runs, or a new one."""
        task = self._loading.get((pool, name))
        if task is None:
            task = asyncio.get_running_loop().create_task(self._load(pool, fleet, name, target))
            self._loading[pool, name] = task
            task.add_done_callback(lambda done: self._ended(pool, name, done))
        return task

    def _ended(self, pool: str, name: str, task: asyncio.Task[None]) -> None:
        del self._loading[pool, name]
        self._coming.pop((pool, name), None)
        if not task.cancelled():
            task.exception()  # it was told to those who waited, and to the log

    async def _load(self, pool: str, fleet: Fleet, name: str, target: Endpoint | None) -> None:
        try:
            endpoint = self._least(pool, fleet) if target is None else target
            self._coming[pool, name] = endpoint.id
            await self._put(pool, fleet, endpoint, name)
        except HeadwayError as error:
            message = f"{name!r} is not loaded: {error.message}" if isinstance(error, UpstreamError) else error.message
            wait = AWAY if isinstance(error, UpstreamError) and error.cause == LEFT else FORGET
            self._failed[pool, name] = _Failed(self._clock() + wait, message)
            self._events.log("warning", "adapter_not_loaded", pool=pool, adapter=name, why=error.message)
            raise HeadwayError(message, status=503, code=NOT_LOADED) from None
        self._failed.pop((pool, name), None)
        self._uses.note((pool, endpoint.id, name))
        self._events.log("info", "adapter_loaded", pool=pool, endpoint=endpoint.id, adapter=name)

    async def _put(self, pool: str, fleet: Fleet, endpoint: Endpoint, name: str) -> None:
        """Load it there from the path of now. Where a reload changes that meanwhile: again. Raises HeadwayError."""
        while (lora := self._managed.get(name)) is not None:
            row = fleet.row_of(endpoint.id)
            is_other = row is not None and name in fleet.offers.distrusted(row)
            if is_other:
                await self._unload(pool, fleet, endpoint, name)
            await self._make_room(pool, fleet, endpoint, lora.most)
            body = json.dumps({"lora_name": name, "lora_path": lora.path}).encode()
            page = await self._post(pool, endpoint, LOAD, body)
            said = page.body[:500].decode("utf-8", "replace")
            if page.status >= 300 and (is_other or ALREADY not in said):
                raise HeadwayError(f"the model server could not load {name!r}: {said}", status=503, code=NOT_LOADED)
            row, now = fleet.row_of(endpoint.id), self._managed.get(name)
            if row is None:
                return
            if now is None or now.path == lora.path:
                return fleet.offers.learn(row, name)
            fleet.offers.distrust(row, name)

    async def _make_room(self, pool: str, fleet: Fleet, endpoint: Endpoint, most: int) -> None:
        """Unload what was used longest ago, until all that are on their way here fit.

        What is in use or waited for stays, however many.
        """
        row = fleet.row_of(endpoint.id)
        if row is None:
            return
        coming = self._coming_to(pool, endpoint.id)
        there = ((self._managed.keys() & fleet.offers.of(row)) | fleet.offers.distrusted(row)) - coming
        idle = [
            name for name in there
            if not (self._uses.is_running((pool, endpoint.id, name)) or self._is_last(fleet, row, name))
        ]  # fmt: skip
        idle.sort(key=lambda name: (self._uses.last((pool, endpoint.id, name)), name))
        for name in idle[: max(0, len(there) + len(coming) - most)]:
            with contextlib.suppress(UpstreamError):  # the log has it; if there is no room now, the load will say so
                await self._unload(pool, fleet, endpoint, name)

    async def _unload(self, pool: str, fleet: Fleet, endpoint: Endpoint, name: str) -> None:
        """Raises UpstreamError."""
        row = fleet.row_of(endpoint.id)
        if row is not None:
            fleet.offers.unlearn(row, name)  # first: nothing new goes there
        self._uses.forget((pool, endpoint.id, name))
        told = {"pool": pool, "endpoint": endpoint.id, "adapter": name}
        try:
            page = await self._post(pool, endpoint, UNLOAD, json.dumps({"lora_name": name}).encode())
        except UpstreamError as error:
            self._events.log("warning", "adapter_not_unloaded", **told, why=error.message)
            raise
        self._events.log("info", "adapter_unloaded", **told, status=page.status)

    def _is_last(self, fleet: Fleet, row: int, name: str) -> bool:
        """Whether somebody waits for it and nobody else has it."""
        having = fleet.offers.having(name)
        return row in having and len(having) < 2 and self._uses.is_wanted(name)

    # --- where ---------------------------------------------------------------------------------------------------

    def _in_service(self, fleet: Fleet, rows: list[int]) -> list[int]:
        out = (State.DOWN, State.EJECTED)
        return [row for row in rows if not fleet.is_leaving(row) and fleet.health(row).state not in out]

    def _least(self, pool: str, fleet: Fleet) -> Endpoint:
        """Where the next one goes. Raises UpstreamError where nobody is in service."""
        rows = self._in_service(fleet, [row for row, _ in fleet.members()])
        if not rows:
            raise UpstreamError("no model server is there to load it", cause=LEFT, status=503)
        return fleet.endpoint(min(rows, key=lambda row: (self._count(pool, fleet, row), fleet.requests.item(row))))

    def _relief(self, fleet: Fleet, there: list[int]) -> Endpoint | None:
        """An endpoint without it that is so much less busy than those that have it that it pays to load it there."""
        others = self._in_service(fleet, [row for row, _ in fleet.members() if row not in there])
        if not others:
            return None
        idlest = min(others, key=lambda row: fleet.requests.item(row))
        busy = min(fleet.requests.item(row) for row in there)
        return fleet.endpoint(idlest) if busy > fleet.requests.item(idlest) + SPREAD else None

    def _count(self, pool: str, fleet: Fleet, row: int) -> int:
        """The adapters of one endpoint, those on their way there among them."""
        there = self._managed.keys() & fleet.offers.of(row)
        return len(there | self._coming_to(pool, fleet.endpoint(row).id))

    def _coming_to(self, pool: str, endpoint_id: str) -> set[str]:
        return {name for (where, name), target in self._coming.items() if (where, target) == (pool, endpoint_id)}
