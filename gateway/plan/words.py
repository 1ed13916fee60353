"""How parts of a configuration are said in a plan: rules, conditions, shares, durations and sizes.

Left to others: what has changed (`diff`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from gateway.config.types import Route, Secret, Text
from gateway.what_if import number, seconds

_SECONDS = frozenset((
    "delay", "timeout", "every", "connect", "first_token", "between_tokens", "total", "base", "max", "keepalive",
    "header_time", "body_idle", "idle", "write_stall", "wait", "ttft", "tpot", "fallback_after", "hold", "retention",
))  # fmt: skip
_SHARES = frozenset(("budget", "at_most", "slowdown", "reserve", "share", "steps", "errors", "risk"))
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MOST = 200  # characters of one value


def percent(share: float) -> str:
    """`5 %`, as exact as it is worth."""
    text = f"{100.0 * share:.3g}"
    return f"{text} %"


def value(place: str, found: Any) -> str:
    """A value of the configuration; its place says what it counts."""
    name = place.rstrip(". ").rsplit(".", 1)[-1].rsplit(" ", 1)[-1]
    if found is None or found == () or found == frozenset() or found == {}:
        return "none"
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, int | float):
        if name in _SECONDS:
            return seconds(float(found))
        return percent(float(found)) if name in _SHARES else number(float(found))
    if isinstance(found, Secret):
        return "a secret"
    if is_dataclass(found) and not isinstance(found, type):
        return _told(((field.name, getattr(found, field.name)) for field in fields(found)), found)
    if isinstance(found, Mapping):
        return _told(((str(key), part) for key, part in found.items()), None)
    if isinstance(found, list | tuple | frozenset | set):
        is_set = isinstance(found, frozenset | set)
        return _cut(", ".join(sorted(map(str, found)) if is_set else [value(place, part) for part in found]))
    return _cut(str(found))


def _told(pairs: Iterable[tuple[str, Any]], default: Any) -> str:
    """Only what is not as it is by itself."""
    usual = {field.name: field.default for field in fields(default)} if default is not None else {}
    told = [f"{name} {value(name, part)}" for name, part in pairs if usual.get(name, ...) != part and part is not None]
    return _cut("{" + ", ".join(told) + "}")


def _cut(text: str) -> str:
    return text if len(text) <= _MOST else f"{text[:_MOST]}…"


def flow(route: Route) -> str:
    """Where a rule leads: `90 % to h100, 10 % to h100-next (arm next), then l4`."""
    canary = route.canary.arm if route.canary is not None else None
    first = route.canary.steps[0] if route.canary is not None else 0.0
    total = sum(arm.weight for arm in route.arms if arm.name != canary) or 1.0
    parts = []
    for arm in route.arms:
        share = first if arm.name == canary else (1.0 - first) * arm.weight / total
        told = f"{percent(share)} to {arm.to}" if len(route.arms) > 1 else f"to {arm.to}"
        parts.append(told + (f" (arm {arm.name})" if arm.name else ""))
    text = ", ".join(parts)
    fallbacks = dict.fromkeys(pool for arm in route.arms for pool in arm.fallback)
    text += f", then {', '.join(fallbacks)}" if fallbacks else ""
    text += f", and {percent(route.mirror.share)} copied to {route.mirror.to}" if route.mirror is not None else ""
    return f"in shadow: {text}" if route.shadow else text


def when(route: Route) -> str:
    """Which requests a rule is for."""
    asked, parts = route.when, []
    for what, text in (("path", asked.path), ("key", asked.key), ("tenant", asked.tenant), ("class", asked.klass),
                       ("model", asked.name)):  # fmt: skip
        if text is not None:
            parts.append(f"{what} {_text(text)}")
    parts += [f"header {name} {_text(text)}" for name, text in asked.header.items()]
    if asked.prompt is not None:
        parts += [f"at least {asked.prompt.at_least} prompt tokens"] if asked.prompt.at_least is not None else []
        parts += [f"fewer than {asked.prompt.below} prompt tokens"] if asked.prompt.below is not None else []
    if asked.stream is not None:
        parts.append("streamed" if asked.stream else "not streamed")
    if asked.hours is not None:
        days = ", ".join(_DAYS[day] for day in sorted(asked.hours.days)) or "every day"
        parts.append(f"{_clock(asked.hours.since)} to {_clock(asked.hours.until)} {asked.hours.zone}, {days}")
    return f"with {' and '.join(parts)}" if parts else "of any kind"


def _text(text: Text) -> str:
    parts = [f"= {one}" for one in text.exact]
    parts += [f"beginning with {one}" for one in text.prefix]
    parts += [f"like /{one}/" for one in text.regex]
    told = " or ".join(parts) or "there"
    return f"{told} and not {_text(text.unlike)}" if text.unlike is not None else told


def _clock(second: int) -> str:
    return f"{second // 3600:02d}:{second % 3600 // 60:02d}"
