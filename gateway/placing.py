"""A place for a request: in the first of its pools that has one, or a turn in the queue of one that will have.

The idea: the first pool is waited for, and after a while the fallbacks are looked into, too; whoever has a place first
gets the request. A pool whose servers are all away is left at once.

Left to others: who gets a place in a pool and who is refused (`policies.admission.desk`), what happens there (`proxy`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from gateway.adapters import Adapters
from gateway.admit import Visit
from gateway.ask import Ask, Facts
from gateway.core.errors import NoEndpoint, Refused
from gateway.core.reservation import Reservation
from gateway.decisions import DecisionRing
from gateway.lane import Lane
from gateway.rollouts.witness import Witness
from gateway.story import Turn
from policies.admission.base import Waiting

_LOOK_AGAIN = 0.05  # seconds: who waits looks for a place in the fallbacks no more often than this
_ANEW = 3  # times that one who waits may find its adapter gone and have it loaded again

Place = tuple[Lane, Reservation | Waiting[Visit]]  # a place taken, or where one is waited for


class Placing:
    """Finds places in the lanes that are in use (`lanes`, pools by name; a reload gives others)."""

    def __init__(self, lanes: Callable[[], Mapping[str, Lane]], decisions: DecisionRing, adapters: Adapters | None,
                 witness: Witness):  # fmt: skip
        self._lanes = lanes
        self._decisions = decisions
        self._adapters = adapters
        self._witness = witness

    def offer(self, ask: Ask, facts: Facts, first: int) -> Place:
        """A place in the first of the model's pools (from number `first` on) that has one or will have one in time.

        Raises NoEndpoint, or Refused with the reason of the first that was asked.
        """
        now = time.monotonic()
        refused: Refused | None = None
        for name in ask.way.pools[first:]:
            lane = self._lanes().get(name)
            if lane is None or not self.may_go(ask, name):  # gone with a reload, or its adapter is not there yet
                continue
            try:
                place = lane.desk.offer(lane.visit(facts, self._decisions), ask.request, now)
            except NoEndpoint:
                if name == ask.way.pools[0] and not facts.tries:
                    # Whoever else answers: its own servers are not there.
                    self._witness.missed(ask, facts, NoEndpoint.code, now)
                continue
            except Refused as error:
                refused = refused or error
                continue
            if not isinstance(place, Reservation):
                lane.admission.set_timer()
            return lane, place
        raise refused or NoEndpoint("no model server is available for this model right now")

    def may_go(self, ask: Ask, pool: str) -> bool:
        """Whether the pool's servers can answer it: an adapter may have to be loaded first."""
        return self._adapters is None or self._adapters.has(pool, ask.upstream_model)

    async def wait(self, ask: Ask, facts: Facts, lane: Lane,
                    waiting: Waiting[Visit]) -> tuple[Lane, Reservation]:  # fmt: skip
        """Wait for a turn at `lane`; after a while, look for a place in the fallbacks, too."""
        began, before, place, anew = time.monotonic(), facts.queued, waiting, _ANEW
        place.item.must_wait(ask.request)
        while True:
            visit = place.item
            timer = self._look_elsewhere(ask, lane, visit)
            try:
                await visit.turn
            except asyncio.CancelledError:
                if visit.reservation is not None:
                    lane.give_back(visit.reservation, ask.request, time.monotonic())
                lane.admission.leave(place)
                raise
            finally:
                facts.queued = before + time.monotonic() - began
                facts.note_wait(place.wanted)
                if timer is not None:
                    timer.cancel()
            if visit.reservation is not None:
                return lane, visit.reservation
            if isinstance(visit.error, NoEndpoint) and anew and await self._has_come_again(ask):
                found: Place | None = self.offer(ask, facts, 0)
                anew -= 1
            else:
                found = self._elsewhere(ask, facts, lane, visit)
            if found is None:
                visit.turn = Turn()
                continue
            lane.admission.leave(place)
            lane, taken = found
            if isinstance(taken, Reservation):
                return lane, taken
            place = taken

    async def _has_come_again(self, ask: Ask) -> bool:
        """Nobody can answer it any more: whether that was for its adapter, which has left and is there again.

        Raises HeadwayError where it cannot be loaded.
        """
        if self._adapters is None or not self._adapters.is_ours(ask.upstream_model):
            return False
        await self._adapters.wait_for(ask.way.pools, ask.upstream_model)
        return True

    def _look_elsewhere(self, ask: Ask, lane: Lane, visit: Visit) -> asyncio.TimerHandle | None:
        """When one who waits has waited long enough to look into the fallbacks; None where there are none left."""
        way = ask.way
        if lane.name != way.pools[0] or len(way.pools) == 1:
            return None
        after = max(_LOOK_AGAIN, way.after)
        return asyncio.get_running_loop().call_later(after, visit.turn.take)

    def _elsewhere(self, ask: Ask, facts: Facts, lane: Lane, visit: Visit) -> Place | None:
        """A place in another pool for one who waits at `lane`; None: it goes on waiting there.

        Where it may wait there no longer, another pool may also let it wait. Raises why it was refused.
        """
        names = ask.way.pools
        first = names.index(lane.name) + 1 if lane.name in names else len(names)
        if visit.error is not None:
            try:
                return self.offer(ask, facts, first)
            except Refused:  # (NoEndpoint is one)
                raise visit.error from None
        now = time.monotonic()
        for name in names[first:]:
            other = self._lanes().get(name)
            if other is None or len(other.desk) or not self.may_go(ask, name):
                continue
            try:
                found = other.desk.route(other.visit(facts, self._decisions), ask.request, now, may_hold=False)
            except NoEndpoint:
                continue
            if isinstance(found, Reservation):
                return other, found
        return None
