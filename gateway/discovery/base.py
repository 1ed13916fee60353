"""What a source of endpoints is: `watch()` gives the whole set of a pool's endpoints, each time it changes.

The idea: a whole set, never a difference, so whoever follows it needs no history and nothing can drift. The first set
comes as soon as it is known; it is empty if the source cannot be read yet. A source that fails later keeps its last
good set and reports why: losing sight of servers is no reason to stop using them.

Left to others: taking endpoints in and draining them out (`prober`, the fleet), whether they are healthy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Protocol
from urllib.parse import urlsplit

from gateway.core.types import Endpoint

Report = Callable[[str], object]
"""Told what is wrong, in words for a log, once each time it changes."""

LINK_LOCAL = tuple(ip_network(text) for text in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128"))
"""Where clouds keep machine credentials: a name that leads there must not make the gateway fetch them for a client."""


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


def is_forbidden(address: str) -> bool:
    """Whether a *resolved* address is none that a model server can have: link-local, multicast, unspecified."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    inside = any(ip in network for network in LINK_LOCAL if network.version == ip.version)
    return inside or ip.is_multicast or ip.is_unspecified
