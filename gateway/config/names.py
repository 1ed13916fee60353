"""Which configured model a client's name means: exact name, then exact alias, then the longest pattern.

The idea: one dictionary for everything exact, and the patterns in order of how much they spell out. In a pattern `*`
is any run of characters, also an empty one; the longest is the one with the most other characters. Two patterns of the
same length that could match one name are refused when the file is checked, so the answer never depends on the order.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from itertools import islice

from gateway.config.types import ANY_MODEL, Model


def matches(pattern: str, name: str) -> bool:
    """Whether `name` fits `pattern`. Linear in both: no regular expression that a client's name could stall."""
    first, *middle, last = pattern.split("*")
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def length(pattern: str) -> int:
    """How many characters the pattern spells out."""
    return len(pattern) - pattern.count("*")


def overlap(one: str, other: str) -> bool:
    """Whether some name fits both patterns (each has a `*`).

    Their beginnings must agree as far as the shorter goes, and so must their ends; then the longer beginning, all the
    middles and the longer end make such a name.
    """
    starts, ends = (one.split("*")[0], other.split("*")[0]), (one.split("*")[-1], other.split("*")[-1])
    short, long = sorted(starts, key=len)
    short_end, long_end = sorted(ends, key=len)
    return long.startswith(short) and long_end.endswith(short_end)


class ModelNames:
    """The models of one configuration, by what clients call them."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._exact = {alias: model for model in models.values() for alias in model.aliases}
        self._exact.update((name, model) for name, model in models.items() if name != ANY_MODEL)
        patterns = [(pattern, model) for model in models.values() for pattern in model.patterns]
        if ANY_MODEL in models:
            patterns.append((ANY_MODEL, models[ANY_MODEL]))
        self._patterns = sorted(patterns, key=lambda pair: -length(pair[0]))

    def find(self, asked: str) -> Model | None:
        """The model that `asked` means, or None."""
        if (model := self._exact.get(asked)) is not None:
            return model
        for pattern, model in self._patterns:
            if matches(pattern, asked):
                return model
        return None

    def near(self, asked: str) -> list[str]:
        """Up to three known names that look like `asked`, the nearest first; bounded, since clients can ask often."""
        return get_close_matches(asked[:64], list(islice(self._exact, 100)), n=3, cutoff=0.5)
