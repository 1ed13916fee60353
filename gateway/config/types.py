"""The configuration as values: frozen dataclasses that every other part is given.

The idea: the file is read and checked once (`gateway.config.loader`), then frozen. Nothing here parses, and nothing
here can be half valid: whoever holds a `Config` holds one that was checked whole. Units are always the same: seconds
(float) for durations, bytes (int) for sizes, 0 to 1 (float) for shares. Values compare by content, so a reload can ask
which parts changed.

Left to others: reading YAML (`loader`), the description of each key (`spec`), matching a client's model name to a
`Model` (`names`). Models stand in `routing`, their rules in `gateway.core.routes`, classes, keys and jobs in `traffic`;
all are handed on here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

from gateway.config.routing import ANY_MODEL, Capture, Layout, Lora, Model, Slo, model_to, one_route
from gateway.config.secret import Secret
from gateway.config.traffic import (
    FillerRule,
    Jobs,
    Key,
    KeyLimits,
    QueueRule,
    Rate,
    Shared,
    TrafficClass,
    default_classes,
)
from gateway.core.routes import (
    Arm,
    CanaryRule,
    Hours,
    Margin,
    Mirror,
    Route,
    Span,
    Sticky,
    StickyBy,
    Text,
    When,
)

Usage = Literal["auto", "inject"]
ModelSource = Literal["body", "path", "header", "default"]
LogLevel = Literal["debug", "info", "warning", "error"]
Expose = Literal["url", "id"]

__all__ = (
    "ANY_MODEL", "Admin", "Arm", "CanaryRule", "Capture", "Config", "Decisions", "Dns", "Drain", "Eject",
    "EndpointSpec", "Expose", "FillerRule", "HealthCheck", "Hours", "Jobs", "Key", "KeyLimits", "Layout", "Limits",
    "Listen", "Log", "LogLevel", "Lora", "Margin", "Mirror", "Model", "ModelFrom", "ModelSource", "PathRule",
    "Pick", "Pool", "QueueRule", "Rate", "Retry", "Route", "Scrape", "Secret", "Shared", "Slo", "Span", "Sticky",
    "StickyBy", "Text", "Timeouts", "Tls", "TrafficClass", "UpstreamTls", "Usage", "When", "default_classes",
    "model_to", "one_route",
)  # fmt: skip

@dataclass(frozen=True, slots=True)
class Tls:
    """The listener's certificate, its key, and (for client certificates) who signs the clients'. File paths."""

    cert: str
    key: str
    client_ca: str | None = None


@dataclass(frozen=True, slots=True)
class Listen:
    """Where clients connect. `host` has no brackets; `port` 0 lets the system choose."""

    host: str = "127.0.0.1"
    port: int = 8080
    tls: Tls | None = None


@dataclass(frozen=True, slots=True)
class Admin:
    """Where operators connect. Without a token, `host` is a loopback address (the loader sees to it)."""

    host: str = "127.0.0.1"
    port: int = 9090
    token: Secret | None = None


@dataclass(frozen=True, slots=True)
class Drain:
    """Stopping: new connections are still accepted for `delay`, streams may go on for `timeout` after it. Seconds."""

    delay: float = 5.0
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One model server written in the file. `url` is `scheme://host:port` and a path prefix, without a last slash."""

    url: str
    id: str | None = None
    """What it is called in logs and metrics; None: host:port and path."""
    max_concurrency: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dns:
    """Endpoints are the addresses of `name`, asked again `every` seconds."""

    name: str
    port: int
    every: float = 30.0


@dataclass(frozen=True, slots=True)
class Pick:
    """A picking policy by name (or `module:Class`) and the keyword arguments for it."""

    policy: str = "least_tokens"
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """TLS towards the endpoints: whom to believe, who we are. File paths. `insecure` believes anyone."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long an endpoint may take, in seconds. A plain answer is bound by `connect` and `total` alone."""

    connect: float = 2.0
    first_token: float = 60.0
    between_tokens: float = 30.0
    total: float = 1800.0


@dataclass(frozen=True, slots=True)
class Retry:
    """`tries` counts dispatches, the first included; `budget`: the share of live requests that may be further ones."""

    tries: int = 2
    budget: float = 0.2


@dataclass(frozen=True, slots=True)
class Eject:
    """Ejected after `after` failures in a row, for `base` seconds growing to `max`; at most the share `at_most`."""

    after: int = 5
    base: float = 30.0
    max: float = 300.0
    at_most: float = 0.5


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """The active probe: `path` (None: the engine's own) `every` so many seconds."""

    path: str | None = None
    every: float = 2.0


@dataclass(frozen=True, slots=True)
class Scrape:
    """How often an endpoint's load is read and how long that may take. Seconds."""

    every: float = 1.0
    timeout: float = 0.5


@dataclass(frozen=True, slots=True)
class Pool:
    """Model servers that can stand in for one another. Exactly one of `endpoints`, `dns` and `file` is given."""

    name: str
    engine: str = "auto"
    endpoints: tuple[EndpointSpec, ...] = ()
    dns: Dns | None = None
    file: str | None = None
    pick: Pick = Pick()
    api_key: Secret | None = None
    tls: UpstreamTls | None = None
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()
    eject: Eject = Eject()
    health: HealthCheck = HealthCheck()
    scrape: Scrape = Scrape()
    usage: Usage = "auto"
    profile: str | None = None
    """The GPU and model that the predictor starts from; None: it starts from a neutral guess."""
    keepalive: float = 4.0
    """Seconds an idle upstream connection is kept: below the 5 s after which common model servers close theirs."""
    max_concurrency: int | None = None
    """Requests in flight in the whole pool; None: as many as its endpoints take."""
    priority: bool = False
    """Its engines schedule by priority: they are told each request's."""
    cost: float = 1.0
    """What a request costs here, relative to the other pools: what `cheapest` looks at."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may ask of us. Sizes in bytes, times in seconds."""

    body: int = 32 << 20
    file: int = 200 << 20
    """One uploaded file; it is never held in memory."""
    buffered: int = 1 << 30
    """All bodies held in memory at once."""
    headers: int = 64 << 10
    header_count: int = 128
    target: int = 8 << 10
    connections: int = 10_000
    header_time: float = 10.0
    body_idle: float = 30.0
    idle: float = 75.0
    write_stall: float = 60.0
    """How long a client may take nothing of a waiting answer before it is dropped."""


@dataclass(frozen=True, slots=True)
class ModelFrom:
    """Where a path's requests name their model: `name` is the header's, or the default model's; else None."""

    source: ModelSource = "body"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class PathRule:
    """One more inference path. With `model_from.source == "path"` it holds `{model}` as one whole segment."""

    path: str
    model_from: ModelFrom = ModelFrom()


@dataclass(frozen=True, slots=True)
class Log:
    level: LogLevel = "info"


@dataclass(frozen=True, slots=True)
class Decisions:
    """How many decision records are kept in memory, and the file they are appended to, if any."""

    keep: int = 10_000
    file: str | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration, checked. Relative paths in the file were resolved against the file's folder."""

    pools: Mapping[str, Pool]
    models: Mapping[str, Model]
    version: int = 1
    listen: Listen = Listen()
    admin: Admin = Admin()
    state: str | None = None
    """The folder where what was learnt is kept; None: it is forgotten at the end."""
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    drain: Drain = Drain()
    classes: Mapping[str, TrafficClass] = field(default_factory=default_classes)
    """By name; exactly one is the default."""
    jobs: Jobs | None = None
    shared: Shared | None = None
    keys: tuple[Key, ...] = ()
    limits: Limits = Limits()
    paths: tuple[PathRule, ...] = ()
    log: Log = Log()
    decisions: Decisions = Decisions()
    expose: Expose = "url"
    digest: str = ""
    """SHA-256 (hex) of the effective configuration: equal digests, equal behaviour."""
    source: str | None = None
    """The file it was read from; None when it was made from URLs."""
