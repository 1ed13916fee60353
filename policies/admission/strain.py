"""What filler does to the others on each endpoint, in seconds: of an iteration, of the share of time prefills take.

The idea: the time of an iteration is a sum of known parts (`gateway.core.formula`), so the part that filler adds is known
too: so much for each of its sequences, so much for each token of context they read. And a stream's pace is the time of an
iteration stretched by the share of time that prefills take, 1 / (1 - rho), of which again a part is the filler's.

`Ledger` keeps who of the filler is where; `Strain` is one look at all endpoints. What is allowed is decided in `filler`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gateway.core.books import RECENT
from gateway.core.fleet import Fleet
from gateway.core.predictor import Predictor
from gateway.core.reservation import Reservation
from gateway.core.types import Floats

LONGEST_RHO = 0.9
RENEW = 100.0  # seconds after which fading sums get a new zero


class Ledger:
    """The filler in flight, by row. Its sequences, the context they read and the prefill seconds they were sent with."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[Reservation, int]] = {}  # how often each was aborted before
        self.requests: Floats = np.zeros(8)
        self.context: Floats = np.zeros(8)
        self._recent: Floats = np.zeros(8)
        self._zero = 0.0

    def add(self, reservation: Reservation, aborted: int, work: float, now: float) -> None:
        """One was sent, `work` seconds of prefill with it."""
        row = reservation.row
        self.reach(row + 1)
        self.rows.setdefault(row, {})[reservation] = aborted
        self.requests[row] += 1.0
        self.context[row] += reservation.prompt
        self._recent[row] += work / self._fade(now)

    def remove(self, reservation: Reservation) -> bool:
        """It has ended, somehow. False if it is not (any more) in here."""
        row = reservation.row
        running = self.rows.get(row)
        if running is None or running.pop(reservation, None) is None:
            return False
        self.requests[row] -= 1.0
        self.context[row] = max(0.0, self.context[row] - reservation.prompt - reservation.written)
        if not running:
            del self.rows[row]
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

    def reach(self, size: int) -> None:
        """Make room for rows below `size`."""
        if size > len(self.requests):
            more = np.zeros(max(size, 2 * len(self.requests)) - len(self.requests))
            self.requests, self.context, self._recent = (
                np.concatenate((column, more)) for column in (self.requests, self.context, self._recent)
            )

    def youngest(self, row: int) -> Iterator[tuple[Reservation, int]]:
        """Those of a row, the least progress first."""
        running = self.rows.get(row, {})
        yield from sorted(running.items(), key=lambda one: (one[0].started, one[0].written, -one[0].at))


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
        return (self.iteration - self.filler) / (1.0 - np.minimum(self.rho - self.rho_filler, LONGEST_RHO))

    def pace(self, sequences: float = 0.0, context: float = 0.0, work: float = 0.0) -> Floats:
        """The pace with all that is there, and so many sequences, tokens of context and seconds of prefill more."""
        iteration = self.iteration + self.sequence * sequences + self.context_each * context
        return iteration / (1.0 - np.minimum(self.rho + work / RECENT, LONGEST_RHO))
