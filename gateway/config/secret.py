"""A value that is used and never shown.

The idea: a type of its own, so that what prints, masks or compares a configuration can tell a secret from a text.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A value that must not be seen in logs, errors or pages: only `reveal()` gives it away."""

    _value: str

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"
