"""A lease: the slice of one shared limit that one gateway may spend without asking, and what is said about it.

`left` may be taken and `held` has been; `total` counts all that was ever charged, so that a report of it may arrive
twice, or be lost, and the next one still says all. How much to ask for: what the recent pace needs until the report
after the next, something for another large request, and a small floor for the first one after a silence.

Left to others: when a lease is used and reported (`core.leases`), the ledger (`gateway.shared.script`).
"""

from __future__ import annotations

from math import exp
from typing import NamedTuple

from gateway.core.limiter import Held, Piece, Terms

EVERY = 0.1  # seconds between reports of an account in use,
AHEAD = 0.3  # seconds that a lease should last: a report is due every 0.1 s, and may be late
MEMORY = 1.0  # seconds in which the remembered pace falls to 1/e
RECENT = 10.0  # seconds for which the largest request is remembered,
LARGEST = 0.125  # ... and how much of a limit is kept for another like it
FLOOR = 1.0 / 16.0  # of a limit that a lease is at least,
FLOOR_OF_DAY = 1.0 / 256.0  # ... of a day's: what lies idle near its end is refused until tomorrow
CROWD = 4.0  # gateways, beyond which the floors shrink: together a quarter of the limit at most


class Lease:
    """A slice of one limit: `left` may be taken, `held` has been. `total` is all that was ever charged."""

    __slots__ = ("asked_until", "charged", "confirmed", "each", "floor", "free", "heard_at", "held", "largest",
                 "largest_at", "left", "need", "pace", "size", "taken", "total", "wanted")  # fmt: skip

    def __init__(self, kind: str, size: float, each: float):
        self.size = size
        self.each = each  # seconds in which one more is there; 0: it is no rate
        self.floor = FLOOR_OF_DAY if kind == "day" else FLOOR
        self.left = 0.0
        self.held = Held()
        self.total = self.confirmed = 0.0
        self.taken = 0.0  # of late
        self.pace = 0.0  # taken a second, of late
        self.largest = self.largest_at = 0.0
        self.need = self.asked_until = 0.0
        self.wanted = 0.0  # by all that got nothing since the last report
        self.free, self.charged, self.heard_at = size, 0.0, 0.0  # of all gateways, by the last answer

    def take(self, n: float, now: float) -> Piece:
        self.left -= n
        self.taken += n
        if n >= self.largest or now - self.largest_at > RECENT:
            self.largest, self.largest_at = n, now
        return self.held.add(n)

    def settle(self, piece: Piece, used: float) -> None:
        """So much was used of what was taken. `left` is less than nothing where it was more."""
        rest, charge = self.held.end(piece, used)
        self.total += charge
        self.left += rest - charge

    def move(self, to: Lease, charged: float) -> None:
        """Go on as `to`, in a ledger that has not heard of `charged` yet."""
        self.size, self.each = to.size, to.each
        self.left, self.confirmed, self.total = 0.0, 0.0, charged
        self.free, self.charged, self.heard_at = to.free, 0.0, 0.0

    def convert(self, now: float, gateways: float) -> None:
        """Charge of what is held what would drain until the report after the next, where nothing else would."""
        if self.each and self.held.pieces:
            missing = 2.0 * EVERY / self.each - max(0.0, self.charged - (now - self.heard_at) / self.each)
            if missing > 0.0:
                self.total += self.held.drain(missing / gateways)

    def count(self, took: float) -> None:
        """Remember the pace: `took` seconds have gone since `taken` was begun anew."""
        self.wanted = 0.0
        if took >= EVERY:
            self.pace += (self.taken / took - self.pace) * (1.0 - exp(-took / MEMORY))
            self.taken = 0.0

    def free_by(self, now: float) -> float:
        """What nobody keeps by now, if nobody has taken of it since; at most, what has drained since is free too."""
        return self.free + ((now - self.heard_at) / self.each if self.each else 0.0)

    def target(self, now: float, gateways: float, claimed: bool) -> float:
        """What it would like to have, a whole number: a part of a request is of no use to anybody."""
        if claimed:
            return float(int(min(self.size, self.pace * EVERY))) if self.each else 0.0
        floor = self.size * self.floor / max(1.0, gateways / CROWD)
        largest = min(self.largest, self.size * LARGEST) if now - self.largest_at < RECENT else 0.0
        return float(int(min(self.size, max(floor, self.pace * AHEAD + largest))))


class Wish(NamedTuple):
    """What a report says of one limit: how large it is, and what was charged in all (of which `base` was answered).

    `keep` is kept from now on, and `ask` would be welcome beyond it. `need` is all or nothing: with it the smallest
    request that waits can go, and `wanted` is what all that wait come to.
    """

    size: float
    each: float
    total: float
    base: float
    keep: float
    ask: float
    need: float
    wanted: float


Message = dict[str, Wish]


class Told(NamedTuple):
    """The ledger's answer about one limit: what was added to the lease, and what is free beyond it and charged."""

    added: float
    free: float
    charged: float


class Given(NamedTuple):
    """The ledger's answer."""

    known: bool  # it knew this gateway
    gateways: float
    claimed: bool  # somebody else needs what is not used
    limits: dict[str, Told]


def leases_of(terms: Terms) -> dict[str, Lease]:
    """One for each limit there is, in the order in which they refuse."""
    found = {}
    if terms.concurrency is not None:
        found["concurrency"] = Lease("concurrency", float(terms.concurrency), 0.0)
    for kind, pace in (("requests", terms.requests), ("tokens", terms.tokens)):
        if pace is not None:
            found[kind] = Lease(kind, max(1.0, pace.amount), pace.per / pace.amount)
    if terms.day is not None:
        found["day"] = Lease("day", float(terms.day), 0.0)
    return found
