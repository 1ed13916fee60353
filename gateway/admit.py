"""Waiting for a turn at the gateway: the clock and the wake-ups around a pool's desk.

The idea: who goes next and who is refused is the desk's business, which is pure. Here are the times at which it must be
asked: soon after something changed (a first token, a place given back), when somebody's time is over, and on every
sweep. Nobody has a task: a story waits for its `Turn`, one timer stands for all, and all that changes in one round of
the loop is one change, because an engine's iteration brings many tokens.

Left to others: order, fairness, promises (`policies.admission`), which pools are asked at all (`proxy`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection

from gateway.ask import Facts
from gateway.core.errors import HeadwayError
from gateway.core.reservation import Reservation
from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Request
from gateway.decisions import DecisionRing
from gateway.story import Turn
from policies.admission.base import Waiting
from policies.admission.desk import Desk, Filling
from policies.picking.base import Policy

_LEAST = 0.001  # seconds: what the loop's timers can tell apart
_ENOUGH = 1 << 30  # times: more than any class may be stopped to make room


class Visit:
    """One request at the desk of one pool: what it tells the desk, and what it is told."""

    __slots__ = ("_decisions", "_facts", "_filler", "_policy", "_pool", "error", "reservation", "turn")

    def __init__(self, facts: Facts, decisions: DecisionRing, pool: str, policy_name: str, policy: Policy,
                 filler: Filling | None):  # fmt: skip
        self._facts = facts
        self._filler = filler
        self._decisions = decisions
        self._pool = pool
        self._policy = policy_name, policy
        self.turn = Turn()  # comes when one of the two is there
        self.reservation: Reservation | None = None
        self.error: HeadwayError | None = None

    @property
    def avoid(self) -> Collection[str]:
        """Ids of endpoints that have been tried."""
        return self._facts.tried

    @property
    def aborted(self) -> int:
        """How often it had to give way; who cannot has done so often enough, whatever the limit is."""
        return _ENOUGH if self._facts.stays else self._facts.aborted

    def chosen(self, decision: Decision, snapshot: Snapshot) -> None:
        """Note the choice that is about to be taken, and what it was made from."""
        facts, (name, policy) = self._facts, self._policy
        facts.candidates = self._decisions.capture(snapshot, decision, policy.TERMS)
        facts.tries += 1
        facts.pool, facts.policy, facts.reason = self._pool, name, decision.reason
        facts.endpoint, facts.forecast = snapshot.endpoint(decision.row).id, decision.forecast
        facts.tried = (*facts.tried, facts.endpoint)
        filler = self._filler
        if filler is not None and filler.look is not None and filler.look.found is snapshot:
            facts.closed = filler.look.closed()

    def must_wait(self, request: Request) -> None:
        """Note what was closed to filler that has just been asked."""
        filler = self._filler
        if filler is not None and filler.look is not None and filler.look.request is request:
            self._facts.closed = filler.look.closed()

    def called(self, reservation: Reservation | None, error: HeadwayError | None) -> None:
        """Its turn has come, or the reason why it will not."""
        self.reservation, self.error = reservation, error
        self.turn.take()


class Admission:
    """One per pool: keeps its desk's time."""

    def __init__(self, desk: Desk[Visit]):
        self.desk = desk
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._look_is_due = False

    def __len__(self) -> int:
        return len(self.desk)

    def changed(self) -> None:
        """A first token came, a place was given back: somebody may have their turn now."""
        if not self._look_is_due and self.desk.changed():
            self._look_is_due = True
            asyncio.get_running_loop().call_soon(self._look)  # the caller is in the middle of something

    def sweep(self, now: float) -> None:
        """News that is no event here: a scrape, a server that is back, a limit that was raised."""
        if self.desk.changed():
            self.desk.serve(now)
            self.set_timer()

    def leave(self, waiting: Waiting[Visit]) -> None:
        """This one waits no longer; who comes after it may have its turn."""
        if not waiting.left:
            self.desk.leave(waiting)
            self.changed()

    def set_timer(self) -> None:
        """Somebody has come to wait, or left: the next moment at which something must become of one may be another."""
        at = self.desk.next_at
        if at >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        delay = max(_LEAST, at - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._time_is_over)

    def close(self) -> None:
        """Call nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._look_is_due = False
        self.desk.serve(time.monotonic())
        self.set_timer()

    def _time_is_over(self) -> None:
        self._timer, self._timer_at = None, math.inf
        self._look()
