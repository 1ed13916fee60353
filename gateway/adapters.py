"""LoRA adapters that are loaded when they are asked for, and let go when others need their place.

The idea: an adapter is a model that a server can learn in a second, so a request for one that nobody has waits for it
to be loaded on one endpoint: of those in service the one with the fewest adapters, then the fewest requests. After that
the endpoints' own lists say who has it (`core.offers`), and its requests go there. Of an adapter there is one load at a
time; whoever comes meanwhile waits for the same one. When an endpoint is full, the adapter that was used longest ago
and that nobody uses or waits for is unloaded first. When those who have an adapter are busier by `SPREAD` requests than
one who has not, it is loaded there too, and nobody waits for that.

A load that failed is not tried again for a while: requests are refused with the server's own words. A server that says
it does not know an adapter which it listed (it was started again) is not believed to have it any longer.

Left to others: which endpoints list what (`prober`), sending (`fetch`). Paths and bodies are vLLM's: `POST
/v1/load_lora_adapter {"lora_name", "lora_path"}`, `/v1/unload_lora_adapter {"lora_name"}`.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gateway.config.types import Config, Lora
from gateway.core.errors import HeadwayError, UpstreamError
from gateway.core.fleet import Fleet
from gateway.core.health import State
from gateway.core.types import Endpoint
from gateway.fetch import Page
from gateway.logs import Events

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
SPREAD = 8.0  # requests
FORGET = 10.0  # seconds after which a load that failed is tried again
NOT_LOADED = "adapter_not_loaded"
ALREADY = "already"  # in the words of a server that has the adapter

Post = Callable[[str, Endpoint, str, bytes], Awaitable[Page]]
"""POST a body to a path of an endpoint of the pool. Raises UpstreamError."""


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
        self._failed: dict[tuple[str, str], _Failed] = {}
        self._used: dict[tuple[str, str, str], float] = {}
        self._running: Counter[tuple[str, str, str]] = Counter()
        self._wanted: Counter[str] = Counter()
        self._doubted: dict[tuple[str, str, str], float] = {}

    def reconfigure(self, config: Config) -> None:
        """Which adapters are ours to load and unload: those with a path. Others stay where they are."""
        self._managed = {model.upstream_name(model.name): model.lora for model in config.models.values()
                         if model.lora is not None and model.lora.path is not None}  # fmt: skip

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
        fleet, lora = self._fleets().get(pool), self._managed.get(name)
        if fleet is None or lora is None:
            return
        there = self._in_service(fleet, fleet.offers.having(name))
        failed = self._failed.get((pool, name))
        may_load = failed is None or self._clock() >= failed.until
        if there:
            target = self._relief(fleet, there) if may_load else None
            if target is not None:
                self._start(pool, fleet, lora, name, target)
            return
        if failed is not None and not may_load and (pool, name) not in self._loading:
            raise HeadwayError(failed.message, status=503, code=NOT_LOADED)
        await asyncio.shield(self._start(pool, fleet, lora, name, None))

    def has(self, pool: str, name: str) -> bool:
        """Whether a request for this model may go to this pool. Where an adapter is not loaded, loading it begins."""
        lora = self._managed.get(name)
        if lora is None:
            return True
        fleet = self._fleets().get(pool)
        if fleet is None or fleet.offers.having(name):
            return True
        failed = self._failed.get((pool, name))
        if failed is None or self._clock() >= failed.until:
            self._start(pool, fleet, lora, name, None)
        return False

    def wants(self, name: str) -> None:
        """A request for this model has come: it may wait long for its place, and must find the adapter then."""
        if name in self._managed:
            self._wanted[name] += 1

    def leaves(self, name: str) -> None:
        """It has ended."""
        _less(self._wanted, name)

    def begins(self, pool: str, endpoint: str, name: str) -> None:
        """A request for this model was sent there."""
        if name in self._managed:
            self._used[pool, endpoint, name] = self._clock()
            self._running[pool, endpoint, name] += 1

    def ends(self, pool: str, endpoint: str, name: str, status: int = 200) -> None:
        """It has ended, with this status."""
        if self._running:
            _less(self._running, (pool, endpoint, name))
        if status == 404 and name in self._managed:
            self._doubt(pool, endpoint, name)

    def _doubt(self, pool: str, endpoint: str, name: str) -> None:
        """The endpoint answered that something is not there, and that may be the adapter: it is loaded anew.

        Clients can ask for other things that are not there, so that is done now and then only.
        """
        fleet, now = self._fleets().get(pool), self._clock()
        row = fleet.row_of(endpoint) if fleet is not None else None
        if fleet is None or row is None or name not in fleet.offers.of(row):
            return
        if now >= self._doubted.get((pool, endpoint, name), -math.inf) + FORGET:
            self._doubted[pool, endpoint, name] = now
            fleet.offers.unlearn(row, name)
            self._used.pop((pool, endpoint, name), None)
            self._events.log("warning", "adapter_missing", pool=pool, endpoint=endpoint, adapter=name)

    # --- loading -------------------------------------------------------------------------------------------------

    def _start(self, pool: str, fleet: Fleet, lora: Lora, name: str, row: int | None) -> asyncio.Task[None]:
        """The load of this adapter that runs, or a new one."""
        task = self._loading.get((pool, name))
        if task is None:
            task = asyncio.get_running_loop().create_task(self._load(pool, fleet, lora, name, row))
            self._loading[pool, name] = task
            task.add_done_callback(lambda done: self._ended(pool, name, done))
        return task

    def _ended(self, pool: str, name: str, task: asyncio.Task[None]) -> None:
        del self._loading[pool, name]
        if not task.cancelled():
            task.exception()  # it was told to those who waited, and to the log

    async def _load(self, pool: str, fleet: Fleet, lora: Lora, name: str, row: int | None) -> None:
        try:
            row = self._least(fleet) if row is None else row
            endpoint = fleet.endpoint(row)
            await self._make_room(pool, fleet, row, lora.most)
            body = json.dumps({"lora_name": name, "lora_path": lora.path}).encode()
            page = await self._post(pool, endpoint, LOAD, body)
            said = page.body[:500].decode("utf-8", "replace")
            if page.status >= 300 and ALREADY not in said:
                raise HeadwayError(f"the model server could not load {name!r}: {said}", status=503,
                                   code=NOT_LOADED)  # fmt: skip
        except HeadwayError as error:
            message = f"{name!r} is not loaded: {error.message}" if isinstance(error, UpstreamError) else error.message
            self._failed[pool, name] = _Failed(self._clock() + FORGET, message)
            self._events.log("warning", "adapter_not_loaded", pool=pool, adapter=name, why=error.message)
            raise HeadwayError(message, status=503, code=NOT_LOADED) from None
        self._failed.pop((pool, name), None)
        if fleet.row_of(endpoint.id) == row:
            fleet.offers.learn(row, name)
        self._used[pool, endpoint.id, name] = self._clock()
        self._events.log("info", "adapter_loaded", pool=pool, endpoint=endpoint.id, adapter=name)

    async def _make_room(self, pool: str, fleet: Fleet, row: int, most: int) -> None:
        """Unload what was used longest ago, until one more fits. What is in use or waited for stays, however many."""
        endpoint = fleet.endpoint(row)
        there = [name for name in fleet.offers.of(row) if name in self._managed]
        idle = [name for name in there
                if not (self._running.get((pool, endpoint.id, name)) or self._is_last(fleet, name))]  # fmt: skip
        idle.sort(key=lambda name: self._used.get((pool, endpoint.id, name), 0.0))
        for name in idle[: max(0, len(there) + 1 - most)]:
            fleet.offers.unlearn(row, name)  # first: nothing new goes there
            page = await self._post(pool, endpoint, UNLOAD, json.dumps({"lora_name": name}).encode())
            self._used.pop((pool, endpoint.id, name), None)
            self._events.log("info", "adapter_unloaded", pool=pool, endpoint=endpoint.id, adapter=name,
                             status=page.status)  # fmt: skip

    def _is_last(self, fleet: Fleet, name: str) -> bool:
        """Whether somebody waits for it and nobody else has it."""
        return bool(self._wanted.get(name)) and len(fleet.offers.having(name)) < 2

    # --- where ---------------------------------------------------------------------------------------------------

    def _in_service(self, fleet: Fleet, rows: list[int]) -> list[int]:
        out = (State.DOWN, State.EJECTED)
        return [row for row in rows if not fleet.is_leaving(row) and fleet.health(row).state not in out]

    def _least(self, fleet: Fleet) -> int:
        """Where the next one goes. Raises HeadwayError where nobody is in service."""
        rows = self._in_service(fleet, [row for row, _ in fleet.members()])
        if not rows:
            raise UpstreamError("no model server is there to load it", cause="refused", status=503)
        return min(rows, key=lambda row: (self._count(fleet, row), fleet.requests.item(row)))

    def _relief(self, fleet: Fleet, there: list[int]) -> int | None:
        """An endpoint without it that is so much less busy than those that have it that it pays to load it there."""
        others = self._in_service(fleet, [row for row, _ in fleet.members() if row not in there])
        if not others:
            return None
        idlest = min(others, key=lambda row: fleet.requests.item(row))
        busy = min(fleet.requests.item(row) for row in there)
        return idlest if busy > fleet.requests.item(idlest) + SPREAD else None

    def _count(self, fleet: Fleet, row: int) -> int:
        return len(self._managed.keys() & fleet.offers.of(row))


def _less(counts: Counter[Any], key: object) -> None:
    """One less; what is none is forgotten, since endpoints and names come and go."""
    if counts.get(key, 0) > 1:
        counts[key] -= 1
    else:
        counts.pop(key, None)
