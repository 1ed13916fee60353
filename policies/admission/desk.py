"""The desk of one pool: who goes now, who waits and who is refused. The gateway and the lab run this same code.

    offer(guest, request, now) ---- goes ----> a Reservation
             |                 ---- waits ---> a Waiting; the guest is `called` later, from `serve`
             |                 ---- refused -> raises Refused (its reason, when to come back), or NoEndpoint
             v
    serve(now)     somebody may go now: call it soon after anything `changed` (a first token, a place given back), when
                   `next_at` has come, and on every sweep for what is no event here
    leave(waiting) the guest waits no longer (its client is gone, another pool had a place)
    ended(...)     a place has been given back, with what came of it

`route` is look, pick, judge and take in one plain function: nothing else can run in between, so there is no lock and no
herd. A request that comes when nobody waits is routed at once; it waits when no endpoint has room for it or keeps its
promises, or when its policy would rather choose later. It is refused on arrival when the queue ahead of it cannot drain
in time: waiting first and being refused then helps nobody.

When something has changed, those who are first in their class are asked, until `ASKED` of them could not go: a change
lets in few, and a long prompt that fits nowhere yet must not keep a short one from its place. A class is asked only
when nobody before it waits for room.

Left to others: waking who was called and keeping time (`gateway/admit.py`, the lab's router), which endpoint (the
policy), how much filler fits (the filler), who is refused (`refusals`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from gateway.core.errors import HeadwayError, NoEndpoint, Refused
from gateway.core.fleet import Fleet
from gateway.core.grounds import BOUNDS, CHOICE, ROOM, TURN
from gateway.core.reservation import Reservation
from gateway.core.snapshot import Snapshot
from gateway.core.types import UNKNOWN, Decision, Outcome, Request
from policies.admission.base import ClassRule, Waiting, cost
from policies.admission.filler import Filler
from policies.admission.judge import GO, GUARD, Judge, Verdict
from policies.admission.places import Places
from policies.admission.refusals import Refusals
from policies.admission.roles import Filling as Filling
from policies.admission.roles import Guest
from policies.admission.room import WaitingRoom
from policies.admission.shares import GREEDY, LEFT, Shares

ASKED = 4  # how many could not go before no more are asked
EVERY = 0.01  # seconds between two times at which those are asked that give way to others
CROWDED = 30.0  # seconds for which the others are watched after a tenant asked for several times its share
HOLD = 10.0  # seconds: no policy holds a request longer for a better choice


G = TypeVar("G", bound=Guest)


class _Excess(NamedTuple):
    """The rule for what a tenant asks for beyond its share; it is never aborted."""

    slowdown: float
    aborts: int


_EXCESS = _Excess(0.1, 0)


class Queue(NamedTuple):
    """One class in `Desk.report`. Rates are per second over the last seconds, in tokens (those written count twice)."""

    waiting: int
    oldest: float
    drain: float
    inflight: int


class Desk(Generic[G]):
    """One per pool; pure. `pick` is the policy's; `limit` is the pool's, in requests (None: none).

    `excess` decides how much of what a tenant asks for beyond its share goes.
    """

    def __init__(self, fleet: Fleet, pick: Callable[[Request, Snapshot], Decision], rules: Iterable[ClassRule],
                 limit: int | None = None, filler: Filling | None = None, excess: Filling | None = None):  # fmt: skip
        self.fleet = fleet
        self.shares = Shares()  # what each tenant got
        self.asked = Shares()  # what each asked for
        self._excess = excess or Filler(_EXCESS)
        self.judge = Judge()
        self.places = Places(fleet)
        self._changed = False
        self._crowded_at = -math.inf  # when a tenant last asked for several times its share
        self._asked_at, self._may_be_asked = -math.inf, 0  # when those that give way were asked, and how many more are
        self._some_unasked = False  # their turn to be asked comes again by time
        rules = list(rules)
        self.room: WaitingRoom[G] = WaitingRoom(rules, self.shares)
        self.refusals = Refusals(self.room, self.judge, fleet)
        self.reconfigure(pick, rules, limit, filler)

    def reconfigure(self, pick: Callable[[Request, Snapshot], Decision], rules: Iterable[ClassRule],
                    limit: int | None, filler: Filling | None) -> None:  # fmt: skip
        """Another configuration; who waits goes on waiting."""
        rules = list(rules)
        self.pick = pick
        self.filler = filler
        self.places.reconfigure(rules, limit)
        self.room.reconfigure(rules)
        self._changed = True

    def __len__(self) -> int:
        """How many wait."""
        return len(self.room)

    # --- one request ---------------------------------------------------------------------------------------------

    def offer(self, guest: G, request: Request, now: float) -> Reservation | Waiting[G]:
        """A request has come, or comes back for a further try. Raises Refused and NoEndpoint."""
        if not request.filler:  # which takes nobody's share: it has what is left
            self.asked.charge(request.tenant, cost(request), now)
            if self.filler is not None and not guest.avoid:
                self.filler.came(request, now)
        if len(self.room) and not guest.avoid:
            waiting = Waiting(guest, request, now, math.inf)
            waiting.behind = self._gives_way(request, now)
            if self.room.blocks(waiting) or not self._may_ask(waiting, now):
                return self._wait(waiting, self._patience(guest, request, now)._replace(lacks=TURN))
        found = self.route(guest, request, now)
        return found if isinstance(found, Reservation) else self._wait(Waiting(guest, request, now, math.inf), found)

    def route(self, guest: G, request: Request, now: float, may_hold: bool = True,
              is_late: bool = False) -> Reservation | Verdict:  # fmt: skip
        """Look, pick, judge and take. Raises NoEndpoint. Not to be interrupted."""
        fleet, predictor, avoid = self.fleet, self.fleet.predictor, guest.avoid
        gives_way = self._gives_way(request, now)
        snapshot = self._look(guest, request, now, gives_way)
        if snapshot is None:  # who was let in once is not held to its promise again
            verdict = Verdict(False) if avoid else self.judge.patience(request, predictor, now)
            return verdict._replace(lacks=BOUNDS if request.filler and self.filler is not None else ROOM)
        if avoid or not may_hold or request.filler:  # filler's bounds are those of now
            request = request._replace(may_wait=False)
        decision = self.pick(request, snapshot)
        if decision.wait > 0.0 and request.may_wait:
            patience = self.judge.patience(request, predictor, now)
            return patience._replace(holds_until=now + min(decision.wait, HOLD), lacks=CHOICE)
        if request.filler or avoid:  # the filler has judged; who was let in once is not judged again
            verdict = GO
        elif is_late:
            verdict = self.judge.without_first(request, decision, predictor, now)
        else:
            there = fleet.requests.item(decision.row)
            verdict = self._judged(request, decision, there, now, gives_way)
            if not verdict.goes and self.filler is not None and self.filler.there(decision.row):
                # What makes it too slow gives way as soon as it has come.
                there -= self.filler.there(decision.row)
                cleared = self.filler.cleared(decision, fleet, now)
                verdict = self._judged(request, cleared, there, now, gives_way)
        if not verdict.goes:
            return verdict
        guest.chosen(decision, snapshot)
        decision.taken()
        reservation = fleet.reserve(decision, request, now)
        self._admitted(guest, reservation, request, now, gives_way)
        return reservation

    def _judged(self, request: Request, decision: Decision, there: float, now: float, gives_way: bool) -> Verdict:
        """Whether it goes where so many are; as the judge says, and not beyond what is known to fit there."""
        predictor = self.fleet.predictor
        verdict = self.judge.judge(request, decision, predictor, there, now, gives_way)
        if verdict.goes and request.tpot_slo > 0.0 and there >= self.places.adaptive.limit(decision.row):
            return self.judge.patience(request, predictor, now)._replace(lacks=ROOM)
        return verdict

    def _look(self, guest: G, request: Request, now: float, gives_way: bool) -> Snapshot | None:
        """Who may be chosen; None where all are full. Raises NoEndpoint."""
        try:
            seen = self.fleet.snapshot(now, guest.avoid, request.needs)
        except NoEndpoint:
            raise
        except Refused:
            return None
        snapshot = self.places.free(request.klass, seen, GUARD if gives_way else 1.0)
        if snapshot is None:
            return None
        predictor = self.fleet.predictor
        if request.filler and self.filler is not None:
            return self.filler.open_rows(request, snapshot, now, guest.aborted)
        if gives_way and predictor is not None and predictor.calibrated:
            return self._excess.open_rows(request, snapshot, now, 1)
        return snapshot

    def _gives_way(self, request: Request, now: float) -> bool:
        """Whether its tenant asks for several times an equal share and has had that already.

        What it asks for beyond that fills what the others leave: in the same way as filler does.
        """
        tenant = request.tenant
        if not self.asked.exceeds(tenant, GREEDY, now):
            return False
        self._crowded_at = now
        return self.shares.exceeds(tenant, LEFT, now)

    # --- waiting -------------------------------------------------------------------------------------------------

    def _patience(self, guest: G, request: Request, now: float) -> Verdict:
        """Until when a request that may not go before others can use a turn."""
        predictor = self.fleet.predictor
        if request.deadline == request.deadline and predictor is not None and predictor.calibrated:
            snapshot = self._look(guest, request, now, False)  # whether its deadline can be met is worth a prediction
            if snapshot is not None:
                decision = self.pick(request._replace(may_wait=False), snapshot)
                verdict = self.judge.judge(request, decision, predictor, math.inf, now)
                if not verdict.goes:
                    return verdict
        return self.judge.patience(request, predictor, now)

    def _wait(self, waiting: Waiting[G], verdict: Verdict) -> Waiting[G]:
        """Let it wait, or refuse it at once where that is of no use."""
        request, now = waiting.request, waiting.since
        waiting.until, waiting.why = verdict.until, verdict.why
        waiting.asks_at = verdict.holds_until
        waiting.note(verdict.lacks, verdict.forecast)
        waiting.behind = self._gives_way(request, now)
        refusal = self.refusals.on_arrival(waiting, verdict)
        if refusal is not None:
            if (spared := self.refusals.spared_until(waiting, now)) is None:
                raise refusal
            waiting.until, waiting.why = spared
            waiting.late = waiting.behind = True
        try:
            self.room.enter(waiting)
        except Refused as error:
            raise self.refusals.explained(error, waiting, now) from None
        return waiting

    def leave(self, waiting: Waiting[G]) -> None:
        """The guest waits no longer. Nothing happens if it was called already."""
        self.room.leave(waiting)

    @property
    def next_at(self) -> float:
        """When `serve` must be called at the latest; infinite when nobody's time is running out."""
        return min(self.room.next_at, self._asked_at + EVERY) if self._some_unasked else self.room.next_at

    def changed(self) -> bool:
        """A first token came, a place was given back, a server is there: whether `serve` should be called soon."""
        self._changed = len(self.room) > 0
        return self._changed

    def serve(self, now: float) -> None:
        """Call those whose turn has come and those whose time is over."""
        calls: list[tuple[G, Reservation | None, HeadwayError | None]] = []
        for waiting in self.room.over(now):
            self._is_over(waiting, now, calls)
        if self._changed or (self._some_unasked and now >= self._asked_at + EVERY):
            self._changed = self._some_unasked = False
            for line in self.room.lines(now):
                failed: list[Waiting[G]] = []
                while len(failed) < ASKED and (first := line.pop()) is not None:
                    if not self._may_ask(first, now) or not self._ask(first, now, calls):
                        failed.append(first)
                for waiting in reversed(failed):
                    self.room.put_back(waiting)
                if len(line) > line.held:
                    break
        for guest, reservation, error in calls:  # last, since who is called may do anything
            guest.called(reservation, error)

    def _may_ask(self, waiting: Waiting[G], now: float) -> bool:
        """What fills what others leave is asked less often, some each time: to find out where it may go costs more."""
        if not (waiting.behind or waiting.request.filler):
            return True
        if now >= self._asked_at + EVERY:
            self._asked_at, self._may_be_asked = now, ASKED
        self._may_be_asked -= 1
        self._some_unasked = self._may_be_asked < 0
        return not self._some_unasked

    def _ask(self, waiting: Waiting[G], now: float,
             calls: list[tuple[G, Reservation | None, HeadwayError | None]]) -> bool:  # fmt: skip
        """Whether this one, which was taken out of its queue, has gone: with a place or without."""
        try:
            found = self.route(waiting.item, waiting.request, now, now < waiting.asks_at < math.inf, waiting.late)
        except NoEndpoint as error:
            self.room.leave(waiting)
            calls.append((waiting.item, None, error))
            return True
        if isinstance(found, Reservation):
            self._may_be_asked += 1
            self.room.leave(waiting)
            calls.append((waiting.item, found, None))
            return True
        waiting.note(found.lacks, found.forecast)
        if found.until <= now and not (waiting.late and found.why != "deadline"):
            self._end(waiting, found, now, calls)
            return True
        if waiting.asks_at < math.inf and (waiting.asks_at <= now or found.holds_until == math.inf):
            self.room.wait_for_room(waiting, waiting.until, waiting.why)  # it is not the policy any more that waits
        return False

    def _is_over(self, waiting: Waiting[G], now: float,
                 calls: list[tuple[G, Reservation | None, HeadwayError | None]]) -> None:  # fmt: skip
        """Its policy will wait no longer, or it cannot."""
        if waiting.until > now:
            self.room.take_out(waiting)
            if not self._ask(waiting, now, calls):
                self.room.put_back(waiting)
            return
        self._end(waiting, Verdict(False, now, waiting.why), now, calls)

    def _end(self, waiting: Waiting[G], verdict: Verdict, now: float,
             calls: list[tuple[G, Reservation | None, HeadwayError | None]]) -> None:  # fmt: skip
        """It can no longer make it: it is refused, or goes behind those that can."""
        rule = self.room.rule(waiting.request.klass)
        last = waiting.since + rule.wait
        if verdict.why == "slo" and rule.late == "serve" and now < last:
            self.room.serve_late(waiting, *self.refusals.at_last(waiting, last))
            return
        waiting.why = verdict.why
        if (spared := self.refusals.spared_until(waiting, now)) is not None:
            self.room.serve_late(waiting, *spared)
            return
        self.room.leave(waiting)
        calls.append((waiting.item, None, self.refusals.refusal(waiting, now, verdict.hopeless)))

    # --- what came of it -----------------------------------------------------------------------------------------

    def _admitted(self, guest: G, reservation: Reservation, request: Request, now: float, gives_way: bool) -> None:
        weight = cost(request)
        self.places.take(request.klass)
        self.shares.charge(request.tenant, weight, now)
        self.room.flow.note(request.klass, weight, now, gives_way)
        if gives_way:
            self._excess.admitted(reservation, request, now, 1)
        elif now - self._crowded_at < CROWDED:
            self._excess.taken(reservation, request, now)
        if self.filler is not None:
            if request.filler:
                self.filler.admitted(reservation, request, now, guest.aborted)
            else:
                self.filler.taken(reservation, request, now)

    def ended(self, reservation: Reservation, request: Request, outcome: Outcome | None, now: float) -> None:
        """This place has been given back (and settled). Call it once for each that was taken."""
        self.places.give_back(request.klass)
        if self.filler is not None:
            self.filler.ended(reservation, outcome, now)
        if self._crowded_at > -math.inf:
            self._excess.ended(reservation, outcome, now)
        self._changed = len(self.room) > 0
        if outcome is None or outcome.ended != "complete":
            return
        tokens, forecast, row = outcome.output_tokens, reservation.forecast, reservation.row
        told = outcome.ttft > 0.0 and tokens > 1.0 and reservation.stream
        gap = (outcome.duration - outcome.ttft) / (tokens - 1.0) if told else UNKNOWN
        self.places.adaptive.observe(row, gap, request.tpot_slo, tokens, self.fleet.requests.item(row) + 1.0)
        if forecast is not None:
            self.judge.observe(request, outcome, forecast, gap)

    def victims(self, now: float) -> list[Reservation]:
        """Filler that must be taken off its endpoint now; it comes back to wait."""
        return self.filler.victims(self.fleet, now) if self.filler is not None else []

    def row_left(self, row: int) -> None:
        """The endpoint in this row has left; another may get the row."""
        self.places.adaptive.forget(row)

    def report(self, now: float) -> Mapping[str, Queue]:
        """The queues of the pool by class."""
        flow = self.room.flow
        return {
            name: Queue(waiting, oldest, flow.rate(name, now), self.places.inflight.get(name, 0))
            for name, (waiting, oldest) in self.room.counts(now).items()
        }
