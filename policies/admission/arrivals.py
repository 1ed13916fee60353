"""How soon the next requests of a class will come: what a filler must expect to meet while it runs.

The idea: two moving rates, one of half a second that sees a burst begin and one of four seconds that does not forget it
in a pause; the higher one counts. A silence speaks too: if nothing came for t seconds, rates above 3 / t are improbable
(the rule of three: 95 %), so a fleet that has gone quiet is filled within a second or two. Arrivals within a short time
are taken as Poisson.

Left to others: what follows from it (`filler`).
"""

from __future__ import annotations

import math

FAST, SLOW = 0.5, 4.0  # seconds
RULE_OF_THREE = 3.0
MEMORY = 0.02  # weight of one request in the means


class Arrivals:
    """Of one pool's protected class. `prompt` is the mean length of what comes, in tokens."""

    def __init__(self) -> None:
        self.prompt = 1000.0
        self._last = -math.inf
        self._fast = self._slow = 0.0  # per second, as of `_last`

    def see(self, prompt_tokens: float, now: float) -> None:
        """One has come."""
        passed = max(0.0, now - self._last)
        self._fast = self._fast * math.exp(-passed / FAST) + 1.0 / FAST
        self._slow = self._slow * math.exp(-passed / SLOW) + 1.0 / SLOW
        self.prompt += MEMORY * (prompt_tokens - self.prompt)
        self._last = now

    @property
    def any(self) -> bool:
        """Whether one has ever come."""
        return self._last > -math.inf

    def rate(self, now: float) -> float:
        """Requests per second that may be expected now."""
        passed = now - self._last
        if passed == math.inf:
            return 0.0
        rate = max(self._fast * math.exp(-passed / FAST), self._slow * math.exp(-passed / SLOW))
        return min(rate, RULE_OF_THREE / passed) if passed > 0.0 else rate


def chance_of_more(mean: float, than: int) -> float:
    """The chance that more than so many come where `mean` are expected."""
    term = total = math.exp(-mean)
    for n in range(1, than + 1):
        term *= mean / n
        total += term
    return max(0.0, 1.0 - total)


def enough_for(mean: float, share: float, most: int) -> int:
    """The fewest, up to `most`, that are exceeded with no more than this chance where `mean` are expected."""
    term = total = math.exp(-mean)
    count = 0
    while count < most and 1.0 - total > share:
        count += 1
        term *= mean / count
        total += term
    return count
