"""What a picking policy is: `pick` one endpoint for one request, `observe` how it went.

A policy may count on a snapshot that is not empty, in which every row is a legal answer, and on nobody else
running during the call. It promises no I/O, no `await`, no clock but `snapshot.now`, no randomness but
`snapshot.random`, and to keep nothing of the snapshot. It does not count requests in flight: the fleet does.

The keyword arguments of `__init__` are the YAML keys of `pick:`, their defaults are the documentation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random
from typing import ClassVar

import numpy as np

from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Floats, Outcome, Request

# Counts that differ by less are equal: sums of floats drift.
EQUAL = 1e-6


class Policy(ABC):
    """The socket of the room. Subclass it in a file of its own and add one line to the registry.

    A policy with `predicts` finds a `Predictor` at `snapshot.fleet.predictor`; `TERMS` names the rows of the table that
    it puts into `Decision.terms`.
    """

    predicts: ClassVar[bool] = False
    TERMS: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        """Choose one candidate. Returns a fleet row (`int(snapshot.rows[i])`), not a position in the snapshot.

        The request may yet wait or be refused, and be asked about again. So what is remembered of where it goes is not
        remembered here, but when the decision's `taken` is called.
        """

    def observe(self, outcome: Outcome) -> None:
        """Learn from how a try ended. Called once per reservation, after the fleet has settled it."""

    def leave(self, row: int) -> None:
        """The endpoint in this row is gone; the row may be given to another one."""


def lowest(values: Floats, random: Random, slack: float = EQUAL) -> int:
    """Position of the lowest value; among those within `slack` of it, any at random, so that a tie makes no herd.

    A NaN is never the lowest, unless there is nothing else.
    """
    position = int(values.argmin())
    least = values[position]
    if least != least:
        values = np.nan_to_num(values, nan=np.inf, posinf=np.inf)
        position = int(values.argmin())
        least = values[position]
    ties = (values <= least + slack).nonzero()[0]
    return position if len(ties) <= 1 else int(ties[int(random.random() * len(ties))])
