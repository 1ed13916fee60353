"""Where a filler's prompt may be worked off: an account of first tokens that find no endpoint free for them.

The idea: an endpoint that works off a prompt is no place for the first token of somebody else, who goes elsewhere as
long as there is an elsewhere. With so many arrivals, each occupying an endpoint for so long, the share that finds the
other endpoints all occupied is Erlang's loss formula. So a filler's prompt costs (arrivals while it is worked off) x
(their share that finds none); the account earns a share of all arrivals, and what costs more than is there waits. With
one endpoint that becomes what it must: a share of the time.

How long a prompt occupies an endpoint depends on its chunks: each takes a whole iteration with all that decodes there.
"""

from __future__ import annotations

import math

from gateway.core.predictor import Predictor

CREDIT = 2.0  # seconds for which the account may be saved up


class Prompts:
    """One pool's account, in arrivals. `share` of them may find no endpoint free."""

    def __init__(self, share: float):
        self._share = share
        self._credit, self._at = 0.0, -math.inf

    def earn(self, rate: float, now: float) -> None:
        """So many arrivals per second are expected, and were since the last time."""
        passed = min(now - self._at, CREDIT)
        self._at = now
        gain = self._share * rate
        self._credit = min(self._credit + gain * passed, max(1.0, gain * CREDIT))

    def may_spend(self, cost: float) -> bool:
        """Whether so much is there."""
        return cost <= self._credit

    def spend(self, cost: float) -> None:
        """A prompt was sent."""
        self._credit -= cost


def occupied(predictor: Predictor, row: int, prompt: float, iteration: float) -> float:
    """Seconds for which a prompt keeps an endpoint busy whose decodes take `iteration` by themselves."""
    return rounds(predictor, row, prompt) * iteration + work(predictor, row, prompt)


def rounds(predictor: Predictor, row: int, prompt: float) -> float:
    """Iterations over which a prompt is worked off."""
    return float(math.ceil(prompt / predictor.learnt.room(predictor.books.decoding.item(row))))


def work(predictor: Predictor, row: int, prompt: float) -> float:
    """Seconds that a prompt adds to the iterations it is worked off in."""
    learnt, count = predictor.learnt, rounds(predictor, row, prompt)
    seconds = count * learnt.price(predictor.books.decoding.item(row), prompt / count)
    return learnt.paces.prefill.item(row) * (seconds + learnt.prices.each[7] * prompt * prompt / 2.0)


def blocked(offered: float, servers: int) -> float:
    """The share of arrivals that find all `servers` busy where they offer so much work (Erlang's loss formula)."""
    share = 1.0
    for n in range(1, servers + 1):
        share = offered * share / (n + offered * share)
    return share
