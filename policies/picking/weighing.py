"""The sums of `predicted_latency`: what it weighs, worked out for all candidates at once.

The idea: at 64 endpoints numpy's calls cost more than its arithmetic. So what is predicted and the smooth steps of it
lie in one table, row beside row, and the scores and all the terms of the record come from one product with a small
matrix. The step from 0 to 1 is the logistic function, close to the normal distribution's, in the form that takes one
call: L(x) = (1 + tanh(1.702 x / 2)) / 2. What is weighed and why: `predicted_latency`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gateway.core.prediction import Prediction
from gateway.core.types import Floats

TTFT_SHARE, TPOT_SHARE, HARM_FROM = 2.5, 0.5, 1.05
LOGISTIC = 1.702

# Rows of the table: seconds to the first token, seconds per token without and with the request, ones; the three steps;
# how much is delayed, the same times its step, what is cached, what work that is done again costs others.
TTFT, NOW, AFTER, ONE, LATE, SLOW, WORSE, DELAYED, HARMED, CACHED, AGAIN = range(11)
# What is made of them: the score, then what the record shows.
SCORE, OF_TTFT, OF_TPOT, OF_LATE, OF_SLOW, OF_HARM, OF_CACHED, OF_AGAIN = range(8)


class Promise(NamedTuple):
    """What a request is weighed by: seconds that are promised, how far each prediction may be off (a share of them).

    `harm`: what the delay of one sequence by one second counts.
    """

    ttft: float
    tpot: float
    ttft_spread: float
    tpot_spread: float
    harm: float


class Weighing:
    """The table and the matrices, kept from one request to the next."""

    def __init__(self) -> None:
        self._steps, self._sums = np.zeros((3, ONE + 1)), np.zeros((OF_AGAIN + 1, AGAIN + 1))
        sums = self._sums
        sums[SCORE, [LATE, SLOW]] = sums[OF_LATE, [ONE, LATE]] = sums[OF_SLOW, [ONE, SLOW]] = 0.5
        sums[OF_TTFT, TTFT] = sums[OF_CACHED, CACHED] = sums[SCORE, AGAIN] = sums[OF_AGAIN, AGAIN] = 1.0
        self._make_room(1)

    def _make_room(self, count: int) -> None:
        self._table: Floats = np.ones((AGAIN + 1, count))
        table = self._table
        self._given, self._ahead, self._stepped = table[:ONE], table[: ONE + 1], table[LATE : WORSE + 1]
        self._worse, self._delayed, self._harmed, self._cached, self._again = table[WORSE:]

    def weigh(self, prediction: Prediction, promise: Promise, cached: Floats | None,
              again: Floats | None = None) -> tuple[Floats, Floats]:  # fmt: skip
        """Scores, shape (candidates,), and the terms of the record, shape (7, candidates): lower is better.

        `cached` in tokens, `again` as it is to be added (None: nothing).
        """
        p = prediction
        if len(self._cached) != len(p.rows):
            self._make_room(len(p.rows))
        self._lay_out(p, promise)
        self._given[:] = p.sheet.steps
        self._cached[:] = 0.0 if cached is None else cached
        self._again[:] = 0.0 if again is None else again
        self._steps.dot(self._ahead, self._stepped)
        np.tanh(self._stepped, self._stepped)
        np.multiply(p.sheet.batch, p.sheet.work, self._delayed)
        np.multiply(self._delayed, self._worse, self._harmed)
        found: Floats = self._sums.dot(self._table)
        return found[SCORE], found[OF_TTFT:]

    def _lay_out(self, p: Prediction, promise: Promise) -> None:
        """Write the matrices. A pace is evened out while an answer lasts: `lasting` of it and a part of the mean."""
        ttft, tpot, ttft_spread, tpot_spread, harm = promise
        first, each = LOGISTIC / 2.0 / ttft_spread, LOGISTIC / 2.0 / tpot_spread
        lasts, now, after = p.lasting, (1.0 - p.lasting) * p.level, (1.0 - p.lasting) * p.level_after
        steps, sums = self._steps, self._sums
        steps[0, TTFT], steps[0, ONE] = first / ttft, -first
        steps[1, NOW] = steps[2, AFTER] = each / tpot * lasts
        steps[1, ONE], steps[2, ONE] = each * (now / tpot - 1.0), each * (after / tpot - HARM_FROM)
        sums[SCORE, TTFT], sums[SCORE, AFTER] = TTFT_SHARE / ttft, TPOT_SHARE / tpot * lasts
        sums[SCORE, ONE] = TPOT_SHARE / tpot * after + 1.0
        sums[SCORE, DELAYED] = sums[SCORE, HARMED] = sums[OF_HARM, DELAYED] = sums[OF_HARM, HARMED] = harm / 2.0
        sums[OF_TPOT, AFTER], sums[OF_TPOT, ONE] = lasts, after
