"""Where a model's requests go: does every rule lead somewhere, and is nothing said that nobody hears?

The idea: a model has `to` or `routes`, a rule `to` or `split`; what belongs to the one form is an error in the other.
Each pool that is named must be there, and must not be one that was tried already.

Left to others: conditions and the order of rules (`check_when`), what only splits have (`check_split`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.config.check_split import check_split
from gateway.config.check_when import check_order, check_when
from gateway.config.kinds import Path, Reader
from gateway.config.known import Known
from gateway.config.problems import did_you_mean, shown
from gateway.config.types import ANY_MODEL

MOST_ROUTES = 100
"""Of one model: a request is compared with one after the other."""


def check_routes(name: str, model: Mapping[str, Any], pools: Mapping[str, Any], known: Known,
                 reader: Reader) -> set[str]:  # fmt: skip
    """Report what is wrong with where one model leads. `model` is as it was read. Returns the pools it names."""
    at: Path = ("models", name)
    has_routes = (*at, "routes") in reader.places
    if (*at, "to") in reader.places and has_routes:
        where = max(reader.key_at(*at, "to"), reader.key_at(*at, "routes"))
        reader.error(where, "contradictory: `to` and `routes`", "`to` is short for one rule; give one of them")
    elif not has_routes:
        if (*at, "to") not in reader.places:
            hint = f"write {{to: {next(iter(pools), 'POOL')}}}"
            reader.error(reader.key_at(*at), f"model {shown(name)} leads nowhere: `to` is missing", hint)
        _check_as(at, model, reader)
        return _check_chain(at, model, pools, "model", reader)
    for key in ("fallback", "fallback_after"):
        if (*at, key) in reader.places:
            told = f"contradictory: `{key}` beside `routes`"
            reader.error(reader.key_at(*at, key), told, "write it in the rules that it is for")
    _check_as(at, model, reader)
    routes = model.get("routes") or []
    if len(routes) > MOST_ROUTES:
        reader.error(reader.key_at(*at, "routes"), f"more than {MOST_ROUTES} rules", "put several values in one `when`")
        return set(pools)
    used: set[str] = set()
    for row, route in enumerate(routes):
        if isinstance(route, Mapping):
            used |= _check_route((*at, "routes", row), route, model, pools, known, reader)
    _check_names((*at, "routes"), routes, reader)
    check_order((*at, "routes"), routes, reader)
    rules = [route for route in routes if isinstance(route, Mapping)]
    if rules and len(rules) == len(routes) and all(route.get("shadow") is True for route in rules):
        told = f"model {shown(name)} leads nowhere: all of its rules are shadows"
        reader.error(reader.key_at(*at, "routes"), told, "add one without `shadow` at the end")
    return used


def _check_route(at: Path, route: Mapping[str, Any], model: Mapping[str, Any], pools: Mapping[str, Any], known: Known,
                 reader: Reader) -> set[str]:  # fmt: skip
    has_to, has_split = ((*at, key) in reader.places for key in ("to", "split"))
    if has_to and has_split:
        where = max(reader.key_at(*at, "to"), reader.key_at(*at, "split"))
        reader.error(where, "contradictory: `to` and `split`", "`to` is for one arm; give one of them")
    elif not has_to and not has_split:
        hint = f"write to: {next(iter(pools), 'POOL')}, or split: with arms"
        reader.error(reader.key_at(*at), "this rule leads nowhere: `to` is missing", hint)
    if "when" in route:
        names = [str(at[1]), *(alias for alias in model.get("aliases") or () if isinstance(alias, str))]
        check_when((*at, "when"), route["when"], model, names, known, reader)
    _check_as(at, route, reader)
    used = _check_chain(at, route, pools, "rule", reader)
    for row, arm in enumerate(route.get("split") or ()):
        if isinstance(arm, Mapping):
            _check_as((*at, "split", row), arm, reader)
            used |= _check_chain((*at, "split", row), arm, pools, "arm", reader)
    check_split(at, route, pools, known, reader)
    mirror = route.get("mirror")
    if isinstance(mirror, Mapping) and "to" in mirror:
        _check_pool((*at, "mirror", "to"), mirror["to"], pools, reader)
        used.add(mirror["to"])
    return used


def _check_chain(at: Path, part: Mapping[str, Any], pools: Mapping[str, Any], whose: str, reader: Reader) -> set[str]:
    """`to` and `fallback` of a model, a rule or an arm: pools to try one after the other. Returns those it names."""
    named: set[str] = set()
    for place, pool in _targets(part):
        if pool in named:
            told = f"unreachable: pool {shown(pool)} is already one of this {whose}'s"
            reader.error(reader.value_at(*at, *place), told, "leave it out")
        else:
            _check_pool((*at, *place), pool, pools, reader)
        named.add(pool)
    split = [arm for arm in part.get("split") or () if isinstance(arm, Mapping)]
    fallback = part.get("fallback") or [arm for arm in split if arm.get("fallback")]
    if "fallback_after" in part and not fallback and (*at, "fallback") not in reader.broken:
        where = reader.key_at(*at, "fallback_after")
        reader.error(where, "unreachable: `fallback_after` without `fallback`", "give fallback, or leave it out")
    return named


def _targets(part: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    if "to" in part:
        yield ("to",), part["to"]
    for row, pool in enumerate(part.get("fallback") or ()):
        if isinstance(pool, str):
            yield ("fallback", row), pool


def _check_pool(at: Path, pool: str, pools: Mapping[str, Any], reader: Reader) -> None:
    if pool not in pools:
        hint = did_you_mean(pool, pools) or f"there are {', '.join(list(pools)[:10])}"
        reader.error(reader.value_at(*at), f"pool {shown(pool)} does not exist", hint)


def _check_as(at: Path, part: Mapping[str, Any], reader: Reader) -> None:
    for key, place in (("as", (*at, "as")), ("mirror", (*at, "mirror", "as"))):
        value = part.get(key)
        name = value.get("as") if isinstance(value, Mapping) else value
        if name == ANY_MODEL:
            reader.error(reader.value_at(*place), "`*` is not the name of one model", "name what the servers serve")
        elif name is not None and name == at[1]:
            told = f"`as` is unused: {shown(str(name))} is the model's own name"
            reader.warn(reader.key_at(*place), told, "leave it out")


def _check_names(at: Path, routes: list[Any], reader: Reader) -> None:
    """Records, metrics and commands name a rule: no two of one model may have the same name."""
    lines: dict[str, int] = {}
    for row, route in enumerate(routes):
        name = route.get("name") if isinstance(route, Mapping) else None
        if name is None:
            continue
        mark = reader.value_at(*at, row, "name")
        if name in lines:
            reader.error(mark, f"rule repeated: {shown(name)}", f"it is already on line {lines[name]}")
        lines.setdefault(name, mark.line)
