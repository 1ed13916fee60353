"""Conditions of rules: can they hold, and does an earlier rule leave anything for a later one?

The idea: a rule that can never be used is an error, because whoever wrote it expects it to be. It cannot when what it
asks for does not exist (a tenant without a key, a path that is not served), when it contradicts itself (an empty span
of tokens), and when a rule above it takes everything that it would take. That one covers another is only said where it
is plain: condition for condition.

Left to others: where rules lead (`check_routes`, `check_split`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.config.kinds import Path, Reader
from gateway.config.known import Known, covers, fits, is_template, path_fits
from gateway.config.names import matches
from gateway.config.problems import did_you_mean, shown
from gateway.config.spec_routes import WHEN
from gateway.core.routes import Hours, Span, Text, When

DAY = 86_400
MOST_COMPARED = 50_000
"""Pairs of rules in one file, half a second's work: ten models of a hundred rules each."""
MOST_FITTED = 10_000
"""Names with which one condition is compared, times its texts; beyond that nothing is said of it."""


def check_when(at: Path, when: Mapping[str, Any], model: Mapping[str, Any], names: Collection[str], known: Known,
               reader: Reader) -> None:  # fmt: skip
    """Report what is wrong with one `when:` (at `at`, as it was read); `names` are the model's, patterns too."""
    if not when and at not in reader.broken:
        reader.spoil(at)  # what was meant is not known: nothing is said of the rules below it
        reader.error(reader.key_at(*at), "`when` is empty", "leave it out: without it the rule is for all requests")
    _check_paths(at, when, known, reader)
    for key, what, there in (("tenant", "tenant", known.tenants), ("class", "class", known.classes),
                             ("key", "key", known.keys)):  # fmt: skip
        if there is not None:
            _check_texts((*at, key), when.get(key), what, there, reader)
    _check_names(at, when, names, reader)
    _check_prompt((*at, "prompt"), when.get("prompt"), model.get("max_context"), reader)
    _check_hours((*at, "time"), when.get("time"), reader)


def _check_texts(at: Path, text: Any, what: str, there: Collection[str], reader: Reader) -> None:
    """Each whole text must be there; and something that is there must fit."""
    if not isinstance(text, Text):
        return
    if text == Text():
        reader.error(reader.value_at(*at), f"`{at[-1]}` says nothing: any {what} fits", "leave it out")
        return
    before = len(reader.problems)
    for place, part in ((at, text), ((*at, "not"), text.unlike or Text())):
        for name in part.exact:
            if name not in there:  # a set or a mapping
                hint = _no_such(what, name, there)
                told = "this key is not under `keys`" if what == "key" else f"{what} {shown(name)} does not exist"
                reader.error(reader.value_at(*place, "=", name), f"unreachable: {told}", hint)
    loose = len(text.prefix) + len(text.regex) + (len(text.unlike.regex) if text.unlike else 0)
    may_look = len(there) * (loose + 1) <= MOST_FITTED
    if len(reader.problems) == before and may_look and not any(fits(text, name) for name in there):
        hint = f"there are {', '.join(sorted(there)[:10])}" if what != "key" and there else ""
        reader.error(reader.value_at(*at), f"unreachable: no {what} fits", hint)


def _no_such(what: str, name: str, there: Collection[str]) -> str:
    if what == "key":
        return "put it there, or take it out here"
    return did_you_mean(name, there) or (f"there are {', '.join(sorted(there)[:10])}" if there else "")


def _check_paths(at: Path, when: Mapping[str, Any], known: Known, reader: Reader) -> None:
    text, at = when.get("path"), (*at, "path")
    if not isinstance(text, Text):
        return
    if text == Text():
        reader.error(reader.value_at(*at), "`path` says nothing: any path fits", "leave it out")
    plain = [path for path in known.paths if not is_template(path)]
    templates = [path for path in known.paths if is_template(path)]
    for path in text.exact:
        if path not in plain and not any(path_fits(template, path) for template in templates):
            where, hint = reader.value_at(*at, "=", path), did_you_mean(path, sorted(known.paths))
            reader.error(where, f"unreachable: path {shown(path)} is not served", hint or "add it under `paths:`")
    for prefix in text.prefix:
        heads = [template.partition("{model}")[0] for template in templates]
        if not (any(path.startswith(prefix) for path in plain)
                or any(head.startswith(prefix) or prefix.startswith(head) for head in heads)):  # fmt: skip
            where = reader.value_at(*at, "=", prefix)
            reader.error(where, f"unreachable: no path that is served begins with {shown(prefix)}", "/v1/chat does")


def _check_names(at: Path, when: Mapping[str, Any], names: Collection[str], reader: Reader) -> None:
    """`model` looks at the client's spelling: a name that leads to another model never comes here."""
    text, at = when.get("model"), (*at, "model")
    if not isinstance(text, Text):
        return
    if text == Text():
        reader.error(reader.value_at(*at), "`model` says nothing: any name fits", "leave it out")
        return
    patterns = [name for name in names if "*" in name]
    for name in text.exact:
        if name not in names and not any(matches(pattern, name) for pattern in patterns):
            hint = did_you_mean(name, names) or f"its names are {', '.join(sorted(names)[:10])}"
            where = reader.value_at(*at, "=", name)
            reader.error(where, f"unreachable: {shown(name)} is none of this model's names", hint)
    loose = text.prefix or text.regex or text.unlike is not None
    if not patterns and not text.exact and loose and not any(fits(text, name) for name in names):
        hint = f"its names are {', '.join(sorted(names)[:10])}"
        reader.error(reader.value_at(*at), "unreachable: none of this model's names fits", hint)


def _check_prompt(at: Path, span: Any, most: Any, reader: Reader) -> None:
    if not isinstance(span, Mapping) or at in reader.broken:
        return
    least, below = span.get("at_least"), span.get("below")
    if least is None and below is None:
        reader.error(reader.key_at(*at), "`prompt` says nothing", "give at_least or below, in tokens")
    elif below is not None and (least or 0) >= below:
        told = f"contradictory: no prompt has at least {least or 0} and below {below} tokens"
        reader.error(reader.value_at(*at, "below"), told, "`below` is larger than `at_least`")
    elif least is not None and isinstance(most, int) and least >= most:
        told = f"unreachable: `max_context` is {most} tokens"
        reader.error(reader.value_at(*at, "at_least"), told, "a longer prompt is refused before")
    elif least == 0 and below is None:
        reader.error(reader.value_at(*at, "at_least"), "`at_least: 0` says nothing", "leave `prompt` out")


def _check_hours(at: Path, hours: Any, reader: Reader) -> None:
    if not isinstance(hours, Mapping) or at in reader.broken:
        return
    since, until = hours.get("from", 0), hours.get("to", DAY)
    days: Sequence[str] = hours.get("days") or ()
    for row, day in enumerate(days):
        if day in days[:row]:
            reader.error(reader.value_at(*at, "days", row), f"day repeated: {shown(day)}", "leave it out")
    if since == until:
        where = reader.value_at(*at, "to" if reader.is_given(*at, "to") else "from")
        reader.error(where, "contradictory: `from` and `to` are the same time", "a whole day is 00:00 to 24:00")
    elif since == DAY:
        reader.error(reader.value_at(*at, "from"), "no day goes on after `24:00`", "write 00:00")
    elif (since, until) == (0, DAY) and len(set(days)) in (0, 7):
        reader.error(reader.key_at(*at), "`time` says nothing: it is always so", "give from and to, or days")


# --- rules above rules -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """A rule further up: where, what it is called, and what it takes."""

    line: int
    told: str
    when: When


def check_order(at: Path, routes: Sequence[Any], reader: Reader) -> None:
    """Report rules for which nothing is left. What was not read whole is taken for a rule of its own kind."""
    above: list[Seen] = []
    for row, route in enumerate(routes):
        place = (*at, row)
        if not isinstance(route, Mapping) or (*place, "when") in reader.broken:
            continue
        when = WHEN.make(route["when"]) if "when" in route else When()
        reader.compared += len(above)
        for seen in above if reader.compared <= MOST_COMPARED else ():
            if told := _taken(seen, when):
                hint = "put it above that one, or narrow that one's `when`"
                if seen.when == When():
                    hint = "put that one last, or give it a `when`"
                elif seen.when == when:
                    hint = "leave one out"
                reader.error(reader.key_at(*place), f"unreachable: {told}", hint)
                break
        if route.get("shadow") is not True and (*place, "shadow") not in reader.broken:
            name = route.get("name")
            above.append(Seen(reader.key_at(*place).line, shown(name) if name else f"`routes[{row}]`", when))
    last = routes[-1] if routes else None
    if isinstance(last, Mapping) and above and all(seen.when != When() for seen in above) and at not in reader.broken:
        told = "no rule is for all requests: one that fits none is refused"
        reader.warn(reader.key_at(*at), told, "add one without `when` at the end")


def _taken(seen: Seen, when: When) -> str:
    """What is told of a rule that comes after one that takes all of its requests; empty where that is not so."""
    where = f"{seen.told} on line {seen.line}"
    if seen.when == When():
        return f"{where} takes every request"
    if seen.when == when:
        return f"{where} has the same `when`"
    return f"{where} takes all of its requests" if _covers(seen.when, when) else ""


def _covers(wide: When, narrow: When) -> bool:
    texts = ("path", "key", "tenant", "klass", "name")
    return (
        all(name in narrow.header and covers(text, narrow.header[name]) for name, text in wide.header.items())
        and all(covers(getattr(wide, part), getattr(narrow, part)) for part in texts)
        and _covers_span(wide.prompt, narrow.prompt)
        and (wide.stream is None or wide.stream == narrow.stream)
        and (wide.hours is None or wide.hours == narrow.hours or _covers_hours(wide.hours, narrow.hours))
    )  # fmt: skip


def _covers_span(wide: Span | None, narrow: Span | None) -> bool:
    if wide is None:
        return True
    if narrow is None:
        return False
    starts = (wide.at_least or 0) <= (narrow.at_least or 0)
    return starts and (wide.below is None or (narrow.below is not None and narrow.below <= wide.below))


def _covers_hours(wide: Hours, narrow: Hours | None) -> bool:
    """Only where both lie within a day, which is most."""
    if narrow is None or wide.zone != narrow.zone or wide.until < wide.since or narrow.until < narrow.since:
        return False
    days = not wide.days or (narrow.days and narrow.days <= wide.days)
    return bool(days) and wide.since <= narrow.since and narrow.until <= wide.until
