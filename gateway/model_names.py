"""Which models the endpoints of a pool serve, by their own word: `/v1/models` of those that speak OpenAI's API.

The idea: what stands behind a model that is named `*`, which adapters a server has loaded and how long a prompt may be
is known only to the endpoints. Each is asked when it is first seen alive, when it comes back, and once a minute after
that; an endpoint that does not tell is no worse for it, and keeps what it told. A list is bounded, whatever a server
sends.

Left to others: fetching (`fetch`), who shows the names to clients (`front`), who may serve what (`core.offers`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import NamedTuple

from gateway.core.types import Endpoint
from gateway.pace import JITTER

PATH = "/v1/models"
ASK_AGAIN = 60.0
MAX_NAMES = 256
MAX_LENGTH = 256
MAX_CONTEXT = 1 << 40
# Kinds of servers that have no such page.
SILENT = frozenset({"http", "triton", "jetstream"})


class Served(NamedTuple):
    """A model as its server describes it; `context` is the most tokens of prompt and answer together (0: not said)."""

    name: str
    context: int = 0


Told = Callable[[str, Sequence[Served]], None]
"""Called with an endpoint's id and what it says it serves."""
Get = Callable[[str, Endpoint], Awaitable[bytes]]
"""The body of a page of an endpoint. Raises whatever went wrong."""


class ModelNames:
    """One pool's model names: a `watch` per endpoint, run as a task, cancelled and followed by `forget`."""

    def __init__(self, get: Get, engine_of: Callable[[str], str], random: Random,
                 told: Told = lambda endpoint_id, served: None):  # fmt: skip
        self._get = get
        self._told = told
        self._engine_of = engine_of
        self._random = random
        self._names: dict[str, tuple[str, ...]] = {}
        self._alive: dict[str, asyncio.Event] = {}
        self._again: dict[str, asyncio.Event] = {}

    @property
    def names(self) -> Mapping[str, tuple[str, ...]]:
        """By endpoint id; an endpoint that has not told is not there. A view."""
        return MappingProxyType(self._names)

    def is_alive(self, endpoint_id: str) -> None:
        """The endpoint has answered a health check: it is worth asking."""
        event = self._alive.get(endpoint_id)
        if event is not None:
            event.set()

    def ask_again(self, endpoint_id: str) -> None:
        """It may serve something else by now."""
        event = self._again.get(endpoint_id)
        if event is not None:
            event.set()

    def forget(self, endpoint_id: str) -> None:
        """The endpoint is gone, or another one by the same name."""
        self._names.pop(endpoint_id, None)
        self._alive.pop(endpoint_id, None)
        self._again.pop(endpoint_id, None)

    async def watch(self, endpoint: Endpoint) -> None:
        """Ask it again and again until cancelled."""
        alive = self._alive[endpoint.id] = asyncio.Event()
        again = self._again[endpoint.id] = asyncio.Event()
        await alive.wait()
        while True:
            again.clear()
            if self._engine_of(endpoint.id) not in SILENT:
                with contextlib.suppress(Exception):  # whatever a server can think of: its names stay what they were
                    served = parse_models(await self._get(endpoint.url + PATH, endpoint))
                    if again.is_set():  # something was done meanwhile that this list may not show yet
                        continue
                    self._names[endpoint.id] = tuple(one.name for one in served)
                    self._told(endpoint.id, served)
            with contextlib.suppress(TimeoutError):  # (not `wait_for`: that of 3.11 may swallow a cancellation)
                async with asyncio.timeout(ASK_AGAIN * self._random.uniform(1.0 - JITTER, 1.0 + JITTER)):
                    await again.wait()


def parse_models(page: bytes) -> tuple[Served, ...]:
    """What a `/v1/models` page lists (`{"data": [{"id": …, "max_model_len": …}]}`), at most `MAX_NAMES`, each id once.

    Raises ValueError for all else. An id that is empty, longer than `MAX_LENGTH` or holds control characters is left
    out.
    """
    try:
        found = json.loads(page)
    except RecursionError as error:
        raise ValueError("the list of models is nested too deeply") from error
    listed = found.get("data") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise ValueError("not a list of models")
    served: dict[str, Served] = {}
    for item in listed:
        name = item.get("id") if isinstance(item, dict) else None
        if isinstance(name, str) and 0 < len(name) <= MAX_LENGTH and name.isprintable() and len(served) < MAX_NAMES:
            served.setdefault(name, Served(name, _context(item.get("max_model_len"))))
    return tuple(served.values())


def _context(said: object) -> int:
    return said if isinstance(said, int) and not isinstance(said, bool) and 0 < said < MAX_CONTEXT else 0
