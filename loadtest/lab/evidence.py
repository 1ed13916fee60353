"""Reads recorded decisions: which streams can be learnt from, and why the others cannot.

The idea: a line that the gateway writes for `decisions: {file: …}` says of a stream what its engine had to do before
its first token and beside its later ones. Those are the quantities that the predictor learns from as it goes; here all
of them are laid out at once, in the shape of its window, so that the same fit can be made of them.

What was estimated at the dispatch and has been told since (the length of the prompt, what of it was cached) is put
right. A file may be cut, or hold lines of older versions: what cannot be used is counted, not fatal.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gateway.core.types import Floats
from gateway.core.window import WIDTH, Window

VERSION = 1
STEPS_TO_LEARN = 16  # a shorter stretch says little of an engine's pace

NO_RECORD = "not a line of JSON, or not a decision record"
OTHER_VERSION = f"of another version than {VERSION}"
OTHER_PLACE = "of another pool or endpoint"
NOT_COMPLETE = "not answered, or not to the end"
PLAIN = "plain answers: nobody saw their first token"
NO_WORK = "without `work`: the pool's policy did not predict, or an older gateway wrote them"
IMPOSSIBLE = "with a figure that is missing or cannot be"

_WORK = ("rest", "tokens", "decoding", "context", "pairs", "own", "prompt")
_AFTER = ("seconds", "steps", "decoding", "context", "pairs", "tokens1", "tokens2", "tokens3", "knee1", "knee2")


class Answers(Window):
    """A window of any size in which nothing fades. `first` and `rest` have one row for each stream, in its order.

    A row of `rest` whose `full_rest` is 0 is empty: too short an answer, or other knees.
    """

    def __init__(self, first: Floats, rest: Floats, full_rest: Floats):
        self.first, self.rest = first, rest
        self.full_first, self.full_rest = np.ones(len(first)), full_rest
        self.count = 0

    def only(self, there: Floats) -> Answers:
        """Those where `there` is not 0."""
        kept = there > 0.0
        return Answers(self.first[kept], self.rest[kept], self.full_rest[kept])


@dataclass(slots=True)
class Stream:
    """One usable record: the row of `first`, and that of `rest`, if there is one, with the knees it was counted by."""

    first: list[float]
    rest: list[float]
    knees: tuple[float, float] | None = None


@dataclass(slots=True)
class Evidence:
    """What the files said. `endpoints`: ids by row number. `kv_tokens`: what endpoints said that their cache holds."""

    pools: set[str] = field(default_factory=set)
    models: Counter[str] = field(default_factory=Counter)
    endpoints: list[str] = field(default_factory=list)
    kv_tokens: list[float] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)

    @property
    def knees(self) -> tuple[float, float] | None:
        """Those by which most streams were counted."""
        common = Counter(stream.knees for stream in self.streams if stream.knees is not None).most_common(1)
        return common[0][0] if common else None

    def answers(self) -> Answers:
        """All usable streams."""
        knees = self.knees
        size = len(self.streams)
        return Answers(
            np.array([stream.first for stream in self.streams]).reshape(size, WIDTH),
            np.array([stream.rest for stream in self.streams]).reshape(size, WIDTH),
            np.array([float(stream.knees is not None and stream.knees == knees) for stream in self.streams]),
        )


def read(paths: Iterable[Path], pool: str = "", endpoints: Iterable[str] = ()) -> Evidence:
    """The usable records of all files; with `pool` or `endpoints` only theirs. Raises OSError."""
    found, wanted = Evidence(), frozenset(endpoints)
    rows: dict[str, int] = {}
    for path in paths:
        with path.open("rb") as lines:
            for line in lines:
                if line.strip():
                    _take(found, rows, line, pool, wanted)
    found.endpoints = list(rows)
    return found


def _take(found: Evidence, rows: dict[str, int], line: bytes, pool: str, wanted: frozenset[str]) -> None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("outcome"), dict) or "v" not in record:
        found.unused[NO_RECORD] += 1
        return
    reason = _why_not(record, pool, wanted)
    if reason is None:
        endpoint = str(record["chosen"])
        stream = _stream(record, float(rows.get(endpoint, len(rows))))
        if stream is not None:
            rows.setdefault(endpoint, len(rows))
            found.streams.append(stream)
            found.pools.add(str(record.get("pool", "")))
            found.models[str(record.get("model", ""))] += 1
            capacity = _number(record["work"].get("kv_tokens"))
            if capacity > 0.0:
                found.kv_tokens.append(capacity)
            return
        reason = IMPOSSIBLE
    found.unused[reason] += 1


def _why_not(record: Mapping[str, Any], pool: str, wanted: frozenset[str]) -> str | None:
    outcome = record["outcome"]
    if record["v"] != VERSION:
        return OTHER_VERSION
    if (pool and record.get("pool") != pool) or (wanted and record.get("chosen") not in wanted):
        return OTHER_PLACE
    if outcome.get("ended") != "complete" or outcome.get("status") != 200:
        return NOT_COMPLETE
    if not outcome.get("stream"):
        return PLAIN
    return None if isinstance(record.get("work"), dict) else NO_WORK


def _stream(record: Mapping[str, Any], row: float) -> Stream | None:
    """None where a figure is missing or cannot be."""
    work, outcome = record["work"], record["outcome"]
    rest, tokens, decoding, context, pairs, own, prompt = (_number(work.get(name)) for name in _WORK)
    seconds = _number(outcome.get("ttft_there"))
    told, cached = _number(outcome.get("prompt_tokens")), _number(outcome.get("cached_tokens"))
    if told > 0.0:
        if not cached >= 0.0:
            cached = max(0.0, prompt - own)  # nobody told: as it was thought to be
        right = max(1.0, told - cached)
        tokens += right - own
        pairs += _pairs(right, told) - _pairs(own, prompt)
    first = [row, 0.0, seconds, rest, max(1.0, tokens), decoding, context, max(0.0, pairs), 0.0, 0.0, 0.0]
    if not seconds > 0.0 or not all(value >= 0.0 for value in first):
        return None
    after = work.get("after")
    if isinstance(after, dict):
        figures = dict(zip(_AFTER, map(_number, map(after.get, _AFTER)), strict=True))
        if not (all(value >= 0.0 for value in figures.values()) and figures["seconds"] > 0.0):
            return None
        if figures["steps"] >= STEPS_TO_LEARN:
            later = [row, 0.0, figures["seconds"], figures["steps"], 0.0, figures["decoding"], figures["context"],
                     figures["pairs"], figures["tokens1"], figures["tokens2"], figures["tokens3"]]  # fmt: skip
            return Stream(first, later, (figures["knee1"], figures["knee2"]))
    return Stream(first, [row] + [0.0] * (WIDTH - 1))


def _pairs(own: float, prompt: float) -> float:
    """Pairs of tokens in the attention of the last `own` tokens of a prompt."""
    return own * (max(0.0, prompt - own) + own / 2.0)


def _number(value: object) -> float:
    """NaN for whatever is not a finite number."""
    if type(value) is float or (type(value) is int and abs(value) < 2**53):
        return float(value) if math.isfinite(value) else math.nan
    return math.nan
