"""Which endpoints a filler request could not go to when it was asked, and why: for those who ask later.

The idea: the filler's bounds are columns of yes and no that are there anyway; they are kept until the next request is
asked, and read only if this one's story is told.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from gateway.core.snapshot import Snapshot
from gateway.core.types import Request

Flags = npt.NDArray[np.bool_]

MOST = 64  # endpoints that are named


class Look:
    """One look of the filler, of all `asked` for. `kept`: by name, whether a bound is kept at each of these.

    `open`: whether each is open; where no bound says why not, `rest` does. `found`: what came of it.
    """

    __slots__ = ("_asked", "_kept", "_open", "_rest", "found", "request")

    def __init__(self, request: Request, asked: Snapshot, kept: Mapping[str, Flags], open_: Flags, rest: str):
        self.request = request
        self.found: Snapshot | None = None
        self._asked = asked
        self._kept = kept
        self._open = open_
        self._rest = rest

    def closed(self) -> tuple[tuple[str, str], ...]:
        """Endpoints (ids) with the word for why."""
        fleet, rows = self._asked.fleet, self._asked.rows
        closed = (~self._open).nonzero()[0].tolist()[:MOST]
        return tuple((fleet.endpoint(rows.item(place)).id, self._why(place)) for place in closed)

    def _why(self, place: int) -> str:
        return next((name for name, kept in self._kept.items() if not kept[place]), self._rest)
