"""Where the requests of one pool wait: a queue for each class, strict priority between them, and nobody for ever.

Higher priority goes first; a class gains one point of priority for each `AGEING` seconds that its oldest request has
waited, so that nothing starves (fillers do not age: giving way is their nature). Within a class its order decides;
those that can no longer keep their promise and are to be served all the same (`ClassRule.late`) come after all that
still can, which keeps an overload from turning all answers late: served first come, first served, each would be as late
as the queue is long. What a tenant asks for beyond its share comes after all others, too, and keeps nobody waiting.

What is let go is measured (`flow`), so that it is known how long somebody who comes now would wait, and when it is
worth coming back.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic

from gateway.core.errors import Refused
from policies.admission import create
from policies.admission.base import ClassRule, Order, T, Waiting
from policies.admission.fifo import Fifo
from policies.admission.flow import BEHIND, Flow
from policies.admission.shares import Shares

AGEING = 5.0  # seconds of waiting that weigh as much as one point of priority
SOONEST, LATEST = 1.0, 60.0  # seconds after which it can be worth coming back
_SLACK = 64  # dead entries that are not worth tidying up


class Line(Generic[T]):
    """One class: who is in order, and who goes behind them all, being late or giving way.

    `held` of them wait only because their policy would rather choose later, not for room. `cost` is that of all.
    """

    def __init__(self, rule: ClassRule, shares: Shares):
        self.rule = rule
        self.order: Order[T] = create(rule.order, shares)
        self.behind: Fifo[T] = Fifo(shares)
        self.held = 0
        self.cost = 0.0
        self._by_age: deque[Waiting[T]] = deque()

    def __len__(self) -> int:
        return len(self.order) + len(self.behind)

    def queue(self, waiting: Waiting[T]) -> Order[T]:
        """Where it stands, or would."""
        return self.behind if waiting.behind else self.order

    def come(self, waiting: Waiting[T]) -> None:
        """One more waits."""
        self.queue(waiting).push(waiting)
        self._by_age.append(waiting)
        self.cost += waiting.cost
        self.held += waiting.asks_at < math.inf

    def gone(self, waiting: Waiting[T]) -> None:
        """It waits no longer; it stands nowhere any more."""
        waiting.left = True
        self.held -= waiting.asks_at < math.inf
        self.cost = self.cost - waiting.cost if len(self) else 0.0
        if len(self._by_age) > 2 * len(self) + _SLACK:
            self._by_age = deque(one for one in self._by_age if not one.left)

    def oldest(self, now: float) -> float:
        """Seconds that the oldest has waited."""
        line = self._by_age
        while line and line[0].left:
            line.popleft()
        return now - line[0].since if line else 0.0

    def pop(self) -> Waiting[T] | None:
        """Take out who is next."""
        found = self.order.pop()
        return found if found is not None else self.behind.pop()

    def reorder(self, order: Order[T]) -> None:
        """The same requests in another order."""
        while (waiting := self.order.pop()) is not None:
            order.push(waiting)
        self.order = order


class WaitingRoom(Generic[T]):
    """The queues of one pool. Not thread-safe; one event loop owns it."""

    def __init__(self, rules: Iterable[ClassRule], shares: Shares):
        self.flow = Flow()
        self._shares = shares
        self._lines: dict[str, Line[T]] = {}
        self._ranked: list[Line[T]] = []
        self._alarms: list[tuple[float, int, Waiting[T]]] = []
        self._serial = count()
        self._count = 0
        self.reconfigure(rules)

    def __len__(self) -> int:
        return self._count

    def reconfigure(self, rules: Iterable[ClassRule]) -> None:
        """Other rules; who waits goes on waiting, also where its class is no more."""
        for rule in rules:
            line = self._lines.get(rule.name)
            if line is None:
                line = self._lines[rule.name] = Line(rule, self._shares)
            elif line.rule.order != rule.order:
                line.reorder(create(rule.order, self._shares))
            line.rule = rule
        self._ranked = sorted(self._lines.values(), key=lambda line: -line.rule.priority)

    def rule(self, klass: str) -> ClassRule:
        """The rule of a class; one that nobody named waits like the first of them."""
        return self._line(klass).rule

    def _line(self, klass: str) -> Line[T]:
        line = self._lines.get(klass)
        return line if line is not None else self._ranked[0]

    # --- coming and leaving --------------------------------------------------------------------------------------

    def enter(self, waiting: Waiting[T]) -> None:
        """It comes to wait. Raises Refused (`queue_full`) when too many of its class do."""
        line = self._line(waiting.request.klass)
        if len(line) >= line.rule.limit and not line.rule.shadow:
            raise Refused("the queue for this model is full", reason="queue_full",
                          retry_after=self.retry_after(waiting.request.klass, waiting.since))  # fmt: skip
        line.come(waiting)
        self._count += 1
        self._set_alarm(waiting)

    def leave(self, waiting: Waiting[T]) -> None:
        """It waits no longer. Nothing happens if it had left already."""
        if not waiting.left:
            line = self._line(waiting.request.klass)
            if waiting.cell is not None:
                line.queue(waiting).remove(waiting)
            line.gone(waiting)
            self._count -= 1
            if len(self._alarms) > 2 * self._count + _SLACK:
                self._alarms = [alarm for alarm in self._alarms if alarm[0] == alarm[2].over_at and not alarm[2].left]
                heapify(self._alarms)

    def take_out(self, waiting: Waiting[T]) -> None:
        """It stands nowhere, as if `next` had given it: it must `leave` or be `put_back` then."""
        if waiting.cell is not None:
            self._line(waiting.request.klass).queue(waiting).remove(waiting)

    def put_back(self, waiting: Waiting[T]) -> None:
        """One that was taken out stays where it was, before all that are like it."""
        self._line(waiting.request.klass).queue(waiting).push_front(waiting)

    def wait_for_room(self, waiting: Waiting[T], until: float, why: str) -> None:
        """It is held for a better choice no longer: it waits for room now, until then."""
        line = self._line(waiting.request.klass)
        line.held -= waiting.asks_at < math.inf
        before = waiting.over_at
        waiting.asks_at, waiting.until, waiting.why = math.inf, until, why
        if waiting.over_at != before:
            self._set_alarm(waiting)

    def serve_late(self, waiting: Waiting[T], until: float, why: str = "queue_timeout") -> None:
        """It can no longer keep its promise: it waits behind those that can, until then, and goes for that reason."""
        self.take_out(waiting)
        waiting.late = waiting.behind = True
        self._line(waiting.request.klass).behind.push(waiting)
        self.wait_for_room(waiting, until, why)

    def _set_alarm(self, waiting: Waiting[T]) -> None:
        if waiting.over_at < math.inf:
            heappush(self._alarms, (waiting.over_at, next(self._serial), waiting))

    # --- time ----------------------------------------------------------------------------------------------------

    @property
    def next_at(self) -> float:
        """When somebody's time is over; infinite when nobody's will be."""
        alarms = self._alarms
        while alarms and (alarms[0][2].left or alarms[0][0] != alarms[0][2].over_at):
            heappop(alarms)
        return alarms[0][0] if alarms else math.inf

    def over(self, now: float) -> list[Waiting[T]]:
        """Those whose time is over, the earliest first; they still stand where they stood. Each is given once."""
        found = []
        while self.next_at <= now:
            found.append(heappop(self._alarms)[2])
        return found

    # --- who is next ---------------------------------------------------------------------------------------------

    def lines(self, now: float) -> list[Line[T]]:
        """The classes in which somebody waits, who is first now before the others."""
        waiting = [line for line in self._ranked if len(line)]
        if len(waiting) > 1:
            waiting.sort(key=lambda line: -_rank(line, now))
        return waiting

    def next(self, now: float) -> Waiting[T] | None:
        """Take out who is next; it must `leave` or be `put_back` then."""
        for line in self.lines(now):
            return line.pop()
        return None

    def blocks(self, waiting: Waiting[T]) -> bool:
        """Whether somebody waits for room that this one, which has just come, may not overtake."""
        if not self._count:
            return False
        now, own = waiting.since, self._line(waiting.request.klass)
        if len(own.order) > own.held and not own.order.leads(waiting):
            return True
        rank = _rank(own, now)
        return any(len(line) > line.held and line is not own and _rank(line, now) > rank for line in self._ranked)

    # --- how long it takes ---------------------------------------------------------------------------------------

    def delay(self, waiting: Waiting[T]) -> float:
        """Seconds that this one, which has just come, would wait behind others: what is ahead over what drains.

        0 where it is not known how fast that is.
        """
        line = self._line(waiting.request.klass)
        name = line.rule.name
        rate = self.flow.rate(BEHIND + name if waiting.behind else name, waiting.since)
        ahead = line.cost if waiting.behind else line.order.ahead(waiting)
        return ahead / rate if rate > 0.0 else 0.0

    def retry_after(self, klass: str, now: float) -> float:
        """Seconds until what waits in this class has drained, as far as one can tell; between one and sixty."""
        line = self._line(klass)
        rate = self.flow.rate(line.rule.name, now)
        return min(LATEST, max(SOONEST, line.cost / rate)) if rate > 0.0 else SOONEST

    def counts(self, now: float) -> Mapping[str, tuple[int, float]]:
        """How many of each class wait, and how long the oldest has."""
        return {name: (len(line), line.oldest(now)) for name, line in self._lines.items()}


def _rank(line: Line[T], now: float) -> float:
    rule = line.rule
    return rule.priority + (0.0 if rule.filler or not len(line) else line.oldest(now) / AGEING)
