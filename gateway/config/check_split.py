"""Splits and what hangs on them: can the weights be met, and has each arm, canary, mirror and stickiness a meaning?

The idea: a split says how requests are dealt; what cannot be dealt so (no weight at all, one arm, two of one name) is
an error, and so is everything that only means something beside what is missing: a canary without a split, a share that
never rises. Sources: Argo Rollouts and Flagger accept most of these and do nothing.

Left to others: pools and names (`check_routes`), conditions (`check_when`), judging (`policies.routing`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from gateway.config.kinds import Path, Reader
from gateway.config.known import Known
from gateway.config.problems import did_you_mean, shown
from gateway.config.scalars import format_share

LEAST_SHARE = 1e-6
"""Of a split: an arm with less gets one request in a million, which is no split that anybody means."""


def check_split(at: Path, route: Mapping[str, Any], pools: Mapping[str, Any], known: Known, reader: Reader) -> None:
    """Report what is wrong with one rule's arms and what hangs on them; `route` is as it was read."""
    rows = route.get("split")
    if rows is not None and (*at, "split") not in reader.broken:
        _check_arms((*at, "split"), rows, route.get("canary"), reader)
    _check_sticky(at, route, known, reader)
    _check_canary(at, route, reader)
    _check_mirror(at, route, reader)
    _check_cheapest(at, route, pools, reader)
    if route.get("shadow") is True:
        for key in ("canary", "mirror"):
            if route.get(key) is not None:
                told = f"unreachable: `{key}` in a shadow, whose requests go by the next rule"
                reader.error(reader.key_at(*at, key), told, f"take `shadow` or `{key}` out")


def _arms(route: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    return ((row, arm) for row, arm in enumerate(route.get("split") or ()) if isinstance(arm, Mapping))


def _check_arms(at: Path, rows: list[Mapping[str, Any]], canary: Any, reader: Reader) -> None:
    if len(rows) < 2:
        told = "a split of one arm" if rows else "`split` is empty"
        where = reader.key_at(*at)
        reader.error(where, told, f"write to: {rows[0]['to']}" if rows else "at least two arms are expected")
        return
    lines: dict[str, int] = {}
    for row, arm in enumerate(rows):
        mark, name = reader.value_at(*at, row, "arm"), arm["arm"]
        if name in lines:
            reader.error(mark, f"arm repeated: {shown(name)}", f"it is already on line {lines[name]}")
        lines.setdefault(name, mark.line)
    on_trial = canary.get("arm") if isinstance(canary, Mapping) else None
    dealt = [(row, arm.get("weight", 1.0)) for row, arm in enumerate(rows) if arm["arm"] != on_trial]
    total = sum(weight for _, weight in dealt)
    if dealt and not total:
        told = "weights that cannot be met: all are 0"
        reader.error(reader.value_at(*at, dealt[0][0], "weight"), told, "one arm at least has a weight above 0")
        return
    for row, weight in dealt:
        if 0 < weight < LEAST_SHARE * total:
            told = f"a weight that cannot be met: less than one request in {1 / LEAST_SHARE:.0f}"
            reader.error(reader.value_at(*at, row, "weight"), told, "raise it, or write 0")


def _check_sticky(at: Path, route: Mapping[str, Any], known: Known, reader: Reader) -> None:
    sticky, place = route.get("sticky"), (*at, "sticky")
    if not isinstance(sticky, Mapping):
        return
    where = reader.key_at(*place)
    if (*at, "split") not in reader.places:
        reader.error(where, "unreachable: `sticky` without `split`", "there is only one arm to stay on; leave it out")
    if place in reader.broken:
        return
    if "by" in sticky and "header" in sticky:
        told = "contradictory: `by` and `header`"
        reader.error(max(reader.key_at(*place, "by"), reader.key_at(*place, "header")), told, "give one")
    elif "by" not in sticky and "header" not in sticky:
        hint = "write key, session, user, or {header: x-session-id}"
        reader.error(where, "`sticky` by what? `header` or `by` is missing", hint)
    elif sticky.get("by") == "key" and known.keys is not None and not known.keys:
        told = "there are no `keys`: nobody is kept on an arm by one"
        reader.warn(reader.value_at(*place), told, "write session, user, or {header: NAME}")


def _check_canary(at: Path, route: Mapping[str, Any], reader: Reader) -> None:
    canary, place = route.get("canary"), (*at, "canary")
    if not isinstance(canary, Mapping):
        return
    arms = {arm["arm"]: (row, arm) for row, arm in _arms(route) if "arm" in arm}
    name = canary.get("arm")
    if (*at, "split") not in reader.places:
        hint = "give split: with the arm on trial and the one that serves now"
        reader.error(reader.key_at(*place), "unreachable: `canary` without `split`", hint)
    elif name is not None and name not in arms and (*at, "split") not in reader.broken:
        told = f"canary of an arm that is not there: {shown(name)}"
        hint = did_you_mean(name, arms) or f"the arms are {', '.join(list(arms)[:10])}"
        reader.error(reader.value_at(*place, "arm"), told, hint)
    elif name in arms:
        row, arm = arms[name]
        if "weight" in arm:
            where, told = reader.key_at(*at, "split", row, "weight"), "contradictory: the arm of a canary has no weight"
            reader.error(where, told, "its share is the current step; leave it out")
        _check_same(at, row, arm, arms, reader)
    _check_steps((*place, "steps"), canary.get("steps"), reader)
    _check_bounds(place, canary, reader)


def _check_same(at: Path, row: int, arm: Mapping[str, Any], arms: Mapping[str, tuple[int, Mapping[str, Any]]],
                reader: Reader) -> None:  # fmt: skip
    """A canary that goes where another arm goes, under the same name, tries nothing out."""
    for name, (_, other) in arms.items():
        if other is not arm and "to" in arm and (arm["to"], arm.get("as")) == (other.get("to"), other.get("as")):
            told = f"contradictory: the canary goes to the same pool as {shown(name)}, under the same name"
            reader.error(reader.value_at(*at, "split", row, "to"), told, "give it another pool, or another `as`")
            return


def _check_steps(at: Path, steps: Any, reader: Reader) -> None:
    if not steps or at in reader.broken:
        return
    if steps[0] == 0:
        reader.error(reader.value_at(*at, 0), "a step of 0%: the canary would get nothing", "begin at 1%")
    for row, (before, step) in enumerate(pairwise(steps), 1):
        if step <= before:
            told = f"the steps do not rise: {format_share(step)} after {format_share(before)}"
            reader.error(reader.value_at(*at, row), told, "each is larger than the one before")
    if steps[-1] < 1:
        told = f"the last step is {format_share(steps[-1])}: the canary never gets all"
        reader.warn(reader.value_at(*at, len(steps) - 1), told, "end at 100%, or do that by hand")


def _check_bounds(at: Path, canary: Mapping[str, Any], reader: Reader) -> None:
    margin = canary.get("margin")
    for key, value in margin.items() if isinstance(margin, Mapping) else ():
        where = reader.value_at(*at, "margin", key)
        if value == 0:
            told = f"unreachable: no number of requests shows that `{key}` is worse by 0% at most"
            reader.error(where, told, "give a margin above 0%")
        elif key == "errors" and value >= 0.5:
            reader.error(where, "`errors` of half of all requests is no margin", "such as 0.5%")
    risk = canary.get("risk")
    if risk is not None and not 0 < risk <= 0.5:
        told = "unreachable: a verdict without any risk" if risk == 0 else "a risk above 50% decides nothing"
        reader.error(reader.value_at(*at, "risk"), told, "such as 5%")


def _check_mirror(at: Path, route: Mapping[str, Any], reader: Reader) -> None:
    mirror = route.get("mirror")
    if not isinstance(mirror, Mapping):
        return
    if mirror.get("share") == 0:
        where = reader.value_at(*at, "mirror", "share")
        reader.error(where, "unreachable: a mirror of 0% of the requests", "raise it, or leave `mirror` out")
    served = {part.get("to") for part in (route, *(arm for _, arm in _arms(route)))}
    if "to" in mirror and mirror["to"] in served:
        told = f"contradictory: {shown(mirror['to'])} serves this rule's requests already"
        reader.error(reader.value_at(*at, "mirror", "to"), told, "copies go to another pool")


def _check_cheapest(at: Path, route: Mapping[str, Any], pools: Mapping[str, Any], reader: Reader) -> None:
    if route.get("cheapest") is not True or at in reader.broken:
        return
    where = reader.key_at(*at, "cheapest")
    chains = [{part.get("to"), *(part.get("fallback") or route.get("fallback") or ())} - {None}
              for part in ([arm for _, arm in _arms(route)] or [route])]  # fmt: skip
    if all(len(chain) < 2 for chain in chains):
        reader.error(where, "unreachable: `cheapest` of one pool", "give fallback: the pools to choose among")
    elif all(len({_cost(pools.get(str(pool))) for pool in chain}) == 1 for chain in chains):
        reader.warn(where, "`cheapest` is unused: these pools cost the same", "give them `cost:`")


def _cost(pool: Any) -> float:
    cost = pool.get("cost", 1.0) if isinstance(pool, Mapping) else 1.0
    return float(cost)
