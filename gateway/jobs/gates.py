"""The gates of all models and tenants, and the way of one piece of work through its two.

Left to others: one gate (`gate`), who is let through (`dispatcher`).
"""

from __future__ import annotations

from math import isfinite, nan
from random import Random

from gateway.jobs.execute import Again, Done, End
from gateway.jobs.gate import Gate
from gateway.jobs.holding import Kind
from gateway.jobs.model import Claim, Result
from gateway.jobs.retry import LONGEST, MOST_ASKED, wait

SHORTEST = 0.05  # seconds closed, where the other side said how long
LATER = 0.1  # ... by up to this share longer
LONGEST_OWN = 2.0  # ... where it was this gateway that refused: one try in a while costs nothing


class Gates:
    """Made when they are first asked for, forgotten when they stand open."""

    def __init__(self, random: Random):
        self._random = random
        self._models: dict[Kind, Gate] = {}
        self._tenants: dict[Kind, dict[str, Gate]] = {}

    def of_model(self, kind: Kind) -> Gate:
        return self._models.setdefault(kind, Gate(self._pause))

    def of_tenant(self, claim: Claim) -> Gate:
        tenants = self._tenants.setdefault((claim.klass, claim.model), {})
        return tenants.setdefault(claim.tenant, Gate(self._pause))

    def tenants_with_enough(self, kind: Kind) -> frozenset[str]:
        """The tenants that need not be claimed for now."""
        return frozenset(name for name, gate in self._tenants.get(kind, {}).items() if gate.has_enough)

    def passage(self, claim: Claim) -> Passage:
        return Passage(self.of_tenant(claim), self.of_model((claim.klass, claim.model)))

    def forget(self) -> None:
        self._models = {kind: gate for kind, gate in self._models.items() if not gate.is_unused}
        for tenants in self._tenants.values():
            for name in [name for name, gate in tenants.items() if gate.is_unused]:
                del tenants[name]
        self._tenants = {kind: tenants for kind, tenants in self._tenants.items() if tenants}

    def _pause(self, misses: int, asked: float, is_own: bool) -> float:
        """Who says how long is believed, the first time; from the second no in a row on, ours is the longer breath."""
        longest = LONGEST_OWN if is_own else LONGEST
        if not isfinite(asked):
            return wait(misses - 1, asked, self._random, longest)
        first = min(MOST_ASKED, max(SHORTEST, asked))
        return max(first, min(longest, first * 2.0 ** min(misses - 1, 30))) * self._random.uniform(1.0, 1.0 + LATER)


class Passage:
    """One piece of work on its way through the gate of its tenant and that of its model."""

    def __init__(self, tenant: Gate, model: Gate):
        self._tenant = tenant
        self._model = model
        self._inside: list[Gate] = []  # those entered that wait for a word

    @property
    def is_open(self) -> bool:
        return self._tenant.is_open and self._model.is_open

    async def enter(self) -> None:
        """Wait for leave at both. Cancelled, it has entered neither."""
        try:
            for gate in (self._tenant, self._model):
                await gate.enter()
                self._inside.append(gate)
        except BaseException:
            self.leave()
            raise

    def passed(self) -> None:
        """It has its turn."""
        for gate in self._inside:
            gate.passed()
        self._inside.clear()
        self._tenant.worked()  # that is all that a limit is about

    def leave(self) -> None:
        """It got no turn, and that says nothing about the gates."""
        for gate in self._inside:
            gate.left()
        self._inside.clear()

    def ended(self, end: End) -> None:
        """How it went once it was through."""
        if isinstance(end, Done):
            self._model.worked()
        elif isinstance(end, Again) and end.whose != "item":
            (self._tenant if end.whose == "tenant" else self._model).close(end.after, not end.most)
        elif isinstance(end, Again) and end.most:
            self._model.failed()

    def closed_for(self) -> float:
        """Seconds until both may be tried again."""
        return max(self._tenant.closed_for(), self._model.closed_for())

    def closed(self, request_id: str) -> Again:
        """What is said of one that waited here in vain."""
        return Again(self.closed_for() or nan, 0, "item", Result(error=("refused", "not now"), request_id=request_id))
