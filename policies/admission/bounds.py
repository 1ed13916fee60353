"""What filler may do to the protected class: the bounds of its effects, and where the class is expected next.

`Bounds` learns of the class how often it comes, what it is promised and how soon it is answered, and says in seconds
what may be taken of that:

* where one is expected, filler may lengthen an iteration so much that a first token, which waits for half of the
  running one and for those of its own prompt, comes later by `slowdown` of what it takes, or by 12.5 ms;
* where one is, tokens must come within the share `use` (`loop`) of the promised TPOT; without a promise, within
  `slowdown` of the pace without filler. Where the class alone is beyond that, nothing is left for filler.

Left to others: what filler does (`strain`), its prompts (`prompts`), what follows from it (`filler`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.core.predictor import Predictor
from gateway.core.reservation import Reservation
from gateway.core.types import UNKNOWN, Floats, Outcome, Request, Rows
from policies.admission.arrivals import Arrivals, enough_for
from policies.admission.ledger import Ledger
from policies.admission.loop import Loop
from policies.admission.prompts import rounds
from policies.admission.strain import Strain

Flags = npt.NDArray[np.bool_]

LEAST_TTFT = 0.0125  # seconds of a first token that nobody notices
RUNNING = 0.5  # of an iteration is left, on average, when a request comes
STANDBY = 16  # one endpoint in so many stands by
FOLLOW = 0.02


class _Sent(NamedTuple):
    """A protected request in flight: what was predicted of its first token, and the filler's part of it."""

    predicted: float
    effect: float


class Bounds:
    """One pool's. `slowdown` is the operator's."""

    def __init__(self, slowdown: float):
        self.slowdown = slowdown
        self.arrivals = Arrivals()
        self.loop = Loop()
        self._sent: dict[Reservation, _Sent] = {}
        self._is_told = False
        self._ttft_slo = self._tpot_slo = UNKNOWN
        self._ttft = UNKNOWN  # mean of the class's first tokens without the filler's part

    # --- what it learns ------------------------------------------------------------------------------------------

    def came(self, request: Request, now: float) -> None:
        """One of the class has come. Who says so says it of each; else those that were sent count."""
        self._is_told = True
        self._see(request, now)

    def _see(self, request: Request, now: float) -> None:
        self.arrivals.see(request.prompt_tokens, now)
        self._ttft_slo = _tightest(self._ttft_slo, request.ttft_slo)
        self._tpot_slo = _tightest(self._tpot_slo, request.tpot_slo)

    def taken(self, reservation: Reservation, request: Request, ledger: Ledger, now: float) -> None:
        """One of the class was sent."""
        if not self._is_told:
            self._see(request, now)
        forecast, predictor = reservation.forecast, reservation.fleet.predictor
        if forecast is None or predictor is None:
            return
        row, effect = reservation.row, 0.0
        if row in ledger.rows:
            _, _, decode, context = predictor.learnt.prices.each[:4]
            waits = RUNNING + rounds(predictor, row, self.arrivals.prompt)
            each = decode * ledger.requests.item(row) + context * ledger.context.item(row)
            effect = waits * predictor.learnt.paces.decode.item(row) * each
        self._sent[reservation] = _Sent(forecast.ttft, effect)

    def ended(self, reservation: Reservation, outcome: Outcome | None, now: float) -> None:
        """One of the class has ended, somehow."""
        sent = self._sent.pop(reservation, None)
        if sent is None or outcome is None or outcome.ended != "complete" or not reservation.stream:
            return
        self.loop.learn(outcome, sent.predicted, sent.effect, now)
        if outcome.ttft == outcome.ttft:
            alone = max(0.0, outcome.ttft - sent.effect)
            self._ttft = alone if self._ttft != self._ttft else self._ttft + FOLLOW * (alone - self._ttft)

    # --- what is allowed -----------------------------------------------------------------------------------------

    def iteration(self, predictor: Predictor) -> float:
        """Seconds that filler may add to an iteration where somebody is expected."""
        ttft = self._ttft if self._ttft == self._ttft else 0.0
        waits = RUNNING + math.ceil(self.arrivals.prompt / predictor.learnt.chunk)
        return max(LEAST_TTFT, self.slowdown * ttft) / (waits * self.loop.correction)

    def pace(self, strain: Strain) -> Floats:
        """Seconds between tokens that must be kept by row; 0 where nothing is left for filler."""
        alone = strain.alone()
        if self._tpot_slo != self._tpot_slo:
            return alone * (1.0 + self.slowdown)
        limit = self.loop.use * self._tpot_slo
        return np.where(alone >= limit, 0.0, limit)

    def keeps_first(self, behind: Floats, predictor: Predictor) -> Flags:
        """Where a first token of the class keeps its promise that waits `behind` so many seconds of what is there."""
        if self._ttft_slo != self._ttft_slo:
            return np.ones(len(behind), np.bool_)
        kept: Flags = behind + predictor.idle_ttft(self.arrivals.prompt) <= self.loop.use * self._ttft_slo
        return kept

    def expected(self, strain: Strain, rows: Rows, now: float, ahead: float, standby: bool = True) -> Flags:
        """Where arrivals of the next `ahead` seconds would go, by row: to endpoints that filler slows the least."""
        mean = self.arrivals.rate(now) * ahead
        least = len(rows) // STANDBY if standby and self.arrivals.any else 0
        count = max(least, enough_for(mean, self.slowdown, len(rows)))
        expected = np.zeros(len(strain.filler), np.bool_)
        if count:
            expected[rows[np.argsort(strain.filler[rows], kind="stable")[:count]]] = True
        return expected


def _tightest(known: float, told: float) -> float:
    """The tightest promise of late; one that is not made any more is forgotten."""
    if told != told:
        return known
    return told if known != known or told < known else known + FOLLOW * (told - known)
