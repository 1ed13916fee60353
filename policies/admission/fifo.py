"""First come, first served."""

from __future__ import annotations

from collections import deque

from policies.admission.base import Cell, Order, T, Waiting
from policies.admission.shares import Shares


class Fifo(Order[T]):
    """In the order in which they came."""

    def __init__(self, shares: Shares):
        self._line: deque[Cell[T]] = deque()
        self._count = 0
        self._cost = 0.0

    def push(self, waiting: Waiting[T]) -> None:
        self._line.append(Cell(waiting))
        self._come(waiting)

    def push_front(self, waiting: Waiting[T]) -> None:
        self._line.appendleft(Cell(waiting))
        self._come(waiting)

    def peek(self) -> Waiting[T] | None:
        line = self._line
        while line:
            found = line[0].waiting
            if found is not None:
                return found
            line.popleft()
        return None

    def pop(self) -> Waiting[T] | None:
        found = self.peek()
        if found is not None:
            self.remove(found)
        return found

    def remove(self, waiting: Waiting[T]) -> None:
        Cell.empty(waiting)
        self._count -= 1
        self._cost = self._cost - waiting.cost if self._count else 0.0
        if not self._count:
            self._line.clear()

    def leads(self, waiting: Waiting[T]) -> bool:
        return not self._count

    def ahead(self, waiting: Waiting[T]) -> float:
        return self._cost

    def __len__(self) -> int:
        return self._count

    def _come(self, waiting: Waiting[T]) -> None:
        self._count += 1
        self._cost += waiting.cost
