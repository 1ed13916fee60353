"""What filler does to the others on each endpoint, in seconds: of an iteration, of the share of time prefills take.

The idea: the time of an iteration is a sum of known parts (`gateway.core.formula`), so the part that filler adds is
known too: so much for each of its sequences, so much for each token of context they read. And a stream's pace is the
time of an iteration stretched by the share of time that prefills take, 1 / (1 - rho), of which again a part is the
filler's.

`Ledger` keeps who of the filler is where; `Strain` is one look at all endpoints. What is allowed: see `filler`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from gateway.core.books import RECENT
from gateway.core.fleet import Fleet
from gateway.core.predictor import Predictor
from gateway.core.reservation import Reservation
from gateway.core.types import UNKNOWN, Floats, Outcome

Flags = npt.NDArray[np.bool_]

LONGEST_RHO = 0.9
FOLLOW = 0.05  # weight of one answer
FRESH = 2.5  # seconds that an endpoint's word is good for
RENEW = 100.0  # seconds after which fading sums get a new zero


class Ledger:
    """The filler in flight, by row: its sequences, the context they read, the prefill seconds they were sent with."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[Reservation, int]] = {}  # how often each was aborted before
        self._latest: dict[int, Reservation] = {}
        self._ahead: dict[int, list[Reservation]] = {}  # those that may still wait at an engine, in the order of sending
        self.requests: Floats = np.zeros(8)
        self.context: Floats = np.zeros(8)
        self._recent: Floats = np.zeros(8)
        self._since: Floats = np.zeros(8)  # seconds of prefill sent since an endpoint last said what waits there
        self._said: Floats = np.zeros(8)  # when that was
        self._zero = 0.0
        self._each = UNKNOWN  # seconds that a token of the filler takes

    def add(self, reservation: Reservation, aborted: int, work: float, occupied: float, ahead: bool, now: float) -> None:
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
        self.requests[row] -= 1.0
        self.context[row] = max(0.0, self.context[row] - reservation.prompt - reservation.written)
        if not running:
            del self.rows[row], self._latest[row]
            self.requests[row] = self.context[row] = 0.0
        return True

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


class Strain:
    """One look at rows of a fleet: columns in seconds unless said otherwise.

    `iteration`: with all that is there, prompts that wait counted as decoding; `filler`: its part of that; `rho`,
    `rho_filler`: shares of time; `others`: requests there that are not filler.
    """

    __slots__ = ("context_each", "filler", "iteration", "others", "rho", "rho_filler", "sequence")

    def __init__(self, fleet: Fleet, predictor: Predictor, ledger: Ledger, count: int, now: float):
        ledger.reach(count)
        books, learnt = predictor.books, predictor.learnt
        books.reach(count)
        learnt.paces.reach(count)
        slow = learnt.paces.decode[:count]
        _, base, decode, context = learnt.prices.each[:4]
        ours, decoding = books.decoding[:count] + books.waiting[:count], books.decoding[:count]
        elsewhere = books.others[:count]
        mean = float(books.context[:count].sum()) / max(1.0, float(decoding.sum()))
        self.sequence, self.context_each = slow * decode, slow * context
        self.iteration = slow * base + self.sequence * (ours + elsewhere)
        self.iteration += self.context_each * (books.context[:count] + books.queue[:count] + mean * elsewhere)
        self.filler = self.sequence * ledger.requests[:count] + self.context_each * ledger.context[:count]
        np.minimum(self.filler, self.iteration - slow * base, out=self.filler)
        self.rho = books.recent[:count] * (books.fade(now) / RECENT)
        self.rho_filler = np.minimum(ledger.recent(now)[:count] / RECENT, self.rho)
        self.others = fleet.ours[:count] - ledger.requests[:count] + elsewhere

    def alone(self) -> Floats:
        """The pace that there would be without filler."""
        pace: Floats = (self.iteration - self.filler) / (1.0 - np.minimum(self.rho - self.rho_filler, LONGEST_RHO))
        return pace

    def pace(self, sequences: float = 0.0, context: float = 0.0, work: float = 0.0) -> Floats:
        """The pace with all that is there, and so many sequences, tokens of context and seconds of prefill more."""
        iteration = self.iteration + self.sequence * sequences + self.context_each * context
        pace: Floats = iteration / (1.0 - np.minimum(self.rho + work / RECENT, LONGEST_RHO))
        return pace
