"""What a picking policy sees: the rows that may be chosen, and the fleet's columns cut to them."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gateway.core.types import Endpoint, Floats, Rows

if TYPE_CHECKING:
    from gateway.core.fleet import Fleet

# How exact the ages in a decision record are, in seconds.
AGED = 0.05


class Snapshot:
    """`now` and the rows that may be chosen, never empty. A view: good until the next `await`.

    Every column has one value per candidate, in the order of `rows`.
    """

    __slots__ = ("fleet", "now", "rows", "whole")

    def __init__(self, fleet: Fleet, now: float, rows: Rows, whole: bool):
        self.fleet = fleet
        self.now = now
        self.rows = rows
        self.whole = whole  # the rows are 0, 1, 2 and so on

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, values: Floats) -> Floats:
        """The candidates' part of a fleet column (a view where every row is a candidate; do not write to it).

        Of a table, the same part of each of its rows.
        """
        count = len(self.rows)
        if not self.whole:
            return values.take(self.rows, -1)
        return values if values.shape[-1] == count else values[..., :count]

    @property
    def random(self) -> Random:
        return self.fleet.random

    @property
    def requests(self) -> Floats:
        """Requests there: ours in flight plus others'."""
        return self.column(self.fleet.requests)

    @property
    def tokens(self) -> Floats:
        """Tokens still to be worked off there: prompts not yet prefilled, outputs not yet written, others' share."""
        return self.column(self.fleet.tokens)

    @property
    def prefill(self) -> Floats:
        """Uncached prompt tokens that we sent and whose first token has not come."""
        return self.column(self.fleet.prefill)

    @property
    def ours(self) -> Floats:
        """Our requests in flight."""
        return self.column(self.fleet.ours)

    @property
    def kv_used(self) -> Floats:
        """Share of KV blocks held by running requests; NaN where not said."""
        return self.column(self.fleet.kv_used)

    def picture(self) -> npt.NDArray[np.float32]:
        """A copy for the record: requests, tokens, prefill, kv_used and age, one column per candidate."""
        fleet, now = self.fleet, self.now
        if now - fleet.aged_at > AGED:
            np.subtract(now, fleet.at, out=fleet.aged)
            fleet.aged_at = now
        shown = fleet.table[:5]
        part = shown[:, : len(self.rows)] if self.whole else shown[:, self.rows]
        return part.astype(np.float32)

    @property
    def age(self) -> Floats:
        """Seconds since the last scrape; infinite where there was none."""
        return self.now - self.column(self.fleet.at)

    def endpoint(self, row: int) -> Endpoint:
        """The endpoint in a fleet row."""
        return self.fleet.endpoint(row)

    def ids(self) -> list[str]:
        return [self.fleet.endpoint(int(row)).id for row in self.rows]
