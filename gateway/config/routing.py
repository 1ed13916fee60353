"""A model as a value: its names, where it leads, whether it is an adapter, and what is captured of its traffic.

The idea: the same as in `types`, which hands these on (import them from there). Rules, splits and canaries are values
of `gateway.core.routes`, because they are evaluated where the configuration is not known; a model always has at least
one, and `to:` in the file is the short form of one with a single arm.

Left to others: reading them (`spec_routes`), what must agree with what (`check_routes`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from gateway.core.routes import Arm, Route

Layout = Literal["headway", "sagemaker"]
ANY_MODEL = "*"
"""The name of the model that stands for every name not configured otherwise."""


@dataclass(frozen=True, slots=True)
class Slo:
    """The latency promised: to the first token, and per token after it. Seconds; None: no promise."""

    ttft: float | None = None
    tpot: float | None = None


@dataclass(frozen=True, slots=True)
class Lora:
    """The model is an adapter: `path` is where the model servers find it; None: it is there already.

    With a path it is loaded on demand, at most `most` adapters on a server, the least recently used one goes.
    """

    path: str | None = None
    most: int = 4


@dataclass(frozen=True, slots=True)
class Capture:
    """Which requests and answers of a model are kept, and how. Off without it.

    `share` of the requests; the JSON `fields` of both that are kept (none named: all); secrets and personal data are
    replaced where `redact`; at most `body` bytes of each; `file` begins anew after `rotate` bytes, `keep` old stay.
    """

    file: str
    share: float = 0.01
    fields: tuple[str, ...] = ()
    redact: bool = True
    body: int = 64 << 10
    rotate: int = 64 << 20
    keep: int = 5
    layout: Layout = "headway"


@dataclass(frozen=True, slots=True)
class Model:
    """A model that clients can ask for: by `name`, by an exact alias, or by a pattern in which `*` is any run."""

    name: str
    routes: tuple[Route, ...]
    """At least one. Their arms have the route's fallback where they name none of their own."""
    aliases: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    as_: str | None = None
    """What the endpoints call it; None: its own name. An arm's own `as_` comes first."""
    slo: Slo = Slo()
    klass: str | None = None
    """The class of its requests where neither the key nor the request says otherwise; None: the default one."""
    lora: Lora | None = None
    capture: Capture | None = None
    max_context: int | None = None
    """Tokens of prompt and answer together; None: what the endpoints say."""

    @property
    def pools(self) -> tuple[str, ...]:
        """The pools that may answer for it, each once, in the order of the file: not mirrors', not shadow rules'."""
        return tuple(dict.fromkeys(pool for route in self.routes if not route.shadow
                                   for arm in route.arms for pool in (arm.to, *arm.fallback)))  # fmt: skip

    def upstream_name(self, asked: str, arm: Arm | None = None) -> str:
        """The model name to send to an endpoint of `arm` when a client asked for `asked`."""
        if arm is not None and arm.as_ is not None:
            return arm.as_
        if self.as_ is not None:
            return self.as_
        return asked if self.name == ANY_MODEL else self.name


_PLAIN = Route(())


def one_route(to: str, fallback: tuple[str, ...] = (), fallback_after: float = _PLAIN.fallback_after) -> Route:
    """What `to:` is short for: one rule without conditions, with one arm without a name."""
    return Route((Arm("", to, fallback=fallback),), fallback=fallback, fallback_after=fallback_after)


def model_to(name: str, to: str, fallback: tuple[str, ...] = (), fallback_after: float = _PLAIN.fallback_after,
             **more: Any) -> Model:  # fmt: skip
    """A model that leads to one pool."""
    return Model(name, (one_route(to, fallback, fallback_after),), **more)
