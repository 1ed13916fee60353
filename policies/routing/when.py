"""The conditions of a rule, made into predicates once, when the file is read.

The idea: each condition is a function of the question and nothing else, with words beside it that say what it wants;
so the request's path only calls functions, and explaining a decision needs no second evaluation of its own. An absent
header is no text: whatever a text must be, it is not; hence `not` of anything holds for it.

A pattern matches a whole text or none of it, and a text of more than a KiB never: operators choose the pattern, clients
the text. Hours are those of the wall in their zone: of an hour that a change of the clocks repeats both count, and one
that it skips never comes.

Left to others: whether conditions can ever hold (the configuration's checks).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo

from gateway.core.routes import Hours, Span, Text, When
from policies.routing.base import Asked

LONGEST = 1024  # characters of a text that a pattern may match
_SHOWN = 80
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

Fits = Callable[[Asked], bool]
Value = Callable[[Asked], str | None]
Matcher = Callable[[str | None], bool]


class Condition(NamedTuple):
    """One thing that must hold: `what` must `must`; `seen` says what it is."""

    what: str
    must: str
    fits: Fits
    seen: Callable[[Asked], str]

    def complaint(self, asked: Asked) -> str:
        return f"{self.what} must {self.must}, and is {self.seen(asked)}"


def conditions(when: When) -> tuple[Condition, ...]:
    """All that must hold, what is quickest to tell first. Raises re.error or ZoneInfoNotFoundError."""
    found = []
    if when.stream is not None:
        found.append(_stream(when.stream))
    if when.prompt is not None:
        found.append(_prompt(when.prompt))
    of_asked: tuple[tuple[str, Text | None, Value], ...] = (
        ("class", when.klass, lambda asked: asked.klass),
        ("tenant", when.tenant, lambda asked: asked.tenant),
        ("key", when.key, lambda asked: asked.key or None),
        ("path", when.path, lambda asked: asked.path),
        ("model", when.name, lambda asked: asked.name),
    )
    found += [_text(what, text, value) for what, text, value in of_asked if text is not None]
    found += [_text(f"header {name}", text, _header(name)) for name, text in when.header.items()]
    if when.hours is not None:
        found.append(_hours(when.hours))
    return tuple(found)


def _header(name: str) -> Value:
    return lambda asked: asked.header(name)


def _stream(wanted: bool) -> Condition:
    return Condition("the answer", "be streamed" if wanted else "be whole", lambda asked: asked.stream is wanted,
                     lambda asked: "streamed" if asked.stream else "whole")  # fmt: skip


def _prompt(span: Span) -> Condition:
    least = 0.0 if span.at_least is None else float(span.at_least)
    below = float("inf") if span.below is None else float(span.below)
    words = [f"have at least {span.at_least} tokens"] if span.at_least is not None else []
    words += [f"have fewer than {span.below} tokens"] if span.below is not None else []
    return Condition("the prompt", " and ".join(words) or "be there",
                     lambda asked: least <= asked.prompt_tokens < below,
                     lambda asked: f"about {asked.prompt_tokens:.0f} long")  # fmt: skip


def _text(what: str, text: Text, value: Value) -> Condition:
    matches = matcher(text)

    def seen(asked: Asked) -> str:
        found = value(asked)
        return "absent" if found is None else _quoted(found)

    return Condition(what, described(text), lambda asked: matches(value(asked)), seen)


def matcher(text: Text) -> Matcher:
    """Whether a text (None: there is none) is as `text` says."""
    exact, prefix = frozenset(text.exact), text.prefix
    patterns = tuple(re.compile(pattern).fullmatch for pattern in text.regex)
    unlike = None if text.unlike is None else matcher(text.unlike)
    if exact and not prefix and not patterns and unlike is None:
        return exact.__contains__
    has_wish = bool(exact or prefix or patterns)

    def is_one(value: str) -> bool:
        if value in exact or value.startswith(prefix):
            return True
        return len(value) <= LONGEST and any(pattern(value) for pattern in patterns)

    def matches(value: str | None) -> bool:
        if has_wish:
            if value is None or not is_one(value):
                return False
        elif unlike is None:
            return value is not None
        return unlike is None or not unlike(value)

    return matches


def described(text: Text) -> str:
    """What a text must do, in words: `be "a" or begin with "b", and not …`."""
    ways = [f"be {_quoted(exact)}" for exact in text.exact]
    ways += [f"begin with {_quoted(prefix)}" for prefix in text.prefix]
    ways += [f"match /{pattern}/" for pattern in text.regex]
    wish = " or ".join(ways)
    if text.unlike is None:
        return wish or "be there"
    denied = f"not {described(text.unlike)}"
    return f"{wish}, and {denied}" if wish else denied


def _quoted(text: str) -> str:
    shown = text[:_SHOWN] if text[:_SHOWN].isprintable() else text[:_SHOWN].encode("unicode_escape").decode("ascii")
    return f'"{shown}"' if len(text) <= _SHOWN else f'"{shown}…"'


class _Within:
    """Whether a moment lies in some hours of some days. What holds, holds for a second: within one it is remembered."""

    __slots__ = ("zone", "_hours", "_days", "_second", "_verdict")

    def __init__(self, hours: Hours):
        # (The database of time zones may be missing; UTC needs none.)
        self.zone: tzinfo = UTC if hours.zone == "UTC" else ZoneInfo(hours.zone)
        self._hours = hours
        self._days = hours.days or frozenset(range(7))
        self._second: int | None = None
        self._verdict = False

    def __call__(self, asked: Asked) -> bool:
        second = int(asked.clock)
        if second != self._second:
            self._second, self._verdict = second, self._holds(second)
        return self._verdict

    def _holds(self, second: int) -> bool:
        local = datetime.fromtimestamp(second, self.zone)
        at, day = local.hour * 3600 + local.minute * 60 + local.second, local.weekday()
        since, until = self._hours.since, self._hours.until
        if since < until:
            return since <= at < until and day in self._days
        return (at >= since and day in self._days) or (at < until and (day - 1) % 7 in self._days)


def _hours(hours: Hours) -> Condition:
    within = _Within(hours)

    def seen(asked: Asked) -> str:
        return f"{datetime.fromtimestamp(int(asked.clock), within.zone):%a %H:%M:%S}"

    days = "" if not hours.days else " on " + ", ".join(_DAYS[day] for day in sorted(hours.days))
    must = f"be from {_clock(hours.since)} to {_clock(hours.until)}{days} in {hours.zone}"
    return Condition("the time", must, within, seen)


def _clock(second: int) -> str:
    return f"{second // 3600:02d}:{second // 60 % 60:02d}" + (f":{second % 60:02d}" if second % 60 else "")
