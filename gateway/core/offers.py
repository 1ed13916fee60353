"""Which endpoints of a pool serve a model, where they do not all serve the same: adapters, several base models.

The idea: an endpoint that lists the models it serves, and not this one, is left out for a request that needs it, as
long as another endpoint does list it. Where nobody does, the lists say nothing of this name (many servers answer to
any) and everybody stays in. Not so with a name that is loaded on demand: who does not list it has not got it, and where
nobody does, everybody is left out. The rows to leave out are kept per name, so a request costs one look into a dict.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from gateway.core.types import Rows

NOBODY: Rows = np.empty(0, np.intp)
MOST = 1024  # names whose rows are kept


class Offers:
    """What the endpoints in a fleet's rows say they serve."""

    def __init__(self) -> None:
        self._names: dict[int, frozenset[str]] = {}
        self._contexts: dict[int, Mapping[str, int]] = {}
        self._on_demand: frozenset[str] = frozenset()
        self._distrusted: dict[int, frozenset[str]] = {}
        self._lacking: dict[str, Rows] = {}
        self._longest: dict[str, int | None] = {}

    def on_demand(self, names: frozenset[str]) -> None:
        """Only who lists one of these serves it."""
        if names != self._on_demand:
            self._on_demand = names
            self._lacking.clear()
            self._longest.clear()

    def known(self, rows: Iterable[int]) -> None:
        """There are endpoints in these rows; those that are new have not said what they serve."""
        for row in rows:
            if row not in self._names:
                self._set(row, frozenset())

    def told(self, row: int, names: Collection[str]) -> None:
        """The endpoint in this row serves these; none: it has not said."""
        listed = frozenset(names)
        distrusted = self._distrusted.get(row)
        if distrusted:
            self._distrusted[row] = distrusted & listed  # what it lists no longer is not there any more
        self._set(row, listed - distrusted if distrusted else listed)

    def _set(self, row: int, listed: frozenset[str]) -> None:
        if row not in self._names or self._names[row] != listed:
            self._names[row] = listed
            self._lacking.clear()
            self._longest.clear()

    def forget(self, row: int) -> None:
        """Another endpoint may get the row."""
        self._contexts.pop(row, None)
        self._distrusted.pop(row, None)
        self._longest.clear()
        if self._names.pop(row, None) is not None:
            self._lacking.clear()

    def contexts(self, row: int, lengths: Mapping[str, int]) -> None:
        """The most tokens of prompt and answer together, by model, that the endpoint in this row takes."""
        self._contexts[row] = lengths
        self._longest.clear()

    def longest(self, name: str, endpoints: int) -> int | None:
        """The most tokens that any of so many `endpoints` takes for this model; None: some have not said."""
        if len(self._names) < endpoints:
            return None
        try:
            return self._longest[name]
        except KeyError:
            if len(self._longest) >= MOST:
                self._longest.clear()
            found = self._longest[name] = self._longest_of(name)
            return found

    def _longest_of(self, name: str) -> int | None:
        out = set(self.lacking(name).tolist())
        said = [self._contexts.get(row, {}).get(name) for row in self._names if row not in out]
        known = [length for length in said if length is not None]
        return max(known) if known and len(known) == len(said) else None

    def learn(self, row: int, name: str) -> None:
        """It serves this one, too."""
        self._distrusted[row] = self.distrusted(row) - {name}
        self._set(row, self.of(row) | {name})

    def unlearn(self, row: int, name: str) -> None:
        """It serves this one no longer."""
        self._set(row, self.of(row) - {name})

    def distrust(self, row: int, name: str) -> None:
        """What it serves by this name is another thing than what is meant now: not believed before it is learnt."""
        self._distrusted[row] = self.distrusted(row) | {name}
        self.unlearn(row, name)

    def distrusted(self, row: int) -> frozenset[str]:
        """What this endpoint may serve by a name that means another thing now."""
        return self._distrusted.get(row, frozenset())

    def of(self, row: int) -> frozenset[str]:
        """What the endpoint in this row says it serves; nothing where it has not said."""
        return self._names.get(row, frozenset())

    def having(self, name: str) -> list[int]:
        """The rows whose endpoints list this name."""
        return [row for row, names in self._names.items() if name in names]

    def lacking(self, name: str) -> Rows:
        """The rows that cannot serve it, as far as is known."""
        found = self._lacking.get(name)
        if found is None:
            if len(self._lacking) >= MOST:
                self._lacking.clear()
            on_demand = name in self._on_demand
            rows = [row for row, names in self._names.items() if name not in names and (names or on_demand)]
            found = self._lacking[name] = np.array(rows, np.intp) if on_demand or self.having(name) else NOBODY
        return found
