"""What a rule's `when:` is made of: conditions on a text, times of day, time zones.

The idea: a condition is written as shortly as it is thought of (`x`, `[x, y]`, `{prefix: x}`, `{regex: x}`,
`{not: …}`) and is one `Text`. Each exact value keeps its place, so that a name which does not exist is told where it
stands.

Left to others: which conditions there are (`spec_routes`), whether they can hold (`check_routes`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from gateway.config.kinds import NOTHING, Kind, Nothing, Path, Reader, Value
from gateway.config.leaves import HEADER, TEXT, KeyName, written
from gateway.config.problems import Fault, did_you_mean, shown
from gateway.config.regexes import parse_regex
from gateway.config.tree import Mapping as MappingNode
from gateway.config.tree import Node, Scalar, Sequence
from gateway.core.routes import Text

REGEX = Value(parse_regex, "a regular expression", {"type": "string", "minLength": 1})
SECRET_HEADERS = frozenset(("authorization", "x-api-key", "api-key", "cookie", "proxy-authorization"))
MOST_TEXTS = 500
"""In one condition: requests are compared with all of them."""
_HOUR = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])")
Parts = tuple[list[str], list[str], list[str]]


@dataclass(frozen=True, slots=True)
class Condition(Kind):
    """What a text must be. `exact` reads one whole text; `spell` makes of it what is compared.

    `loose`: beginnings and expressions may be given too. `negated`: inside of `not`, where no other `not` stands.
    """

    exact: Kind = TEXT
    spell: Callable[[Any], str] = str
    loose: bool = True
    negated: bool = False

    def read(self, node: Node, at: Path, reader: Reader) -> Any:
        """A Text; NOTHING where any part of it was refused: half a condition would fit other requests."""
        parts: Parts = ([], [], [])
        unlike: Any = None
        before = len(reader.problems)
        if isinstance(node, MappingNode) and "not" in node.entries and not self.negated:
            key, inner = node.entries["not"]
            reader.places[*at, "not"] = (key.mark, inner.mark)
            unlike = Condition(self.exact, self.spell, self.loose, True).read(inner, (*at, "not"), reader)
        if isinstance(node, Sequence) and not node.items:
            reader.error(node.mark, f"`{at[-1]}` is empty", "no text would fit; leave it out for any")
        for item in node.items if isinstance(node, Sequence) else (node,):
            self._take(item, at, reader, parts, is_entry=item is not node)
        if len(reader.problems) > before or isinstance(unlike, Nothing):
            return NOTHING
        exact, prefix, regex = map(tuple, parts)
        return Text(exact, prefix, regex, unlike)

    def _take(self, node: Node, at: Path, reader: Reader, parts: Parts, is_entry: bool) -> None:
        """One text, or the beginnings and expressions of one mapping."""
        if isinstance(node, MappingNode):
            for name, (key, value) in node.entries.items():
                self._take_key(name, key, value, at, reader, parts, is_entry)
            return
        if isinstance(node, Sequence):
            reader.error(node.mark, "a list in a list", "write all texts in one")
            return
        value = self.exact.read(node, at, reader)
        if not isinstance(value, Nothing):
            self._keep(parts[0], self.spell(value), node, at, reader)

    def _take_key(self, name: str, key: Scalar, value: Node, at: Path, reader: Reader, parts: Parts,
                  is_entry: bool) -> None:  # fmt: skip
        kinds = {"prefix": (TEXT, parts[1]), "regex": (REGEX, parts[2])} if self.loose else {}
        if name == "not" and not is_entry and not self.negated:
            return  # read already
        if name not in kinds:
            ways = [*kinds, *(() if self.negated or is_entry else ("not",))]
            nested = name == "not"
            hint = f"keys here: {', '.join(ways)}" if ways else "texts alone are expected here"
            told = "`not` cannot stand here" if nested else f"unknown key {shown(name)}"
            reader.error(key.mark, told, hint if nested else did_you_mean(name, ways) or hint)
            return
        kind, kept = kinds[name]
        for item in value.items if isinstance(value, Sequence) else (value,):
            text = kind.read(item, (*at, name), reader)
            if not isinstance(text, Nothing):
                self._keep(kept, text, item, at, reader)
        if isinstance(value, Sequence) and not value.items:
            reader.error(value.mark, f"`{name}` is empty", "no text would fit; leave it out for any")

    @staticmethod
    def _keep(kept: list[str], text: str, node: Node, at: Path, reader: Reader) -> None:
        if len(kept) == MOST_TEXTS:
            reader.error(node.mark, f"more than {MOST_TEXTS} texts in one condition", "use beginnings: {prefix: …}")
        elif len(kept) < MOST_TEXTS and text in kept:
            reader.error(node.mark, "repeated: it is in this condition already", "leave it out")
        reader.places.setdefault((*at, "=", text), (node.mark, node.mark))
        kept.append(text)

    def schema(self) -> dict[str, Any]:
        exact = self.exact.schema()
        loose = {name: {"anyOf": [kind.schema(), {"type": "array", "items": kind.schema(), "minItems": 1}]}
                 for name, kind in (("prefix", TEXT), ("regex", REGEX)) if self.loose}  # fmt: skip
        inner: dict[str, Any] = {"type": "object", "properties": loose, "additionalProperties": False}
        items = {"anyOf": [exact, inner]} if self.loose else exact
        own = dict(loose)
        if not self.negated:
            own["not"] = Condition(self.exact, self.spell, self.loose, True).schema()
        whole = {"type": "object", "properties": own, "additionalProperties": False}
        return {"anyOf": [exact, {"type": "array", "items": items, "minItems": 1}, whole]}


@dataclass(frozen=True, slots=True)
class HeaderName(Kind):
    """A header that a rule looks at, in lower case; never one that carries a secret, since records show what it was."""

    def read(self, node: Node, at: Path, reader: Reader) -> Any:
        name = HEADER.read(node, at, reader)
        if isinstance(name, Nothing):
            return NOTHING
        if name.lower() in SECRET_HEADERS:
            hint = "for clients' keys there is `key`; records show what a rule looked at"
            reader.error(node.mark, f"header {shown(name)} carries a secret", hint)
            return NOTHING
        return name.lower()

    def schema(self) -> dict[str, Any]:
        return HEADER.schema()


def parse_hour(text: str) -> int:
    """Seconds of the day of a text such as `06:30`; `24:00` is the day's end."""
    found = _HOUR.fullmatch(text)
    seconds = int(found[1]) * 3600 + int(found[2]) * 60 if found else 86_401
    if seconds > 86_400:
        is_short = re.fullmatch(r"[0-9]:[0-5][0-9]", text)
        hint = f"did you mean `0{text}`?" if is_short else "write 06:30 or 22:00"
        raise Fault(f"not a time of day: {shown(text)}", hint)
    return seconds


def show_hour(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds % 3600 // 60:02}"


@dataclass(frozen=True, slots=True)
class ZoneName(Kind):
    """The name of a time zone of the system's table, such as `Europe/Berlin`."""

    def read(self, node: Node, at: Path, reader: Reader) -> Any:
        return Value(lambda text: self._known(text, reader), "a time zone such as Europe/Berlin").read(node, at, reader)

    @staticmethod
    def _known(text: str, reader: Reader) -> str:
        try:
            ZoneInfo(text)
            return text
        except (KeyError, ValueError, OSError):  # not there; not a name; a folder of the table
            pass
        if reader.zones is None:
            reader.zones = available_timezones()
        told = f"unknown time zone {shown(text)}"
        if not reader.zones:
            raise Fault(told, "this machine has no table of zones: install tzdata, or use UTC")
        last = text.rpartition("/")[2].lower()
        same = sorted(zone for zone in reader.zones if zone.rpartition("/")[2].lower() == last)
        near = sorted(zone for zone in reader.zones if zone[:1].lower() == text[:1].lower())
        raise Fault(told, f"did you mean `{same[0]}`?" if same else did_you_mean(text, near) or "such as Europe/Berlin")

    def schema(self) -> dict[str, Any]:
        return {"type": "string"}


TEXTS = Condition()
KEYS = Condition(KeyName(), lambda digest: f"sha256:{digest}", loose=False)
HOUR = Value(parse_hour, "a time of day such as 22:00", written(_HOUR.pattern), show_hour)
ZONE = ZoneName()
