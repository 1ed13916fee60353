"""Which models the endpoints of a pool serve, by their own word: `/v1/models` of those that speak OpenAI's API.

The idea: what stands behind a model that is named `*` is known only to the endpoints. Each is asked when it is first
seen alive and once a minute after that; an endpoint that does not tell is no worse for it, and keeps what it told.
A list is bounded, whatever a server sends.

Left to others: fetching (`fetch`), who shows the names to clients (`front`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from types import MappingProxyType

from gateway.core.types import Endpoint
from gateway.pace import JITTER

PATH = "/v1/models"
ASK_AGAIN = 60.0
MAX_NAMES = 256
MAX_LENGTH = 256
# Kinds of servers that have no such page.
SILENT = frozenset({"http", "triton", "jetstream"})

Get = Callable[[str, Endpoint], Awaitable[bytes]]
"""The body of a page of an endpoint. Raises whatever went wrong."""


class ModelNames:
    """One pool's model names: a `watch` per endpoint, run as a task, cancelled and followed by `forget`."""

    def __init__(self, get: Get, engine_of: Callable[[str], str], random: Random):
        self._get = get
        self._engine_of = engine_of
        self._random = random
        self._names: dict[str, tuple[str, ...]] = {}
        self._alive: dict[str, asyncio.Event] = {}

    @property
    def names(self) -> Mapping[str, tuple[str, ...]]:
        """By endpoint id; an endpoint that has not told is not there. A view."""
        return MappingProxyType(self._names)

    def is_alive(self, endpoint_id: str) -> None:
        """The endpoint has answered a health check: it is worth asking."""
        event = self._alive.get(endpoint_id)
        if event is not None:
            event.set()

    def forget(self, endpoint_id: str) -> None:
        """The endpoint is gone, or another one by the same name."""
        self._names.pop(endpoint_id, None)
        self._alive.pop(endpoint_id, None)

    async def watch(self, endpoint: Endpoint) -> None:
        """Ask it again and again until cancelled."""
        alive = self._alive[endpoint.id] = asyncio.Event()
        await alive.wait()
        while True:
            if self._engine_of(endpoint.id) not in SILENT:
                with contextlib.suppress(Exception):  # whatever a server can think of: its names stay what they were
                    self._names[endpoint.id] = parse_models(await self._get(endpoint.url + PATH, endpoint))
            await asyncio.sleep(ASK_AGAIN * self._random.uniform(1.0 - JITTER, 1.0 + JITTER))


def parse_models(page: bytes) -> tuple[str, ...]:
    """The ids on a `/v1/models` page (`{"data": [{"id": …}]}`), at most `MAX_NAMES`. Raises ValueError for all else.

    An id that is empty, longer than `MAX_LENGTH` or holds control characters is left out.
    """
    try:
        found = json.loads(page)
    except RecursionError as error:
        raise ValueError("the list of models is nested too deeply") from error
    listed = found.get("data") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise ValueError("not a list of models")
    ids = (item.get("id") for item in listed if isinstance(item, dict))
    names = dict.fromkeys(i for i in ids if isinstance(i, str) and 0 < len(i) <= MAX_LENGTH and i.isprintable())
    return tuple(names)[:MAX_NAMES]
