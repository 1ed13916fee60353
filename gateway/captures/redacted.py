"""Bodies as they may be kept: cut to what was asked for, and with secrets and personal data replaced in every string.

The idea: what is searched is what was meant, not how it was written: JSON is read first, so an address that was written
with escapes is found; a body that was cut off is closed where it ends and then read like any other. In a stream a
secret comes in pieces of a few letters, so the texts of one place in its events (`delta.content` of one choice) are
searched as one text, and what is found is taken out of the events it lies in: the first keeps the mask, the others lose
their part. Events in which nothing was found stay byte for byte as they came.

What cannot be searched is not kept where redaction is asked for, and what has no fields not where fields are.

Left to others: what a secret looks like (`redaction`), the record around it (`record`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from gateway.captures.redaction import Pause, Span, find, no_pause, redact, replaced

# Values of these members are secrets whatever they look like.
_SECRET = frozenset(("password", "passwd", "passphrase", "api_key", "apikey", "api-key", "access_token", "auth_token",
                     "refresh_token", "client_secret", "secret", "secret_key", "private_key", "authorization",
                     "x-api-key"))  # fmt: skip
# Members that carry an answer's text piece by piece.
_PIECES = frozenset(("content", "reasoning_content", "reasoning", "text", "refusal", "arguments", "partial_json",
                     "thinking", "delta", "text_output", "transcript", "input"))  # fmt: skip
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|[{}\[\],:]|[^\s{}\[\],:"]++|"', re.DOTALL)
_SHORT = 64  # characters of a text that is remembered
_OFTEN = 64  # tokens between two chances for a pause
_EVENT_END = re.compile(r"\r\n\r\n|\n\n|\r\r")
_DATA = re.compile(r"(?m)^data:[ ]?")

Path = tuple[str | int, ...]


def selected(value: Any, fields: Sequence[str]) -> Any:
    """What of a JSON value is under these members; `a.b` is member `b` of `a`. Lists are looked through."""
    if isinstance(value, list):
        return [found for found in (selected(item, fields) for item in value) if found not in ({}, [])]
    if not isinstance(value, dict):
        return {}
    kept: dict[str, Any] = {}
    for name, member in value.items():
        if name in fields:
            kept[name] = member
            continue
        below = [field[len(name) + 1 :] for field in fields if field.startswith(name + ".")]
        if below:
            found = selected(member, below)
            if found not in ({}, []):
                kept[name] = found
    return kept


class Redactor:
    """Redacts values that have much in common: names and short texts are searched once."""

    def __init__(self, pause: Pause = no_pause):
        self._pause = pause
        self._known: dict[str, str] = {}

    def value(self, value: Any) -> Any:
        """The JSON value with every string redacted, the names of members too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {self.text(name): self._member(name, member) for name, member in value.items()}
        return value

    def _member(self, name: str, member: Any) -> Any:
        return "[secret]" if isinstance(member, str) and name.lower() in _SECRET else self.value(member)

    def text(self, text: str) -> str:
        if len(text) > _SHORT:
            return redact(text, self._pause)
        known = self._known.get(text)
        if known is None:
            self._pause()
            known = self._known[text] = redact(text)
        return known


def mended(text: str, pause: Pause = no_pause) -> str:
    """JSON that was cut off anywhere, closed where it ends: what was begun and says nothing yet is left out."""
    closing: list[str] = []
    good = 0  # up to here, and with what is still open closed, it is JSON
    open_at_good = ""
    is_key = False
    for number, match in enumerate(_TOKEN.finditer(text)):
        token, at = match[0], match.end()
        if not number % _OFTEN:
            pause()
        if token in ("{", "["):
            closing.append("}" if token == "{" else "]")
            is_key = token == "{"
        elif token in ("}", "]"):
            if not closing or closing.pop() != token:
                break
            is_key = False
        elif token in (",", ":"):
            is_key = token == "," and closing[-1:] == ["}"]
            continue
        elif token == '"':  # a string that does not end
            if is_key:
                break
            rest = re.sub(r"\\(?:u[0-9A-Fa-f]{0,3})?\Z", "", text[at:])
            return text[:at] + rest + '"' + "".join(reversed(closing))
        elif is_key:
            is_key = False
            continue
        elif at == len(text) and token[0] != '"':  # a number or word that may go on
            break
        good, open_at_good = at, "".join(reversed(closing))
    return text[:good] + open_at_good


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
        changed, redactor = self._redact_pieces(), Redactor(self._pause)
        for number, event in enumerate(self._events):
            self._pause()
            if number not in self._values:
                self._events[number] = redactor.text(event)
                continue
            value = redactor.value(self._values[number])
            if number in changed or value != self._values[number]:
                self._values[number] = value
                self._events[number] = _with_data(event, value)

    def _redact_pieces(self) -> set[int]:
        """Search what comes in pieces as one text. The numbers of the events that have changed."""
        places: dict[Path, list[tuple[int, Any, str | int]]] = {}
        for number, value in self._values.items():
            for path, holder, name in _pieces(value, ()):
                places.setdefault(path, []).append((number, holder, name))
        changed = set()
        for found in places.values():
            texts = [holder[name] for _, holder, name in found]
            spans = find("".join(texts), self._pause)
            if spans and len(texts) > 1:
                for (number, holder, name), text in zip(found, _shared_out(texts, spans), strict=True):
                    if holder[name] != text:
                        holder[name] = text
                        changed.add(number)
        return changed

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


def parse_json(text: str) -> Any:
    """Raises ValueError for what is no JSON, or is a number that no float is; RecursionError for what nests deeply."""
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:20]} is no number")
    return value


def dumped(value: Any) -> str:
    """JSON in one line. Raises ValueError for what JSON has no word for."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _pieces(value: Any, path: Path) -> Iterator[tuple[Path, Any, str | int]]:
    """Every string that may go on in the next event: its place, and what holds it. Choices keep apart by `index`."""
    if isinstance(value, dict):
        index = value.get("index")
        here = (*path, index) if isinstance(index, int) else path
        for name, member in value.items():
            if isinstance(member, str):
                if name in _PIECES:
                    yield (*here, name), value, name
            else:
                yield from _pieces(member, (*here, name))
    elif isinstance(value, list):
        for member in value:
            yield from _pieces(member, path)


def _shared_out(texts: Sequence[str], spans: Sequence[Span]) -> Iterator[str]:
    """The texts with the parts of their joined text replaced; a mask goes where its part begins."""
    start = 0
    for text in texts:
        end = start + len(text)
        own = [Span(max(0, span.start - start), min(span.end, end) - start, span.mask if span.start >= start else "")
               for span in spans if span.start < end and span.end > start]  # fmt: skip
        yield replaced(text, own)
        start = end
