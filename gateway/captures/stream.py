"""A stream as it may be kept: its events cut to what was asked for, and redacted as the one text that they make.

The idea: in a stream a secret comes in pieces of a few letters, so the texts of one place in its events
(`delta.content` of one choice) are searched as one text, and what is found is taken out of the events it lies in: the
first keeps the mask, the others lose their part. A text that is JSON (the arguments of a call) is read as such, and
where something is found there, the first event gets all of it. Events in which nothing was found stay byte for byte as
they came.

Left to others: what is kept of one event's JSON, and its strings (`redacted`), what a secret looks like (`redaction`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from gateway.captures.redacted import Redactor, dumped, parse_json, selected, shared_out
from gateway.captures.redaction import Pause, find, no_pause

# Members that carry an answer's text piece by piece, and those that do so in lists.
_PIECES = frozenset(("content", "reasoning_content", "reasoning", "text", "refusal", "arguments", "partial_json",
                     "thinking", "delta", "text_output", "transcript", "input"))  # fmt: skip
_LISTED = _PIECES | {"data"}
_EVENT_END = re.compile(r"\r\n\r\n|\n\n|\r\r")
_DATA = re.compile(r"(?m)^data:[ ]?")

Path = tuple[str | int, ...]


class Stream:
    """The events of a stream's text. A last one that is not whole is left out."""

    def __init__(self, text: str, is_cut: bool, pause: Pause = no_pause):
        self._pause = pause
        self._events: list[str] = []
        at = 0
        for end in _EVENT_END.finditer(text):
            self._events.append(text[at : end.end()])
            at = end.end()
        if text[at:].strip() and not is_cut:
            self._events.append(text[at:])
        self._values: dict[int, Any] = {}
        for number, event in enumerate(self._events):
            data = _data_of(event)
            if data is not None:
                self._values[number] = data
            pause()

    def select(self, fields: Sequence[str]) -> None:
        """Keep these members of every event's JSON; events without any of them, and those that are no JSON, go."""
        kept = {number: selected(value, fields) for number, value in self._values.items()}
        self._values = {number: value for number, value in kept.items() if value not in ({}, [])}
        self._events = [_with_data(event, self._values[number]) if number in self._values else ""
                        for number, event in enumerate(self._events)]  # fmt: skip

    def redact(self) -> None:
        """Replace what is secret or personal in every event, also where it lies across several."""
        redactor = Redactor(self._pause)
        changed = self._redact_pieces(redactor)
        for number, event in enumerate(self._events):
            self._pause()
            if number not in self._values:
                self._events[number] = redactor.text(event)
                continue
            value = redactor.value(self._values[number])
            if number in changed or value != self._values[number]:
                self._values[number] = value
                self._events[number] = _with_data(event, value)

    def _redact_pieces(self, redactor: Redactor) -> set[int]:
        """Search what comes in pieces as one text. The numbers of the events that have changed."""
        places: dict[Path, list[tuple[int, Any, Any]]] = {}
        for number, value in self._values.items():
            for path, holder, name in _pieces(value, ()):
                places.setdefault(path, []).append((number, holder, name))
        changed = set()
        for found in places.values():
            if len(found) == 1:
                continue
            texts = [holder[name] for _, holder, name in found]
            for (number, holder, name), text in zip(found, self._redacted(texts, redactor), strict=True):
                self._pause()
                if holder[name] != text:
                    holder[name] = text
                    changed.add(number)
        return changed

    def _redacted(self, texts: list[str], redactor: Redactor) -> Iterator[str]:
        joined = "".join(texts)
        inside = redactor.inside(joined)
        if inside is None:
            return shared_out(texts, find(joined, self._pause))
        return iter([inside] + [""] * (len(texts) - 1))

    @property
    def text(self) -> str:
        return "".join(self._events)


def _data_of(event: str) -> Any:
    """The JSON object that is an event's data; None where it has none."""
    parts = _DATA.split(event)[1:]
    if not parts:
        return None
    try:
        value = parse_json("\n".join(part.partition("\n")[0].rstrip("\r") for part in parts))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _with_data(event: str, value: Any) -> str:
    """The event with other data, in one line."""
    others = [line for line in event.splitlines() if line and not line.startswith("data:")]
    return "\n".join((*others, "data: " + dumped(value))) + "\n\n"


def _pieces(value: Any, path: Path) -> Iterator[tuple[Path, Any, Any]]:
    """Every string that may go on in the next event: its place, and what holds it. Choices keep apart by `index`,
    other items by `output_index`, tensors by their name, and in a list each goes on in its own place."""
    if isinstance(value, dict):
        part = value.get("index", value.get("output_index"))
        part = value.get("name") if part is None and "datatype" in value else part
        here = (*path, part) if isinstance(part, int | str) else path
        for name, member in value.items():
            if not isinstance(member, str):
                yield from _pieces(member, (*here, name))
            elif name in _PIECES:
                yield (*here, name), value, name
    elif isinstance(value, list):
        for number, member in enumerate(value):
            if not isinstance(member, str):
                yield from _pieces(member, path)
            elif path and path[-1] in _LISTED:
                yield (*path, number), value, number
