"""Least slack first: who must begin soonest to be in time is served first.

The idea is the earliest deadline first of real-time systems (Liu and Layland, JACM 1973), less the time the request
itself takes, because requests differ in length: what is compared is the last moment at which a turn is of use
(`Waiting.until`). By itself that collapses under overload, when it always serves those that are about to be late; the
room therefore takes out whose moment has passed, and the desk refuses who comes when the queue ahead cannot drain in
time.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

from policies.admission.base import Cell, Order, T, Waiting
from policies.admission.shares import Shares

_SCANNED = 512  # so many are looked at one by one to tell how much is ahead; of more, it is taken to be all
_SLACK = 64  # empty cells that are not worth tidying up


class Deadline(Order[T]):
    """By `until`, or another moment that `key` gives, the earliest first; at one moment in the order they came in."""

    def __init__(self, shares: Shares, key: Callable[[Waiting[T]], float] = lambda waiting: waiting.until):
        self._key = key
        self._heap: list[tuple[float, float, int, int, Cell[T]]] = []
        self._serial = count(1)
        self._count = 0
        self.cost = 0.0

    def push(self, waiting: Waiting[T]) -> None:
        serial = next(self._serial)
        waiting.number = waiting.number or serial
        heappush(self._heap, (self._key(waiting), waiting.since, waiting.number, serial, Cell(waiting)))
        self._count += 1
        self.cost += waiting.cost

    def push_front(self, waiting: Waiting[T]) -> None:
        self.push(waiting)

    def peek(self) -> Waiting[T] | None:
        heap = self._heap
        while heap:
            found = heap[0][4].waiting
            if found is not None:
                return found
            heappop(heap)
        return None

    def pop(self) -> Waiting[T] | None:
        found = self.peek()
        if found is not None:
            heappop(self._heap)
            self.remove(found)
        return found

    def remove(self, waiting: Waiting[T]) -> None:
        Cell.empty(waiting)
        self._count -= 1
        self.cost = self.cost - waiting.cost if self._count else 0.0
        if len(self._heap) > 2 * self._count + _SLACK:
            self._heap = [entry for entry in self._heap if entry[4].waiting is not None]
            heapify(self._heap)

    def leads(self, waiting: Waiting[T]) -> bool:
        first = self.peek()
        return first is None or self._key(waiting) < self._key(first)

    def ahead(self, waiting: Waiting[T]) -> float:
        if self._count > _SCANNED:
            return self.cost
        key = self._key(waiting)
        found = (entry[4].waiting for entry in self._heap if entry[0] <= key)
        return sum(one.cost for one in found if one is not None)

    def __len__(self) -> int:
        return self._count
