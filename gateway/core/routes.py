"""Where a model's requests go, as values: rules, splits, mirrors and canaries.

The idea: they stand in the core because the file is read into them (`gateway.config`) and the rules are evaluated over
them (`policies.routing`), and neither knows the other. Frozen, checked before they are made; seconds and shares (0 to
1) are floats. A model always has routes; `to:` in the file is the short form of one.

Left to others: evaluating rules and drawing arms (`policies.routing`), judging canaries (`policies.routing.judge`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

StickyBy = Literal["header", "key", "session", "user"]
Days = frozenset[int]


@dataclass(frozen=True, slots=True)
class Text:
    """What a text must be: any of `exact`, or begun by any of `prefix`, or matched whole by any of `regex`.

    And not `unlike`, where that is given. With none of the three, any text that is there.
    """

    exact: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    regex: tuple[str, ...] = ()
    unlike: Text | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of a prompt: `at_least` and `below`; None: no bound."""

    at_least: int | None = None
    below: int | None = None


@dataclass(frozen=True, slots=True)
class Hours:
    """A part of each of `days` (0 is Monday; none: all) in `zone`: seconds of the day.

    `until` before `since`: over midnight, on the day it began.
    """

    since: int = 0
    until: int = 86_400
    days: Days = frozenset()
    zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class When:
    """What a request must be like for a rule; all that is given must hold. Header names are in lower case."""

    header: Mapping[str, Text] = field(default_factory=dict)
    path: Text | None = None
    key: Text | None = None
    """`sha256:` and the hexadecimal digest of the client's key."""
    tenant: Text | None = None
    klass: Text | None = None
    name: Text | None = None
    """The model as the client spelt it: an alias, or what a pattern matched."""
    prompt: Span | None = None
    """As estimated before the request is sent."""
    stream: bool | None = None
    hours: Hours | None = None


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of a split, or the only one of a route (its `name` is then empty)."""

    name: str
    to: str
    """The name of its pool."""
    weight: float = 1.0
    """Relative to the others'. The arm of a canary has none of its own: its share is the current step."""
    as_: str | None = None
    """What its endpoints call the model; None: as the model says."""
    fallback: tuple[str, ...] = ()
    """Pools to use instead; the route's, where the arm names none."""


@dataclass(frozen=True, slots=True)
class Sticky:
    """What keeps a user on an arm: a header's value, the key, the session, or the body's `user`."""

    by: StickyBy
    header: str = ""
    salt: str = ""
    """Another salt deals everybody anew."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """A share of the requests is copied to the pool `to`: at most `concurrency` at once, the others are left out."""

    to: str
    share: float
    as_: str | None = None
    concurrency: int = 8


@dataclass(frozen=True, slots=True)
class Margin:
    """How much worse a canary may be and still be promoted: shares of latency, and points (0 to 1) of failures."""

    ttft: float = 0.10
    tpot: float = 0.10
    errors: float = 0.005


@dataclass(frozen=True, slots=True)
class CanaryRule:
    """The share of `arm` goes up in `steps`, each held for `hold` seconds at least, while it is no worse than `margin`.

    `risk`: the chance, over the whole rollout, of rolling back one that is as good, and of promoting one that is not.
    """

    arm: str
    steps: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5, 1.0)
    hold: float = 600.0
    margin: Margin = Margin()
    risk: float = 0.05
    paused: bool = False
    """It begins at its first step and stays there until somebody says otherwise."""


@dataclass(frozen=True, slots=True)
class Route:
    """One rule: for the requests that `when` describes, these arms. The first rule that fits is used."""

    arms: tuple[Arm, ...]
    name: str = ""
    """What it is called in records and commands; without one, `routes[N]`."""
    when: When = When()
    fallback: tuple[str, ...] = ()
    fallback_after: float = 0.5
    """Seconds a full pool is waited for before a fallback is used; an unhealthy one is left at once."""
    cheapest: bool = False
    """Of its pools, the one of the least `cost` that keeps the promises comes first."""
    sticky: Sticky | None = None
    mirror: Mirror | None = None
    canary: CanaryRule | None = None
    shadow: bool = False
    """It is evaluated and counted, and the next one is used."""
