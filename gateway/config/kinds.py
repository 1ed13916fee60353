"""What kind of value a key takes: how it is read, spelt back and described. The leaves of the table in `spec`.

The idea: one object per kind serves the loader (`read`, `make`), the JSON Schema (`schema`) and the reference file
(`show`), so a key is written down once. A kind never raises on a bad file: it reports to the `Reader` and returns
`NOTHING`, so the rest of the file is still read.

Left to others: mappings and lists (`shapes`), which keys there are (`spec`), what must agree with what (`checks`).
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.config.expand import expand
from gateway.config.files import MOST
from gateway.config.problems import (
    MOST_PROBLEMS,
    START,
    ConfigError,
    Fault,
    Mark,
    Problem,
    did_you_mean,
    shown,
    shown_path,
)
from gateway.config.tree import Node, Scalar

Path = tuple[str | int, ...]
REFERENCE = r"\$\{"
CLASS_NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"


class Nothing:
    """The type of `NOTHING`: no value, because none was given or it was reported."""

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Final = Nothing()


@dataclass(slots=True)
class Reader:
    """What one reading of one file shares: its surroundings, where each value came from, and what was wrong.

    `known` holds the names of each registry, `places` the marks of each path's key and value. Errors end the reading
    with ConfigError only when there are too many.
    """

    source: str
    env: Mapping[str, str]
    folder: str
    known: Mapping[str, Collection[str]]
    places: dict[Path, tuple[Mark, Mark]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    expanded: int = 0
    """Characters that references gave so far: a short file must not grow large by naming a large one often."""
    broken: set[Path] = field(default_factory=set)
    """Paths under which something was refused: what is known of them is not the whole."""
    compared: int = 0
    """Rules that were compared with each other so far: that must not take longer than reading them."""
    zones: Collection[str] | None = None
    """The names of all time zones, once somebody needed them: finding them takes a tenth of a second."""

    def error(self, mark: Mark, message: str, hint: str = "") -> None:
        self.problems.append(Problem(self.source, mark.line, mark.column, message, hint))
        if len(self.problems) >= MOST_PROBLEMS:
            raise ConfigError(self.problems)

    def warn(self, mark: Mark, message: str, hint: str = "") -> None:
        if len(self.warnings) < MOST_PROBLEMS:
            self.warnings.append(Problem(self.source, mark.line, mark.column, message, hint))

    def key_at(self, *path: str | int) -> Mark:
        """Where the key stands; where it is not in the file, its nearest parent."""
        return self._at(path, 0)

    def value_at(self, *path: str | int) -> Mark:
        """Where the value stands; where it is not in the file, its nearest parent."""
        return self._at(path, 1)

    def spoil(self, at: Path) -> None:
        """Something at `at` was refused."""
        while at and at not in self.broken:
            self.broken.add(at)
            at = at[:-1]

    def is_given(self, *path: str | int) -> bool:
        """Whether the file has the key, for a pool also under `defaults`."""
        return any(spot in self.places for spot in _spots(path))

    def _at(self, path: Path, which: int) -> Mark:
        while path:
            for spot in _spots(path):
                if spot in self.places:
                    return self.places[spot][which]
            path = path[:-1]
        return START

    def text(self, node: Scalar) -> str | Nothing:
        """The scalar's text with references replaced; what could break a header, a log line or a path is refused."""
        try:
            text = expand(node.text, self.env, self.folder)
        except Fault as fault:
            self.error(node.mark, fault.message, fault.hint)
            return NOTHING
        if text is not node.text:
            self.expanded += len(text)
            if self.expanded > MOST:
                self.error(node.mark, "too large", "all references together give more than 1 MiB")
                raise ConfigError(self.problems)
        if bad := re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", text):
            self.error(node.mark, f"control character U+{ord(bad[0]):04X} in a value")
            return NOTHING
        return text


def _spots(path: Path) -> tuple[Path, ...]:
    """Where a value may stand: a pool's also under `defaults: {pool: …}`."""
    return (path, ("defaults", "pool", *path[2:])) if path[:1] == ("pools",) and len(path) > 2 else (path,)


class Kind(ABC):
    """A kind of value."""

    @abstractmethod
    def read(self, node: Node, at: Path, reader: Reader) -> Any:
        """The value in parsed but not final form, or NOTHING after reporting why not. `at` is the key's path."""

    def make(self, value: Any) -> Any:
        """The final value of what `read` returned."""
        return value

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """What JSON Schema says of it."""

    def show(self, value: Any) -> Any:
        """A final value as the file would spell it."""
        return value


@dataclass(frozen=True, slots=True)
class Value(Kind):
    """One scalar, read by a function that raises Fault. `expected` finishes the sentence "… is expected"."""

    parse: Callable[[str], Any]
    expected: str
    described: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    spell: Callable[[Any], Any] = lambda value: value

    def read(self, node: Node, at: Path, reader: Reader) -> Any:
        if not isinstance(node, Scalar):
            reader.error(node.mark, f"{self.expected} is expected")
            return NOTHING
        if node.is_null:
            reader.error(node.mark, f"{self.expected} is expected, there is none", "leave the key out for its default")
            return NOTHING
        text = reader.text(node)
        if isinstance(text, Nothing):
            return NOTHING
        try:
            return self.parse(text)
        except Fault as fault:
            # What a variable held may be a secret: the message shows what the file says instead.
            reader.error(node.mark, fault.message.replace(shown(text), shown(node.text)), fault.hint)
            return NOTHING

    def schema(self) -> dict[str, Any]:
        return dict(self.described)

    def show(self, value: Any) -> Any:
        return self.spell(value)


@dataclass(frozen=True, slots=True)
class Name(Kind):
    """A name out of a registry that the loader was given; where that `is_open`, `some.module:Class` too."""

    registry: str
    is_open: bool = True

    def read(self, node: Node, at: Path, reader: Reader) -> Any:
        expected = f"the name of {'an' if self.registry[0] in 'aeiou' else 'a'} {self.registry}"
        return Value(lambda text: self._known(text, reader), expected).read(node, at, reader)

    def _known(self, name: str, reader: Reader) -> str:
        known = reader.known[self.registry]
        if name in known or (self.is_open and re.fullmatch(CLASS_NAME, name)):
            return name
        around = [other for other in sorted(known) if name and name.lower() in other.lower()]
        hint = "" if around else did_you_mean(name, known)
        hint = hint or "known: " + ", ".join(around or sorted(known))
        raise Fault(f"unknown {self.registry} {shown(name)}", hint)

    def schema(self) -> dict[str, Any]:
        return {"type": "string"}


@dataclass(frozen=True, slots=True)
class NameOrFile(Name):
    """A name out of a registry, or a JSON file with one more; a relative path counts from the configuration's folder.

    `fault(path)` says what is wrong with the file, or None.
    """

    fault: Callable[[str], str | None] = lambda path: None

    def _known(self, name: str, reader: Reader) -> str:
        if not name.endswith(".json"):
            return Name._known(self, name, reader)
        path = os.path.normpath(os.path.join(reader.folder, name))
        if not os.path.isfile(path):
            raise Fault(f"file {shown_path(name)} does not exist", f"looked for {shown_path(path)}")
        if (wrong := self.fault(path)) is not None:
            raise Fault(f"not a {self.registry}: {shown_path(name)}", wrong)
        return path


@dataclass(frozen=True, slots=True)
class FilePath(Kind):
    """A path; a relative one counts from the configuration's own folder. `is_read`: the file must be there."""

    is_read: bool = True

    def read(self, node: Node, at: Path, reader: Reader) -> Any:
        value = Value(parse_text, "a path").read(node, at, reader)
        if isinstance(value, Nothing):
            return NOTHING
        path = os.path.normpath(os.path.join(reader.folder, value))
        if self.is_read and not os.path.isfile(path):
            reader.error(node.mark, f"file {shown_path(value)} does not exist", f"looked for {shown_path(path)}")
            return NOTHING
        return path

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}


@dataclass(frozen=True, slots=True)
class FolderPath(Kind):
    """A folder we write to; it need not be there yet. A relative path counts from the configuration's own folder."""

    def read(self, node: Node, at: Path, reader: Reader) -> Any:
        value = Value(parse_text, "a path").read(node, at, reader)
        if isinstance(value, Nothing):
            return NOTHING
        path = os.path.normpath(os.path.join(reader.folder, value))
        if os.path.exists(path) and not os.path.isdir(path):
            reader.error(node.mark, f"{shown_path(value)} is not a folder", f"looked at {shown_path(path)}")
            return NOTHING
        if os.path.isdir(path) and not os.access(path, os.W_OK | os.X_OK):
            reader.error(node.mark, f"folder {shown_path(value)} cannot be written to", f"looked at {shown_path(path)}")
            return NOTHING
        return path

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}


@dataclass(frozen=True, slots=True)
class Option(Kind):
    """A policy's keyword argument, whose type only the policy knows.

    Quoted, it is text. Plain, it is a number, a duration (seconds), a size (bytes), a share (0 to 1), `true` or
    `false` if it is spelt exactly like one, and text otherwise. `check_pick` has the last word.
    """

    readers: tuple[Callable[[str], Any], ...]

    def read(self, node: Node, at: Path, reader: Reader) -> Any:
        value = Value(str, "one value").read(node, at, reader)
        if isinstance(value, Nothing) or not isinstance(node, Scalar) or not node.plain:
            return value
        for parse in self.readers:
            try:
                return parse(value)
            except Fault:
                continue
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": ["string", "number", "boolean"]}


def parse_text(text: str) -> str:
    """Any text but an empty one."""
    if not text.strip():
        raise Fault("the value is empty")
    return text
