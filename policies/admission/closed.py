"""Which endpoints a filler request could not go to when it was asked, and why: for those who ask later.

The idea: the filler's bounds are columns of yes and no that are there anyway; they are kept until the next request is
asked, and read only if this one's story is told.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from gateway.core.fleet import Fleet
from gateway.core.snapshot import Snapshot
from gateway.core.types import Request, Rows

MOST = 64  # endpoints that are named


class Look:
    """One look of the filler. `bounds`: by name, of each row of the fleet, whether it is kept.

    `open`: of each candidate, whether it is open; where no bound says why not, `rest` does. `found`: what came of it.
    """

    __slots__ = ("_bounds", "_fleet", "_open", "_rest", "_rows", "found", "request")

    def __init__(self, request: Request, fleet: Fleet, rows: Rows, bounds: Mapping[str, npt.NDArray[np.bool_]],
                 open_: npt.NDArray[np.bool_], rest: str):  # fmt: skip
        self.request = request
        self.found: Snapshot | None = None
        self._fleet = fleet
        self._rows = rows
        self._bounds = bounds
        self._open = open_
        self._rest = rest

    def closed(self) -> tuple[tuple[str, str], ...]:
        """Endpoints (ids) with the word for why."""
        closed = self._rows[~self._open].tolist()[:MOST]
        return tuple((self._fleet.endpoint(row).id, self._why(row)) for row in closed)

    def _why(self, row: int) -> str:
        return next((name for name, kept in self._bounds.items() if not kept[row]), self._rest)
