"""The filler in flight: who of it is where, what it reads and was sent with, what may still wait at an engine.

Of plain answers nobody sees the first token. When they are taken to have started is a guess, and so is how far they
have come; what waits at an engine is therefore told by the engine's own word, as long as it is fresh, and by what it
was sent since.
"""

from __future__ import annotations

import math

import numpy as np

from gateway.core.books import RECENT
from gateway.core.fleet import Fleet
from gateway.core.reservation import Reservation
from gateway.core.types import UNKNOWN, Floats, Outcome

RENEW = 100.0  # seconds after which fading sums get a new zero
FOLLOW = 0.05  # weight of one answer
FRESH = 2.5  # seconds that an endpoint's word is good for


class Ledger:
    """The filler in flight, by row: its sequences, the context they read, the prefill seconds they were sent with."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[Reservation, int]] = {}  # how often each was aborted before
        self._latest: dict[int, Reservation] = {}
        self._ahead: dict[int, list[Reservation]] = {}  # may still wait at an engine, in the order of sending
        self.requests: Floats = np.zeros(8)
        self.context: Floats = np.zeros(8)
        self._recent: Floats = np.zeros(8)
        self._since: Floats = np.zeros(8)  # seconds of prefill sent since an endpoint last said what waits there
        self._said: Floats = np.zeros(8)  # when that was
        self._zero = 0.0
        self._each = UNKNOWN  # seconds that a token of the filler takes

    def add(self, reservation: Reservation, aborted: int, work: float, occupied: float, ahead: bool,
            now: float) -> None:  # fmt: skip
        """One was sent, `work` seconds of prefill with it, which take `occupied` seconds there.

        `ahead`: it may have to wait at the engine.
        """
        row = reservation.row
        self.reach(row + 1)
        self.rows.setdefault(row, {})[reservation] = aborted
        self._latest[row] = reservation
        self.requests[row] += 1.0
        self.context[row] += reservation.prompt
        self._recent[row] += work / self._fade(now)
        self._since[row] += occupied
        if ahead:
            self._ahead.setdefault(row, []).append(reservation)

    def remove(self, reservation: Reservation) -> bool:
        """It has ended, somehow. False if it is not (any more) in here."""
        row = reservation.row
        running = self.rows.get(row)
        if running is None or running.pop(reservation, None) is None:
            return False
        ahead = self._ahead.get(row, [])
        if reservation in ahead:
            ahead.remove(reservation)  # engines that tell no load bring no news by which it would go
        self.requests[row] -= 1.0
        self.context[row] = max(0.0, self.context[row] - reservation.prompt - reservation.written)
        if not running:
            del self.rows[row], self._latest[row]
            self.requests[row] = self.context[row] = 0.0
        return True

    def unread(self, row: int) -> float:
        """Prompt tokens of a row that are not worked off yet."""
        return sum(each.uncached for each in self.rows.get(row, ()) if not each.started)

    def recount(self) -> None:
        """What they have written since counts as context too."""
        for row, running in self.rows.items():
            self.context[row] = sum(each.prompt + each.written for each in running)

    def recent(self, now: float) -> Floats:
        """Seconds of prefill lately sent by row, fading as the predictor's do."""
        return self._recent * self._fade(now)

    def _fade(self, now: float) -> float:
        passed = now - self._zero
        if passed > RENEW:
            self._recent *= math.exp(-min(passed, 100.0 * RECENT) / RECENT)
            self._zero, passed = now, 0.0
        return math.exp(-passed / RECENT)

    def unstarted(self) -> int:
        """How many rows have a prompt of the filler that is not worked off yet: those whose latest has not started."""
        return sum(not (latest.started or latest.settled) for latest in self._latest.values())

    def reach(self, size: int) -> None:
        """Make room for rows below `size`."""
        if size > len(self.requests):
            more = np.zeros(max(size, 2 * len(self.requests)) - len(self.requests))
            self.requests, self.context, self._recent, self._since, self._said = (
                np.concatenate((column, more))
                for column in (self.requests, self.context, self._recent, self._since, self._said)
            )

    def backlog(self, fleet: Fleet, now: float, occupied: float) -> Floats:
        """Seconds of prefill that wait at each engine, by its last word and what it was sent since; NaN: it is silent.

        `occupied`: seconds that one prompt takes. Of plain answers nobody sees the first token, and when they are taken
        to have started is a guess.
        """
        count = len(fleet.at)
        self.reach(count)
        said = fleet.at[:count]
        news = said != self._said[:count]
        self._since[:count][news] = 0.0
        self._said[:count] = said
        for row in self._ahead:
            if row < count and news[row]:
                waiting = fleet.waiting.item(row)
                self._ahead[row] = self._ahead[row][-int(waiting) :] if waiting >= 1.0 else []
        passed = now - said
        left: Floats = fleet.waiting[:count] * occupied + self._since[:count] - passed
        return np.where(passed < FRESH, left, UNKNOWN)

    def rows_ahead(self) -> list[int]:
        """Rows where some may still wait at the engine."""
        return [row for row, sent in self._ahead.items() if sent]

    def waiting(self, row: int) -> list[tuple[Reservation, int]]:
        """Those of a row that may still wait at its engine, and how often they were aborted before; asked only once."""
        running = self.rows.get(row, {})
        return [(each, running[each]) for each in self._ahead.pop(row, ()) if each in running]

    def learn(self, outcome: Outcome | None) -> None:
        """How long a token takes, so that of plain answers it is known about how far they are."""
        if outcome is not None and outcome.ended == "complete" and outcome.output_tokens > 0.0:
            each = outcome.duration / outcome.output_tokens
            self._each = each if self._each != self._each else self._each + FOLLOW * (each - self._each)

    def youngest(self, row: int, now: float) -> list[tuple[Reservation, float, int]]:
        """Those of a row with the tokens they have written and how often they were aborted; least progress first."""
        found = []
        for reservation, aborted in self.rows.get(row, {}).items():
            written = reservation.written
            if not written and reservation.started and self._each == self._each:
                written = min(reservation.expected, (now - reservation.at) / self._each)
            found.append((reservation, written, aborted))
        found.sort(key=lambda one: (one[0].started, one[1], -one[0].at))
        return found
