"""As what durable work runs: as its own class, and as the class it gives way to when its time runs out.

The idea is least slack: work whose deadline is nearer than 1.5 times what it still takes (all that stands before it
with the same or an earlier deadline, at the speed of late) cannot wait for gaps any longer. Where the operator allows
it (`filler.promote`), it then competes as the class that its own protects. That makes it faster, so less of it needs
to: no more is promoted than the deadline asks for.

Left to others: the speed (`eta`), moving what stands in a line already (`dispatcher`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import NamedTuple

from gateway.config.types import Config, TrafficClass
from gateway.jobs.base import Store, StoreUnavailable
from gateway.jobs.eta import Etas
from gateway.jobs.holding import Kind
from gateway.jobs.model import Claim

MARGIN = 1.5
UNKNOWN_EACH, UNKNOWN_START = 0.1, 30.0  # seconds a piece of work takes, and until it begins, while none ever ended
FRESH = 2.0  # seconds for which an answer of the store is good
AT_ONCE = 16  # deadlines of a class and model that are looked at
_FORGOTTEN = 60.0


class _Due(NamedTuple):
    """What stands before a deadline: when it was asked, seconds it takes, and how many will be too late."""

    asked: float
    takes: float
    late: int


class Promotion:
    """`config` may be replaced."""

    def __init__(self, store: Store, etas: Etas, config: Config):
        self._store = store
        self._etas = etas
        self.config = config
        self._due: dict[tuple[Kind, float], _Due] = {}
        self._each: dict[Kind, float] = {}  # seconds a piece of work took when last seen

    def class_of(self, claim: Claim, at: float) -> str:
        """The class that it runs as now."""
        own = self._own(claim)
        filler = own.filler
        if filler is None or not filler.promote or filler.protect not in self.config.classes:
            return own.name
        due = self._due.get(((claim.klass, claim.model), claim.deadline))
        return filler.protect if due is not None and claim.deadline - at < MARGIN * due.takes else own.name

    def _own(self, claim: Claim) -> TrafficClass:
        """Its class, or what stands for it where a reload has taken that away: accepted work is done."""
        classes, jobs = self.config.classes, self.config.jobs
        found = classes.get(claim.klass) or (classes.get(jobs.klass) if jobs is not None else None)
        return found or next(iter(classes.values()))

    def at_risk(self) -> Mapping[str, int]:
        """How many of each class are expected to miss their deadline."""
        worst: dict[Kind, int] = {}
        for (kind, _), due in self._due.items():
            worst[kind] = max(worst.get(kind, 0), due.late)
        found: dict[str, int] = {}
        for (klass, _), late in worst.items():
            found[klass] = found.get(klass, 0) + late
        return found

    async def look(self, claims: Iterable[Claim], at: float) -> bool:
        """See how time stands for these. True: some class may be promoted, ask again."""
        deadlines: dict[Kind, set[float]] = {}
        for claim in claims:
            deadlines.setdefault((claim.klass, claim.model), set()).add(claim.deadline)
        for kind, those in deadlines.items():
            for deadline in sorted(those)[:AT_ONCE]:
                before = self._due.get((kind, deadline))
                if before is None or at - before.asked >= FRESH:
                    await self._ask(kind, deadline, at)
        self._due = {key: due for key, due in self._due.items() if at - due.asked < _FORGOTTEN}
        return any(klass.filler is not None and klass.filler.promote for klass in self.config.classes.values())

    async def _ask(self, kind: Kind, deadline: float, at: float) -> None:
        try:
            ahead = await self._store.ahead(*kind, deadline)
        except StoreUnavailable:
            return
        speed = self._etas.speed(kind, at)
        if speed is not None:
            self._each[kind] = 1.0 / speed.rate
        each = self._each.get(kind)
        takes = UNKNOWN_START + UNKNOWN_EACH * ahead if each is None else ahead * each + self._took(kind)
        in_time = inf if each is None else max(0.0, deadline - at) / each
        self._due[kind, deadline] = _Due(at, takes, int(max(0.0, ahead - in_time)))

    def _took(self, kind: Kind) -> float:
        took = self._etas.took(kind)
        return took if took == took else 0.0
