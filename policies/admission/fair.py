"""The tenant that has been served least goes next, so that one tenant cannot crowd out another.

Within a tenant, who was promised the earliest first token goes first: that orders its own requests and not those of
others. (Not who has least slack: long prompts would go before short ones, and in an overload fewer would be in time.)
What a tenant has been served is kept by `shares`, in tokens, and is charged when a request is dispatched and not when
it is popped: so what went at once counts too, and a request that was popped in vain costs nothing. Between two tenants
that both wait, what they get differs by at most one request.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from itertools import count

from policies.admission.base import Order, T, Waiting
from policies.admission.deadline import Deadline
from policies.admission.shares import Shares


class Fair(Order[T]):
    """By what the tenant has used, the least first."""

    def __init__(self, shares: Shares):
        self._shares = shares
        self._lines: dict[str, Deadline[T]] = {}
        # Tenants by what they had used when they were put here. That only grows, so an outdated entry is too far in
        # front, never too far behind, and is corrected when it comes up.
        self._heap: list[tuple[float, int, str]] = []
        self._era = shares.era
        self._serial = count()
        self._count = 0

    def push(self, waiting: Waiting[T]) -> None:
        tenant = waiting.request.tenant
        line = self._lines.get(tenant)
        if line is None:
            line = self._lines[tenant] = Deadline(self._shares, _promised)
            heappush(self._heap, (self._shares.used(tenant), next(self._serial), tenant))
        line.push(waiting)
        self._count += 1

    def push_front(self, waiting: Waiting[T]) -> None:
        self.push(waiting)

    def peek(self) -> Waiting[T] | None:
        tenant = self._first()
        return self._lines[tenant].peek() if tenant is not None else None

    def pop(self) -> Waiting[T] | None:
        found = self.peek()
        if found is not None:
            self.remove(found)
        return found

    def remove(self, waiting: Waiting[T]) -> None:
        self._lines[waiting.request.tenant].remove(waiting)
        self._count -= 1

    def leads(self, waiting: Waiting[T]) -> bool:
        first, tenant, used = self._first(), waiting.request.tenant, self._shares.used
        if first is None:
            return True
        own = self._lines.get(tenant)
        if own is not None and len(own):
            return first == tenant and own.leads(waiting)
        return used(tenant) < used(first)

    def ahead(self, waiting: Waiting[T]) -> float:
        """Each tenant goes before this one until it has been served as much as this one then will have been."""
        tenant, shares, now = waiting.request.tenant, self._shares, waiting.since
        own = self._lines.get(tenant)
        before = own.ahead(waiting) if own is not None else 0.0
        level = shares.tokens(shares.used(tenant), now) + before
        for name, line in self._lines.items():
            if name != tenant:
                before += min(line.cost, max(0.0, level - shares.tokens(shares.used(name), now)))
        return before

    def __len__(self) -> int:
        return self._count

    def _first(self) -> str | None:
        """The tenant that is next; lines in which nobody waits are dropped."""
        heap, shares = self._heap, self._shares
        if self._era != shares.era:
            self._era = shares.era
            heap[:] = [(shares.used(tenant), serial, tenant) for _, serial, tenant in heap]
            heapify(heap)
        while heap:
            then, serial, tenant = heap[0]
            if not len(self._lines[tenant]):
                heappop(heap)
                del self._lines[tenant]
                continue
            used = shares.used(tenant)
            if used == then:
                return tenant
            heapreplace(heap, (used, serial, tenant))
        return None


def _promised(waiting: Waiting[T]) -> float:
    slo = waiting.request.ttft_slo
    return waiting.request.arrived + slo if slo == slo else waiting.until
