"""A store of durable work in memory: what a dispatcher asks of one, with leases, fencing, and a switch to be away.

It counts what its promises are about: executions are the executor's to count, terminal records are counted here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from math import nan
from typing import cast

from gateway.jobs.base import Store, StoreUnavailable
from gateway.jobs.model import Claim, Queue, Renewal, Result, Stats


@dataclass(slots=True)
class Piece:
    """One item, and who has it."""

    claim: Claim
    held: bool = False
    until: float = 0.0
    not_before: float = 0.0
    cancelled: bool = False


class Shelf:
    """`away` makes every call fail; `slow` is awaited by each of them first."""

    def __init__(self) -> None:
        self.pieces: dict[str, Piece] = {}
        self.ended: dict[str, Result] = {}
        self.records: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.away = False
        self.released: Counter[str] = Counter()
        self.clock: Callable[[], float] = time.time

    @property
    def store(self) -> Store:
        return cast(Store, self)

    def put(self, name: str, *, tenant: str = "acme", klass: str = "async", model: str = "m", deadline: float = 2e9,
            body: bytes = b"{}") -> None:  # fmt: skip
        claim = Claim(name, 0, "", name, tenant, klass, model, "/v1/chat/completions", body, deadline)
        self.pieces[name] = Piece(claim)

    def _answer(self, call: str) -> None:
        self.asked[call] += 1
        if self.away:
            raise StoreUnavailable("away")

    async def stats(self) -> Stats:
        self._answer("stats")
        kinds: dict[tuple[str, str], list[Piece]] = {}
        for piece in self.pieces.values():
            kinds.setdefault((piece.claim.klass, piece.claim.model), []).append(piece)
        return Stats(tuple(
            Queue(*kind, sum(not p.held for p in pieces), sum(p.held for p in pieces),
                  min((p.claim.deadline for p in pieces), default=nan))
            for kind, pieces in kinds.items()
        ))  # fmt: skip

    async def ahead(self, klass: str, model: str, deadline: float) -> int:
        self._answer("ahead")
        return sum((p.claim.klass, p.claim.model) == (klass, model) and p.claim.deadline <= deadline
                   for p in self.pieces.values())  # fmt: skip

    async def claim(self, owner: str, limit: int, lease_until: float, at: float, *, klass: str | None = None,
                    model: str | None = None, passing_over: Collection[str] = ()) -> list[Claim]:  # fmt: skip
        self._answer("claim")
        free = [p for p in self.pieces.values() if not p.held and p.not_before <= at and not p.cancelled
                and p.claim.klass == klass and p.claim.model == model
                and p.claim.tenant not in passing_over]  # fmt: skip
        given = []
        for piece in sorted(free, key=lambda p: p.claim.deadline)[:limit]:
            piece.claim = replace(piece.claim, attempt=piece.claim.attempt + 1, owner=owner)
            piece.held, piece.until = True, lease_until
            given.append(piece.claim)
        return given

    def _held(self, claim: Claim) -> Piece | None:
        piece = self.pieces.get(claim.key)
        return piece if piece is not None and piece.held and piece.claim.attempt == claim.attempt else None

    async def renew(self, claims: Iterable[Claim], lease_until: float, at: float) -> Renewal:
        self._answer("renew")
        lost, stop = set(), set()
        for claim in claims:
            piece = self._held(claim)
            if piece is None:
                lost.add(claim.key)
            else:
                piece.until = lease_until
                if piece.cancelled:
                    stop.add(claim.key)
        return Renewal(frozenset(lost), frozenset(stop))

    async def finish(self, claim: Claim, result: Result, at: float) -> bool:
        self._answer("finish")
        if self._held(claim) is None:
            return False
        del self.pieces[claim.key]
        self.ended[claim.key] = result
        self.records[claim.key] += 1
        return True

    async def retry(self, claim: Claim, not_before: float, at: float) -> bool:
        self._answer("retry")
        return self._back(claim, not_before, tries=claim.tries + 1)

    async def release(self, claim: Claim, at: float, *, displaced: bool = False,
                      not_before: float | None = None) -> bool:  # fmt: skip
        self._answer("release")
        self.released[claim.key] += 1
        return self._back(claim, not_before or 0.0, displaced=claim.displaced + displaced)

    def _back(self, claim: Claim, not_before: float, **changes: int) -> bool:
        piece = self._held(claim)
        if piece is None:
            return False
        piece.claim = replace(piece.claim, **changes)  # type: ignore[arg-type]
        piece.held, piece.not_before = False, not_before
        return True

    async def reap(self, at: float) -> int:
        self._answer("reap")
        over = [piece for piece in self.pieces.values() if piece.held and piece.until <= at]
        for piece in over:
            self.lose(piece)
        return len(over)

    def lose(self, piece: Piece) -> None:
        """Its lease ended without a word."""
        piece.held = False
        piece.claim = replace(piece.claim, lost=piece.claim.lost + 1)
