"""What to send and when: traces, arrival processes, and load shapes as rate functions.

A trace is a gzip of JSON lines sorted by `arrival_s` (the schema is in `traces/README.md`). It can be
replayed with its own arrivals, scaled in time to a chosen mean rate (this keeps the shape and compresses
the minutes), or only its lengths are used, with arrivals drawn here. Everything drawn comes from one
seed: the same arguments give the same workload.

Arrivals that follow a shape: a renewal process of mean rate 1 is drawn in *work time* and carried to wall
time through the inverse of the cumulative rate (time rescaling; Daley and Vere-Jones, chapter 7). So a
bursty process stays equally bursty, in work time, under any shape. The text of the prompts is `loadtest.prompts`.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

Rate = Callable[[float], float]
"""Requests per second at t seconds after the start; never negative."""


class WorkloadError(ValueError):
    """A trace or an option that cannot be used; the message says what and where."""


@dataclass(frozen=True, slots=True)
class Item:
    """One request of a workload. `at` is in seconds from the start; the sizes are in tokens."""

    at: float
    prompt_tokens: int
    output_tokens: int
    tenant: str = ""
    session: str = ""
    block_size: int = 0
    blocks: tuple[int, ...] = ()


def read_trace(path: str | Path) -> list[Item]:
    """Every request of a trace file (`.jsonl` or `.jsonl.gz`). Raises WorkloadError with file and line."""
    name = str(path)
    items: list[Item] = []
    try:
        with gzip.open(path, "rt") if name.endswith(".gz") else open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    items.append(_parse_item(line, f"{name}:{number}"))
                    if len(items) > 1 and items[-1].at < items[-2].at:
                        raise WorkloadError(f"{name}:{number}: arrival_s goes back in time; sort the file by it")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise WorkloadError(f"{name}: cannot be read: {error}") from error
    if not items:
        raise WorkloadError(f"{name}: holds no requests")
    return items


def _parse_item(line: str, where: str) -> Item:
    try:
        row: dict[str, Any] = json.loads(line)
        item = Item(
            at=float(row["arrival_s"]),
            prompt_tokens=int(row["prompt_tokens"]),
            output_tokens=int(row["output_tokens"]),
            tenant=str(row.get("tenant", "")),
            session=str(row.get("session_id", "")),
            block_size=int(row.get("block_size", 0)),
            blocks=tuple(int(block) for block in row.get("blocks", ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WorkloadError(f"{where}: not a trace line: {error!r}") from error
    if item.prompt_tokens < 1 or item.output_tokens < 1 or not math.isfinite(item.at) or item.at < 0:
        raise WorkloadError(f"{where}: prompt_tokens and output_tokens must be at least 1, arrival_s at least 0")
    if item.blocks and item.block_size < 1:
        raise WorkloadError(f"{where}: has blocks but no block_size")
    return item


def mean_rate(items: Sequence[Item]) -> float:
    """Requests per second over the span of the items; needs two items at different times."""
    span = items[-1].at - items[0].at if items else 0.0
    if span <= 0:
        raise WorkloadError("a rate needs at least two requests at different times")
    return (len(items) - 1) / span


def at_rate(items: Sequence[Item], rate: float) -> list[Item]:
    """The same requests, starting at 0, with time compressed or stretched to `rate` requests per second."""
    return at_speed(items, rate / mean_rate(items))


def at_speed(items: Sequence[Item], speed: float) -> list[Item]:
    """The same requests, starting at 0, with time running `speed` times as fast."""
    if not (math.isfinite(speed) and speed > 0):
        raise WorkloadError("rate and speed must be above 0")
    start = items[0].at if items else 0.0
    return [replace(item, at=(item.at - start) / speed) for item in items]


def thin(items: Sequence[Item], share: float, seed: int) -> list[Item]:
    """Each request kept with probability `share`: a lower rate that keeps the minutes of the day."""
    kept = np.random.default_rng(seed).random(len(items)) < share
    return [item for item, keep in zip(items, kept, strict=True) if keep]


def with_arrivals(items: Sequence[Item], times: Iterable[float]) -> Iterator[Item]:
    """The items in order, over again when they run out, at the given times instead of their own."""
    return (replace(item, at=at) for item, at in zip(itertools.cycle(items), times, strict=False))


def arrivals(rate: Rate, seconds: float, seed: int, cv: float = 1.0, step: float = 0.05) -> Iterator[float]:
    """Arrival times (s) in [0, seconds) that follow `rate`, with gaps of coefficient of variation `cv`.

    cv 1 is Poisson, 0 evenly spaced, above 1 bursty (gamma gaps of shape 1/cv²). The rate is taken as
    constant over each `step` seconds.
    """
    if cv < 0 or not math.isfinite(cv):
        raise WorkloadError("cv must be 0 or more")
    rng = np.random.default_rng(seed)
    even = cv < 1e-3
    order = 1.0 if even else 1.0 / (cv * cv)

    def gap() -> float:
        return 1.0 if even else float(rng.gamma(order, 1.0 / order))

    # With even gaps the first one is random, or every seed would start alike.
    due = float(rng.random()) if even else gap()
    work = 0.0
    for cell in range(math.ceil(seconds / step)):
        start = cell * step
        now_rate = max(0.0, rate(start + step / 2))
        grown = now_rate * step
        while due <= work + grown and grown > 0:
            at = start + (due - work) / now_rate
            if at >= seconds:
                return
            yield at
            due += gap()
        work += grown


def constant(rate: float) -> Rate:
    """Always `rate`."""
    return lambda t: rate


def ramp(first: float, last: float, seconds: float) -> Rate:
    """From `first` to `last` in a straight line over `seconds`, then `last`."""
    return lambda t: first + (last - first) * min(1.0, max(0.0, t / seconds))


def steps(first: float, last: float, count: int, seconds: float) -> Rate:
    """`count` equal stairs from `first` to `last` over `seconds`, then `last`."""
    height = (last - first) / max(1, count - 1)
    return lambda t: first + height * min(count - 1, int(count * max(0.0, t) / seconds))


def spike(base: float, peak: float, start: float, length: float) -> Rate:
    """`base`, but `peak` from `start` for `length` seconds."""
    return lambda t: peak if start <= t < start + length else base


def day(mean: float, seconds: float, swing: float = 0.6) -> Rate:
    """One day in `seconds`: quietest at the start and end, busiest in the middle, mean × (1 ± swing)."""
    return lambda t: mean * (1.0 - swing * math.cos(2.0 * math.pi * t / seconds))


SHAPES = ("constant", "ramp", "step", "spike", "day")


def shape(name: str, rate: float, seconds: float) -> Rate:
    """A shape by name, of which `rate` is the peak (`day`: the mean), filling `seconds`.

    ramp: from a tenth of it; step: five stairs from a fifth of it; spike: a third of it, and in the middle
    fifth of the time all of it.
    """
    if rate <= 0 or seconds <= 0:
        raise WorkloadError("rate and seconds must be above 0")
    made = {
        "constant": lambda: constant(rate),
        "ramp": lambda: ramp(rate / 10, rate, seconds),
        "step": lambda: steps(rate / 5, rate, 5, seconds),
        "spike": lambda: spike(rate / 3, rate, 0.4 * seconds, 0.2 * seconds),
        "day": lambda: day(rate, seconds),
    }.get(name)
    if made is None:
        raise WorkloadError(f"no shape {name!r}; there are {', '.join(SHAPES)}")
    return made()
