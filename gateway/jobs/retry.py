"""When a piece of durable work that failed is tried again, and when it is given up.

Exponential, with a spread so that what failed together does not come back together; a wait that the other side asked
for is kept to if it is longer. Tries that reached a model server and failed are few; being told "not now" may happen
often, but not for ever; a fleet that is away uses up nobody's tries, however long. (A rival's queue made 593 attempts
in 50 s against a constant 429.)
"""

from __future__ import annotations

from math import isfinite
from random import Random

FAILURES = 5  # tries that may fail; the engine's part in it is over then
SATURATED = 30  # tries that may be told "not now": about half an hour
FIRST, LONGEST = 1.0, 60.0  # seconds
SPREAD = 0.25  # of the wait, to either side
MOST_ASKED = 3600.0  # seconds that another side may ask to wait


def is_given_up(tries: int, most: int) -> bool:
    """Whether this failure, after `tries` earlier ones, was the last of `most`."""
    return tries + 1 >= most


def wait(tries: int, asked: float, random: Random, longest: float = LONGEST) -> float:
    """Seconds to wait after `tries` failures in a row; `asked`: what the other side wants, NaN for nothing."""
    own = min(longest, FIRST * 2.0 ** min(tries, 30)) * random.uniform(1.0 - SPREAD, 1.0 + SPREAD)
    return max(own, min(asked, MOST_ASKED) * random.uniform(1.0, 1.0 + SPREAD)) if isfinite(asked) else own
