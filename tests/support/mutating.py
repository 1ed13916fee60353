"""Random edits of configuration files, as slips of a keyboard, of a merge and of an editor that was stopped make them.

The idea: a good file with a few edits is nearly good, so it gets further into reading and checking than noise does.
The same seed gives the same edits. For the loader's fuzz tests and for `tests.evidence.reloads`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

WORD = re.compile(r"[A-Za-z0-9_.%/:-]+")
ODD = (
    "", "null", "~", "[]", "{}", "true", "no", "0", "-1", "007", "1e9", "5", "5%", "0%", "150%", "2s", "0s", "1h",
    "8MiB", "100/s", "*", "'", '"', "&a", "*a", "!!int 3", "<<", "${X}", "${X", "$${", "sha256:", "http://a", "ftp://b",
    "22:00", "Europe/Berlin", "Nowhere/Else", "(a+)+", "[a", "\t", "\u2028", "\ufeff", "\x07", "é" * 40, "x" * 300,
    ": ", "- ", "#", "{", "}", "[", "]", "|", ">", "---", "...", "? ", "%YAML 1.1",
)  # fmt: skip


class Mutator:
    """Edits texts. `words`: further words that an edit may put in (the language's keys, say)."""

    def __init__(self, seed: int, words: Sequence[str] = ()) -> None:
        self._random = Random(seed)
        self._words = [*ODD, *words]
        self._edits: Sequence[Callable[[str], str]] = (
            self._drop_line, self._repeat_line, self._swap_lines, self._indent_line, self._comment_line, self._cut_off,
            self._drop_some, self._insert, self._replace_word, self._replace_word, self._replace_word, self._swap_words,
            self._turn_number, self._turn_number, self._turn_number, self._turn_number,
        )  # fmt: skip

    def edit(self, text: str, most: int = 3) -> str:
        """The text with one to `most` edits."""
        for _ in range(self._random.randint(1, most)):
            text = self._random.choice(self._edits)(text)
        return text

    def _lines(self, text: str) -> tuple[list[str], int]:
        lines = text.splitlines(keepends=True) or [""]
        return lines, self._random.randrange(len(lines))

    def _drop_line(self, text: str) -> str:
        lines, at = self._lines(text)
        return "".join(lines[:at] + lines[at + 1 :])

    def _repeat_line(self, text: str) -> str:
        lines, at = self._lines(text)
        return "".join([*lines[:at], lines[at], *lines[at:]])

    def _swap_lines(self, text: str) -> str:
        lines, at = self._lines(text)
        other = self._random.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
        return "".join(lines)

    def _indent_line(self, text: str) -> str:
        lines, at = self._lines(text)
        spaces = " " * self._random.randint(1, 4) if self._random.random() < 0.5 else ""
        lines[at] = spaces + lines[at] if spaces else lines[at].lstrip(" ")
        return "".join(lines)

    def _comment_line(self, text: str) -> str:
        lines, at = self._lines(text)
        lines[at] = "# " + lines[at]
        return "".join(lines)

    def _cut_off(self, text: str) -> str:
        return text[: self._random.randrange(len(text) + 1)] if self._random.random() < 0.3 else text

    def _drop_some(self, text: str) -> str:
        at = self._random.randrange(len(text) + 1)
        return text[:at] + text[at + self._random.randint(1, 12) :]

    def _insert(self, text: str) -> str:
        at = self._random.randrange(len(text) + 1)
        return text[:at] + self._random.choice(self._words) + text[at:]

    def _replace_word(self, text: str) -> str:
        found = list(WORD.finditer(text))
        if not found:
            return text
        word = self._random.choice(found)
        other = self._random.choice(found)[0] if self._random.random() < 0.4 else self._random.choice(self._words)
        return text[: word.start()] + other + text[word.end() :]

    def _turn_number(self, text: str) -> str:
        """Another number in its place: what a value meant stays what it was, and how much it is changes."""
        found = list(re.finditer(r"[0-9]+", text))
        if not found:
            return text
        number = self._random.choice(found)
        return text[: number.start()] + str(self._random.randrange(1, 100)) + text[number.end() :]

    def _swap_words(self, text: str) -> str:
        found = list(WORD.finditer(text))
        if len(found) < 2:
            return text
        first, second = sorted(self._random.sample(found, 2), key=lambda word: word.start())
        between = text[first.end() : second.start()]
        return text[: first.start()] + second[0] + between + first[0] + text[second.end() :]
