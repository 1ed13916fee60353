"""Which endpoints of a pool serve a model, where they do not all serve the same: adapters, several base models.

The idea: an endpoint that lists the models it serves, and not this one, is left out for a request that needs it, as
long as another endpoint does list it. Where nobody does, the list says nothing of this name (many servers answer to any)
any) and everybody stays in. The rows to leave out are kept per name, so a request costs one look into a dict.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from gateway.core.types import Rows

NOBODY: Rows = np.empty(0, np.intp)
MOST = 1024  # names whose rows are kept


class Offers:
    """What the endpoints in a fleet's rows say they serve."""

    def __init__(self) -> None:
        self._names: dict[int, frozenset[str]] = {}
        self._lacking: dict[str, Rows] = {}

    def told(self, row: int, names: Collection[str]) -> None:
        """The endpoint in this row serves these; none: it has not said."""
        listed = frozenset(names)
        if self._names.get(row, frozenset()) != listed:
            self._names[row] = listed
            self._lacking.clear()

    def forget(self, row: int) -> None:
        """Another endpoint may get the row."""
        if self._names.pop(row, None) is not None:
            self._lacking.clear()

    def having(self, name: str) -> list[int]:
        """The rows whose endpoints list this name."""
        return [row for row, names in self._names.items() if name in names]

    def lacking(self, name: str) -> Rows:
        """The rows that cannot serve it, as far as is known."""
        found = self._lacking.get(name)
        if found is None:
            if len(self._lacking) >= MOST:
                self._lacking.clear()
            rows = [row for row, names in self._names.items() if names and name not in names]
            found = self._lacking[name] = np.array(rows, np.intp) if self.having(name) else NOBODY
        return found
