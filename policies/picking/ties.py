"""A choice by one figure where another one breaks the ties: what several policies share.

Scores of idle or equally loaded endpoints are often the same to the last digit (no prompt waits anywhere, nobody holds
the prefix). Chance would do, but the number of requests still knows something, so it is asked first.
"""

from __future__ import annotations

from random import Random

import numpy as np

from gateway.core.types import Floats
from policies.picking.base import EQUAL, lowest


def fewest_of_lowest(values: Floats, requests: Floats, random: Random, slack: float = EQUAL) -> int:
    """Position of the lowest of `values`; of those within `slack` of it the one with the fewest `requests`; then any.

    Both have one value per candidate. NaN is never the lowest, unless there is nothing else.
    """
    least = float(np.fmin.reduce(values))
    return lowest(np.where(values <= least + slack, requests, np.inf), random)
