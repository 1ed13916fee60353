"""What a source of endpoints is: `watch()` gives the whole set of a pool's endpoints, each time it changes.

The idea: a whole set, never a difference, so whoever follows it needs no history and nothing can drift. The first set
comes as soon as it is known; it is empty if the source cannot be read yet. A source that fails later keeps its last
good set and reports why: losing sight of servers is no reason to stop using them.

Left to others: taking endpoints in and draining them out (`prober`, the fleet), whether they are healthy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import Protocol
from urllib.parse import urlsplit

from gateway.core.types import Endpoint

Report = Callable[[str], object]
"""Told what is wrong, in words for a log, once each time it changes."""


class Listed(Protocol):
    """One endpoint as a file names it. `url` has no trailing slash; `id` None means host:port and path."""

    @property
    def url(self) -> str: ...
    @property
    def id(self) -> str | None: ...
    @property
    def max_concurrency(self) -> int | None: ...
    @property
    def labels(self) -> Mapping[str, str]: ...


class Discovery(ABC):
    """The socket of the room. Subclass it in a file of its own and add one line to the registry."""

    def __init__(self, pool: str, engine: str, report: Report) -> None:
        self.pool = pool
        self.engine = engine
        self.report = report

    @abstractmethod
    def watch(self) -> AsyncGenerator[tuple[Endpoint, ...], None]:
        """The whole set, each time it changes. Ends when nothing can change any more. Never blocks the loop."""

    def endpoints(self, listed: Iterable[Listed]) -> tuple[Endpoint, ...]:
        """The endpoints of this pool that a file lists."""
        return tuple(
            Endpoint(
                id=one.id or endpoint_id(one.url),
                url=one.url,
                pool=self.pool,
                engine=self.engine,
                labels=dict(one.labels),
                max_concurrency=one.max_concurrency,
            )
            for one in listed
        )


def endpoint_id(url: str) -> str:
    """`host:port` of a URL, and its path where it has one."""
    parts = urlsplit(url)
    return f"{parts.netloc}{parts.path.rstrip('/')}"
