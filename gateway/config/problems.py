"""What is wrong with a configuration: where, what, and what was probably meant.

The idea: reading never stops at the first fault. Everything that finds one appends a `Problem`; at the end they are
raised together, in the order of the file, so that an operator mends a file in one round.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import NamedTuple

MOST_PROBLEMS = 50
"""Reading ends at this many: a file that is wrong everywhere needs no thousand lines, nor the time to write them."""
MOST_NAMES = 200
"""A suggestion is looked for among this many names: comparing takes up to 100 µs each."""


class Mark(NamedTuple):
    """A place in the file; both count from 1, the column in characters."""

    line: int
    column: int


START = Mark(1, 1)


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault. `hint` says what to do or what was probably meant; it may be empty."""

    file: str
    line: int
    column: int
    message: str
    hint: str = ""

    @property
    def told(self) -> str:
        """Message and hint."""
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.told}"


class ConfigError(ValueError):
    """The configuration is refused. `problems` is never empty; `str()` prints one a line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.line, p.column)))
        super().__init__(self.problems)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems]
        if len(lines) >= MOST_PROBLEMS:
            lines.append(f"{self.problems[0].file}: too many problems, reading stopped")
        return "\n".join(lines)


class Fault(ValueError):
    """A value that cannot be read, before it is known where it stands. To others it is a ValueError with a message."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def did_you_mean(name: str, known: Collection[str]) -> str:
    """A hint with the nearest known name, or with the only one; an empty string when none is near."""
    if len(known) == 1:
        near = list(known)
    else:
        near = get_close_matches(name[:100], list(islice(known, MOST_NAMES)), n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else ""


def shown(text: str, most: int = 60) -> str:
    """A value as a message shows it: in backticks, on one line, of at most `most` characters."""
    plain = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text[:most])
    return f"`{plain}{'…' if len(text) > most else ''}`"


def shown_path(path: str) -> str:
    """A path as a message shows it: paths are long, and their ends matter."""
    return shown(path, 400)
