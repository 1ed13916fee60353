"""The wanted values of one scrape: Prometheus text in, sums and maxima out.

The idea: an engine's page is 70 kB and holds six values that matter, so the page is not parsed. One regular expression
per engine finds the lines of its wanted names and reads only those, in a tenth of a millisecond where a full parser
takes ten (`tests/bench/scrape_cost.py`). A name counts only as a whole: `vllm:num_requests_waiting` is not
`vllm:num_requests_waiting_by_reason`, and `x_total` is not its twin `x_created`.

The page is not trusted. NaN, infinities, negative and absurd values are counted in `bad` and make their whole name
unusable (a sum with a hole in it is no sum); a name that is not there raises. Neither ever reads as zero.

Format: Prometheus text exposition 0.0.4. Left to others: fetching the page and its size limit on the wire (`prober`),
which names mean what (the engines).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType

MAX_BYTES = 1 << 20
# Series per name: a data-parallel server has one per rank; thousands are a mistake or an attack.
MAX_SERIES = 2048
# Above this a counter is absurd: a million tokens a second for thirty years.
MAX_VALUE = 1e15

# What may follow a name: labels in braces (any brace or escaped quote inside quotes), a value, perhaps a time stamp.
# Nothing is tried twice (possessive), so no line can make it slow.
_REST = (
    rb'(?:[ \t]*+\{((?:[^"}\n]++|"(?:[^"\\\n]++|\\.)*+")*+)\}[ \t]*+|[ \t]++)'
    rb"([^\s#]++)(?:[ \t]++-?[0-9]++)?[ \t]*+(?=\r?\n|\r?\Z)"
)
_LABEL = re.compile(rb'([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"')
# Labels up to this many bytes are remembered when read.
_SHORT = 4096
# How a page of metrics begins; a page of HTML or JSON does not.
_OPENING = re.compile(rb"\s*(?:#|[a-zA-Z_:][a-zA-Z0-9_:]*[ \t{])")
_ESCAPES = {b"\\\\": b"\\", b'\\"': b'"', b"\\n": b"\n"}


class ScrapeError(Exception):
    """A scrape that gives no load. `cause` is one word for the metric: it takes no value a server can invent."""

    def __init__(self, message: str, cause: str):
        super().__init__(message)
        self.cause = cause


class Samples:
    """The values of the `wanted` names on one page. `bad` counts the values that were not believed.

    Raises ScrapeError (`too_big`, `garbage`, `too_many_series`) when the page cannot be one of metrics.
    """

    __slots__ = ("bad", "_series", "_unusable")

    def __init__(self, body: bytes, wanted: Iterable[str]):
        if len(body) > MAX_BYTES:
            raise ScrapeError(f"the metrics page has more than {MAX_BYTES} bytes", "too_big")
        if body and not _OPENING.match(body):
            raise ScrapeError("what came is not a page of metrics", "garbage")
        self.bad = 0
        self._series: dict[str, dict[bytes, float]] = {}
        self._unusable: set[str] = set()
        for found in _reader(tuple(wanted)).finditer(b"\n" + body):
            self._take(found[1].decode(), found[2] or b"", found[3])

    def _take(self, name: str, labels: bytes, text: bytes) -> None:
        value = _parse_value(text)
        series = self._series.setdefault(name, {})
        if value is None:
            self.bad += 1
            self._unusable.add(name)
        else:
            # The same series twice: the last one stands, as in Prometheus.
            series[labels] = value
            if len(series) > MAX_SERIES:
                raise ScrapeError(f"{name} has more than {MAX_SERIES} series", "too_many_series")

    def __bool__(self) -> bool:
        """Whether any wanted name was there."""
        return bool(self._series)

    def __contains__(self, name: str) -> bool:
        """Whether the name is there, with values that can be used or not."""
        return name in self._series

    def has(self, name: str) -> bool:
        """Whether the name is there with values that can be used."""
        return name in self._series and name not in self._unusable

    def values(self, name: str, **labels: str) -> list[float]:
        """One value per series that has these labels. Raises ScrapeError (`missing`, `bad_value`)."""
        if name in self._unusable:
            raise ScrapeError(f"{name} has a value that cannot be true", "bad_value")
        series = self._series.get(name, {})
        if labels:
            values = [value for raw, value in series.items() if labels.items() <= parse_labels(raw).items()]
        else:
            values = list(series.values())
        if not values:
            raise ScrapeError(f"{name} is not on the metrics page", "missing")
        return values

    def total(self, name: str, **labels: str) -> float:
        """The sum over all series: a data-parallel server has one for each of its engines."""
        return math.fsum(self.values(name, **labels))

    def highest(self, name: str, **labels: str) -> float:
        return max(self.values(name, **labels))

    def mean(self, name: str, **labels: str) -> float:
        values = self.values(name, **labels)
        return math.fsum(values) / len(values)

    def newest(self, name: str) -> Mapping[str, str]:
        """The labels of the series with the largest value, where the value is the time it was written."""
        self.values(name)
        series = self._series[name]
        return parse_labels(max(series, key=series.__getitem__))

    def each(self, name: str) -> list[tuple[Mapping[str, str], float]]:
        """Every series with its labels. Raises ScrapeError (`missing`, `bad_value`)."""
        self.values(name)
        return [(parse_labels(raw), value) for raw, value in self._series[name].items()]


@lru_cache(maxsize=64)
def _reader(wanted: tuple[str, ...]) -> re.Pattern[bytes]:
    """Finds a wanted name at the start of a line, its labels and its value."""
    names = b"|".join(re.escape(name.encode()) for name in wanted) or b"(?!)"
    return re.compile(rb"\n(" + names + rb")" + _REST)


def parse_labels(raw: bytes) -> Mapping[str, str]:
    """`a="x",b="y"` as a mapping, escapes undone, bytes that are not UTF-8 replaced."""
    return _known_labels(raw) if len(raw) <= _SHORT else _read_labels(raw)


def _read_labels(raw: bytes) -> Mapping[str, str]:
    found = {name.decode(): _unescape(value).decode("utf-8", "replace") for name, value in _LABEL.findall(raw)}
    return MappingProxyType(found)


# The labels of an engine's configuration are a third of what a page costs, and the same each time.
_known_labels = lru_cache(maxsize=256)(_read_labels)


def _unescape(value: bytes) -> bytes:
    return re.sub(rb'\\[\\"n]', lambda m: _ESCAPES[m[0]], value) if b"\\" in value else value


def _parse_value(text: bytes) -> float | None:
    """A number that can be true: finite, not negative, not absurd. None for all else (`Nan`, `+Inf`, `-1`, `1_0`)."""
    if b"_" in text or len(text) > 64:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0.0 <= value <= MAX_VALUE else None
