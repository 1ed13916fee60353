"""Requests that wait at a gateway of the lab for a better choice: who is asked again when, and in which order.

The idea is late binding (Sparrow, SOSP'13): a place is taken when there is room and not when the request comes. A
policy says with `Decision.wait` that it would rather choose later; the request is then held here and asked again when
something has changed (a first token came, a place was given back), or for the last time when its time is over. Earliest
deadline first, the deadline being arrival plus the promised TTFT; without promises that is first come, first served.

A change lets in few, so it asks few again (`ASKED`): asking all would cost most exactly when most are held.

It is what the lab's plain router has, where policies are compared without admission; the gateway, and the lab behind
the production desk, have `policies.admission`. Pure: no clock, no futures. Left to others: picking again, and waking up
at `next_at`.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import Generic, NamedTuple, TypeVar

from gateway.core.types import Request

# How many are asked again when something has changed.
ASKED = 4
# What is taken as the promised TTFT, in seconds, where nothing is: it only orders those with and without a promise.
UNPROMISED = 1.0

T = TypeVar("T")


class Held(NamedTuple, Generic[T]):
    """One that is held, no longer than `until`; `item` is the caller's own."""

    item: T
    request: Request
    until: float


class Holding(Generic[T]):
    """The requests held of one pool. Not thread-safe; one event loop owns it."""

    def __init__(self) -> None:
        self._held: dict[int, Held[T]] = {}
        self._by_deadline: list[tuple[float, int]] = []
        self._by_until: list[tuple[float, int]] = []
        self._tickets = 0
        self._changed = False

    def __len__(self) -> int:
        return len(self._held)

    @property
    def next_at(self) -> float:
        """When somebody's time is over; infinite while nobody is held."""
        while self._by_until and self._by_until[0][1] not in self._held:
            heappop(self._by_until)
        return self._by_until[0][0] if self._by_until else math.inf

    def push(self, item: T, request: Request, until: float) -> int:
        """Hold it until then at most. Returns a ticket for `cancel`."""
        self._tickets = ticket = self._tickets + 1
        promised = request.ttft_slo if request.ttft_slo == request.ttft_slo else UNPROMISED
        self._held[ticket] = Held(item, request, until)
        heappush(self._by_deadline, (request.arrived + promised, ticket))
        heappush(self._by_until, (until, ticket))
        return ticket

    def cancel(self, ticket: int) -> bool:
        """It waits no longer. False if it had been handed out already."""
        return self._held.pop(ticket, None) is not None

    def wake(self) -> None:
        """A first token came or a place was given back: a choice made now may be better than the last."""
        self._changed = bool(self._held)

    def due(self, now: float) -> list[Held[T]]:
        """Whom to ask now; they are held no longer. Those with `until` <= now must take what they are given.

        The others are the most urgent, at most `ASKED`, if something has changed since the last call; who would still
        rather wait is pushed again, with the same `until` or an earlier one.
        """
        found = []
        while self._held and self.next_at <= now:
            found.append(self._held.pop(heappop(self._by_until)[1]))
        if self._changed:
            self._changed = False
            found += self._most_urgent()
        return found

    def _most_urgent(self) -> list[Held[T]]:
        found: list[Held[T]] = []
        while self._by_deadline and len(found) < ASKED:
            held = self._held.pop(heappop(self._by_deadline)[1], None)
            if held is not None:
                found.append(held)
        return found
