"""What filler does to the others on each endpoint, in seconds: of an iteration, of the share of time prefills take.

The idea: the time of an iteration is a sum of known parts (`gateway.core.formula`), so the part that filler adds is
known too: so much for each of its sequences, so much for each token of context they read. And a stream's pace is the
time of an iteration stretched by the share of time that prefills take, 1 / (1 - rho), of which again a part is the
filler's.

`Strain` is one look at all endpoints. Who of the filler is where: `ledger`; what is allowed: `bounds`.
"""

from __future__ import annotations

import numpy as np

from gateway.core.books import RECENT
from gateway.core.fleet import Fleet
from gateway.core.predictor import Predictor
from gateway.core.types import Floats
from policies.admission.ledger import Ledger

LONGEST_RHO = 0.9


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
