"""The tenant that has been served least goes next, so that one tenant cannot crowd out another.

Within a tenant it is first come, first served. What a tenant has been served is kept by `shares`, in tokens, and is
charged when a request is dispatched and not when it is popped: so what went at once counts too, and a request that was
popped in vain costs nothing. Between two tenants that both wait, what they get differs by at most one request.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count

from policies.admission.base import Cell, Order, T, Waiting
from policies.admission.shares import Shares


class _Line(deque[Cell[T]]):
    """The requests of one tenant."""

    __slots__ = ("cost", "live", "tenant")

    def __init__(self, tenant: str) -> None:
        super().__init__()
        self.tenant = tenant
        self.live = 0
        self.cost = 0.0


class Fair(Order[T]):
    """By what the tenant has used, the least first."""

    def __init__(self, shares: Shares):
        self._shares = shares
        self._lines: dict[str, _Line[T]] = {}
        # Tenants by what they had used when they were put here. That only grows, so an outdated entry is too far in
        # front, never too far behind, and is corrected when it comes up.
        self._heap: list[tuple[float, int, str]] = []
        self._era = shares.era
        self._serial = count()
        self._count = 0

    def push(self, waiting: Waiting[T]) -> None:
        self._line(waiting.request.tenant).append(Cell(waiting))
        self._come(waiting)

    def push_front(self, waiting: Waiting[T]) -> None:
        self._line(waiting.request.tenant).appendleft(Cell(waiting))
        self._come(waiting)

    def peek(self) -> Waiting[T] | None:
        line = self._first()
        return line[0].waiting if line is not None else None

    def pop(self) -> Waiting[T] | None:
        found = self.peek()
        if found is not None:
            self.remove(found)
        return found

    def remove(self, waiting: Waiting[T]) -> None:
        Cell.empty(waiting)
        self._count -= 1
        line = self._lines[waiting.request.tenant]
        line.live -= 1
        line.cost = line.cost - waiting.cost if line.live else 0.0

    def leads(self, waiting: Waiting[T]) -> bool:
        line = self._first()
        if line is None:
            return True
        tenant = waiting.request.tenant
        own = self._lines.get(tenant)
        if own is not None and own.live:
            return False
        return self._shares.used(tenant) < self._shares.used(line.tenant)

    def ahead(self, waiting: Waiting[T]) -> float:
        """Each tenant goes before this one until it has been served as much as this one then will have been."""
        tenant, shares, now = waiting.request.tenant, self._shares, waiting.since
        own = self._lines.get(tenant)
        before = own.cost if own is not None else 0.0
        level = shares.tokens(shares.used(tenant), now) + before
        for name, line in self._lines.items():
            if line.live and name != tenant:
                before += min(line.cost, max(0.0, level - shares.tokens(shares.used(name), now)))
        return before

    def __len__(self) -> int:
        return self._count

    def _line(self, tenant: str) -> _Line[T]:
        line = self._lines.get(tenant)
        if line is None:
            line = self._lines[tenant] = _Line(tenant)
            heappush(self._heap, (self._shares.used(tenant), next(self._serial), tenant))
        return line

    def _come(self, waiting: Waiting[T]) -> None:
        self._count += 1
        line = self._lines[waiting.request.tenant]
        line.live += 1
        line.cost += waiting.cost

    def _first(self) -> _Line[T] | None:
        """The line of the tenant that is next; lines in which nobody waits are dropped."""
        heap, shares = self._heap, self._shares
        if self._era != shares.era:
            self._era = shares.era
            heap[:] = [(shares.used(tenant), serial, tenant) for _, serial, tenant in heap]
            heapify(heap)
        while heap:
            then, serial, tenant = heap[0]
            line = self._lines[tenant]
            while line and line[0].waiting is None:
                line.popleft()
            if not line:
                heappop(heap)
                del self._lines[tenant]
                continue
            used = shares.used(tenant)
            if used == then:
                return line
            heapreplace(heap, (used, serial, tenant))
        return None
