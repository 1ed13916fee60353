"""What stands in a queue of the gateway, the rule of its class, and what an admission order is.

An order holds the requests of one class at one pool that wait. It says who is next; it does not say whether there is
room (`judge`, the fleet), nor between classes (`room`). Pure: `now` is a parameter, nothing is awaited, and it may
count on nobody else running during a call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Generic, TypeVar

from gateway.core.grounds import SHARE
from gateway.core.types import Forecast, Request

if TYPE_CHECKING:
    from policies.admission.shares import Shares

T = TypeVar("T")

# A token written costs about as much as two read: a fair measure must not let short prompts with long answers go
# cheap (Sheng et al., "Fairness in Serving Large Language Models", OSDI'24, whose weights these are).
WRITTEN = 2.0


@dataclass(frozen=True, slots=True)
class ClassRule:
    """How one class of traffic waits at a pool. Higher `priority` first; `wait` in seconds.

    `limit`: how many may wait. `reserve`: the share of the pool's places that others may not take. `late`: what becomes
    of a request that can no longer keep its SLO, `refuse` or `serve` (after all that still can). `filler`: the class
    fills what others leave: it never blocks anybody, and its requests do not age. `shadow`: limit, wait and promises
    are looked at, but refuse nobody.
    """

    name: str = "interactive"
    priority: int = 10
    limit: int = 2000
    wait: float = 10.0
    order: str = "fair"
    reserve: float = 0.0
    late: str = "refuse"
    filler: bool = False
    shadow: bool = False


class Waiting(Generic[T]):
    """One request that waits since `since`; `item` is the caller's own.

    `until`: the latest moment at which a turn is of use, `why` the contract's word for the refusal after it. `asks_at`:
    when it must be asked at the latest, because its policy would rather choose later but not after that (infinite where
    it waits for room). `cost`: tokens, those it will write weighing double. `left`: it waits no longer. `late`: it can
    no longer keep its promise. `behind`: it goes after all others of its class, being late or giving way. `cell`: where
    its order keeps it; `number`: its place among those that are equal otherwise. `lacked`: what it waits for, and
    waited for before (words of `gateway.core.grounds`); `forecast`: the last one that would not do.
    """

    __slots__ = ("asks_at", "behind", "cell", "cost", "forecast", "item", "lacked", "late", "left", "number", "request",
                 "since", "until", "why")  # fmt: skip

    def __init__(self, item: T, request: Request, since: float, until: float, why: str = "queue_timeout",
                 asks_at: float = inf):  # fmt: skip
        self.item = item
        self.request = request
        self.since = since
        self.until = until
        self.why = why
        self.asks_at = asks_at
        self.cost = cost(request)
        self.late = self.behind = False
        self.left = False
        self.number = 0
        self.cell: Cell[T] | None = None
        self.lacked: tuple[str, ...] = ()
        self.forecast: Forecast | None = None

    def note(self, lacks: str, forecast: Forecast | None) -> None:
        """It was asked and could not go, for want of this."""
        if lacks not in self.lacked:
            self.lacked = (*self.lacked, lacks)
        self.forecast = forecast or self.forecast

    @property
    def wanted(self) -> tuple[str, ...]:
        """What it waits and waited for, also that its tenant's requests give way."""
        return (SHARE, *self.lacked) if self.behind and not self.late else self.lacked

    @property
    def over_at(self) -> float:
        """When something must become of it."""
        return min(self.until, self.asks_at)


class Cell(Generic[T]):
    """A place in a queue. It is emptied, not taken out, when who stood there leaves from the middle."""

    __slots__ = ("waiting",)

    def __init__(self, waiting: Waiting[T]):
        self.waiting: Waiting[T] | None = waiting
        waiting.cell = self

    @staticmethod
    def empty(waiting: Waiting[T]) -> None:
        """It stands there no longer."""
        if waiting.cell is not None:
            waiting.cell.waiting = None
            waiting.cell = None


def cost(request: Request) -> float:
    """What a request takes of a fleet, in tokens read."""
    return request.prompt_tokens + WRITTEN * request.output_tokens


class Order(ABC, Generic[T]):
    """The socket of the room. Subclass it in a file of its own and add one line to the registry.

    Who is removed from the middle leaves an empty `Cell` there, which is passed over: nothing is searched.
    """

    def __init__(self, shares: Shares):
        """`shares`: who has been served how much lately."""

    @abstractmethod
    def push(self, waiting: Waiting[T]) -> None:
        """It comes to wait."""

    @abstractmethod
    def push_front(self, waiting: Waiting[T]) -> None:
        """It was popped and could not go: it is again where it was, before all that are like it."""

    @abstractmethod
    def peek(self) -> Waiting[T] | None:
        """Who is next."""

    @abstractmethod
    def pop(self) -> Waiting[T] | None:
        """Take out who is next."""

    @abstractmethod
    def remove(self, waiting: Waiting[T]) -> None:
        """It no longer stands in this queue, wherever it stood."""

    @abstractmethod
    def leads(self, waiting: Waiting[T]) -> bool:
        """Whether this one, not pushed yet, would be the next."""

    @abstractmethod
    def ahead(self, waiting: Waiting[T]) -> float:
        """The cost of those that would be served before this one, not pushed yet."""

    @abstractmethod
    def __len__(self) -> int:
        """How many wait."""
