"""Who asks and for what, as values: kinds of traffic, clients' keys and their limits, asynchronous work.

The idea: the same as in `types`, which hands all of these on (import them from there): frozen, checked before they are
made, seconds and shares as floats.

Left to others: who belongs to which class (`gateway.classes`), queues (`policies.admission`), counting (`limits`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gateway.config.secret import Secret

Order = Literal["fifo", "deadline", "fair"]
Late = Literal["refuse", "serve"]
Reserving = Literal["learnt", "max_tokens"]
WhenLost = Literal["local", "refuse"]


@dataclass(frozen=True, slots=True)
class QueueRule:
    """How a class waits: at most `limit` requests in a pool, each at most `wait` seconds, whose turn is next."""

    limit: int = 2000
    wait: float = 10.0
    order: Order = "fair"


@dataclass(frozen=True, slots=True)
class FillerRule:
    """The class fills what `protect` leaves, and slows it down by no more than the share `slowdown`."""

    protect: str = "interactive"
    slowdown: float = 0.05
    promote: bool = False
    """May run as the protected class when its deadlines come near."""
    aborts: int = 3
    """The most times one piece of its work may be stopped, to make room, and queued again."""


@dataclass(frozen=True, slots=True)
class TrafficClass:
    """A kind of traffic. Higher `priority` goes first; equal ones are served as they come."""

    name: str
    default: bool = False
    priority: int = 0
    queue: QueueRule = QueueRule()
    filler: FillerRule | None = None
    """None: it fills nothing, it has a right of its own."""
    reserve: float = 0.0
    """The share of a pool's places that is kept for this class."""
    late: Late = "refuse"
    """What happens to a request that can no longer keep its SLO; one that cannot keep its deadline is refused."""
    shadow: bool = False
    """Its limits are evaluated and counted, and refuse nobody."""


def default_classes() -> Mapping[str, TrafficClass]:
    """The classes of a file without `classes:`: people who wait for an answer, and work that fills the gaps."""
    return {
        "interactive": TrafficClass("interactive", True, 10),
        "async": TrafficClass("async", queue=QueueRule(100_000, 86_400.0, "deadline"), filler=FillerRule()),
    }


@dataclass(frozen=True, slots=True)
class Rate:
    """`amount` in every `per` seconds."""

    amount: float
    per: float


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What one key may use; None: as much as it likes. Tokens are those of prompts and answers together."""

    requests: Rate | None = None
    tokens: Rate | None = None
    concurrency: int | None = None
    """Requests at once."""
    tokens_per_day: int | None = None
    reserve: Reserving = "learnt"
    """What an answer counts before its length is known: what such answers came to, or the most it may have."""
    shadow: bool = False
    """They are evaluated and counted, and refuse nobody."""


@dataclass(frozen=True, slots=True)
class Key:
    """A client's key: `digest` is the 32 bytes of its SHA-256, the key itself is not kept. `models` None: all."""

    digest: bytes = field(repr=False)
    tenant: str = "anonymous"
    models: frozenset[str] | None = None
    classes: frozenset[str] | None = None
    """The classes its requests may ask for; None: all."""
    default_class: str | None = None
    """The class of a request that asks for none, where that is not the default of all."""
    limits: KeyLimits | None = None
    arms: frozenset[str] = frozenset()
    """The arms that its requests may ask for by name; `*` is any."""


@dataclass(frozen=True, slots=True)
class Jobs:
    """Asynchronous work. `store` is `sqlite:` and an absolute path, or a `redis://` or `rediss://` URL."""

    store: Secret
    """Secret because the URL of a Redis may have a password in it."""
    klass: str = "async"
    retention: float = 30 * 86_400.0
    """Seconds for which files and results are kept after the work has ended."""
    callbacks: tuple[str, ...] = ()
    """Hosts that may be called, in lower case; `*.example.com` is every host below `example.com`, not itself."""
    secret: Secret | None = None
    """Signs callbacks; None: they are not signed."""


@dataclass(frozen=True, slots=True)
class Shared:
    """The Redis in which gateways count together, and what happens to limits when it cannot be reached.

    `local`: each gateway counts for itself; `refuse`: requests of keys with limits are refused.
    """

    url: Secret
    when_lost: WhenLost = "local"
