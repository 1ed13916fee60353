"""The common ledger of `gateway.shared.script` once more, in plain Python and with a clock that a test turns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gateway.core.lease import Given, Message, Told
from gateway.shared.script import ORDER


@dataclass
class Member:
    seen: float
    total: dict[str, float]
    keep: dict[str, float]


@dataclass
class Ledger:
    """One account of it. `answer` is one call of the script at `now`."""

    ttl: float = 10.0
    full: dict[str, float] = field(default_factory=lambda: {"requests": 0.0, "tokens": 0.0})
    spent: float = 0.0
    members: dict[str, Member] = field(default_factory=dict)
    claim: tuple[str, float] | None = None

    def charge(self, message: Message, kind: str, n: float, now: float) -> None:
        if kind == "day":
            self.spent += max(0.0, n)
        elif kind in self.full and n > 0.0:
            self.full[kind] = max(self.full[kind], now) + n * message[kind].each

    def answer(self, gateway: str, message: Message, now: float, leaving: bool = False) -> Given:
        for name in [name for name, one in self.members.items() if now - one.seen > self.ttl]:
            for kind, kept in self.members.pop(name).keep.items():
                self.charge(message, kind, kept, now)
        known = gateway in self.members
        before = self.members[gateway].total if known else {k: w.base for k, w in message.items()}
        for kind, wish in message.items():
            self.charge(message, kind, wish.total - before[kind], now)
        if self.claim is not None and (self.claim[0] == gateway or self.claim[1] < now):
            self.claim = None
        member = Member(now, {k: w.total for k, w in message.items()}, {})
        limits = {}
        for kind in (kind for kind in ORDER if kind in message):
            limits[kind] = self._tell(gateway, message, kind, now)
            member.keep[kind] = message[kind].keep + limits[kind].added
        self.members.pop(gateway, None)
        if not leaving:
            self.members[gateway] = member
        claimed = self.claim is not None and self.claim[0] != gateway
        return Given(known, float(len(self.members)), claimed, limits)

    def _tell(self, gateway: str, message: Message, kind: str, now: float) -> Told:
        wish = message[kind]
        charged = self.spent if kind == "day" else self.debt(kind, wish.each, now) if kind in self.full else 0.0
        others = sum(one.keep.get(kind, 0.0) for name, one in self.members.items() if name != gateway)
        free = math.floor(wish.size - wish.keep - charged - others + 0.001)
        add = min(wish.ask, max(0.0, free))
        if wish.need:
            if wish.need <= wish.keep + free:
                add = max(wish.need - wish.keep, min(wish.ask + wish.wanted, free), 0.0)
            elif self.claim is None:
                self.claim = (gateway, now + 2.0)
        return Told(add, free - add, charged)

    def debt(self, kind: str, each: float, now: float) -> float:
        return max(0.0, self.full[kind] - now) / each
