"""What is different between two configurations, in sentences an operator can check against what was meant.

The idea: what matters most has sentences of its own (where requests go and in which shares, servers, promises, who may
do what); all the rest is walked value by value and named by its place in the file, so that no change is left out: equal
digests have no sentences, different ones at least one. Secrets are never shown, only that they are others.

Left to others: how routes read (`words`), what a change does to requests (`replay`, `lab`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from gateway.config.types import Config, EndpointSpec, Key, Model, Pool, Route, Secret, When
from gateway.plan.replay import named
from gateway.plan.words import flow, percent, value, when

_OWN = ("pools", "models", "keys", "digest", "source")
_MODEL_OWN = ("name", "routes")
_POOL_OWN = ("name", "endpoints")
_SPELT = {"as_": "as", "klass": "class", "ttft": "ttft", "tokens_per_day": "tokens_per_day"}


def differences(old: Config, new: Config) -> list[str]:
    """One sentence each; none where the configurations do the same."""
    return [
        *_pools(old.pools, new.pools),
        *_models(old.models, new.models),
        *_keys(old, new),
        *_rest(old, new, "", _OWN),
    ]


# --- pools ------------------------------------------------------------------------------------------------------


def _pools(old: Mapping[str, Pool], new: Mapping[str, Pool]) -> Iterator[str]:
    for name in old.keys() - new.keys():
        yield f"pool {name} is gone"
    for name, pool in new.items():
        if name not in old:
            where = f"{len(pool.endpoints)} endpoints" if pool.endpoints else "endpoints found elsewhere"
            yield f"pool {name} is new: {where}, policy {pool.pick.policy}"
        elif pool != old[name]:
            yield from _endpoints(name, old[name], pool)
            yield from _rest(old[name], pool, f"pool {name}: ", _POOL_OWN)


def _endpoints(name: str, old: Pool, new: Pool) -> Iterator[str]:
    before, after = ({spec.url: spec for spec in pool.endpoints} for pool in (old, new))
    for url in before.keys() - after.keys():
        yield f"pool {name}: endpoint {_called(before[url])} leaves ({len(before)} before, {len(after)} now)"
    for url in after.keys() - before.keys():
        yield f"pool {name}: endpoint {_called(after[url])} comes ({len(before)} before, {len(after)} now)"
    for url in after.keys() & before.keys():
        yield from _rest(before[url], after[url], f"pool {name}: endpoint {_called(after[url])}: ", ("url",))
    if before == after and old.endpoints != new.endpoints:
        yield f"pool {name}: its endpoints are written in another order"


def _called(spec: EndpointSpec) -> str:
    return spec.id or spec.url


# --- models -----------------------------------------------------------------------------------------------------


def _models(old: Mapping[str, Model], new: Mapping[str, Model]) -> Iterator[str]:
    for name in old.keys() - new.keys():
        yield f"model {name} is gone: requests for it are refused, unless a pattern or `*` takes them"
    for name, model in new.items():
        if name not in old:
            yield f"model {name} is new: {'; '.join(flow(route) for route in model.routes)}"
        elif model != old[name]:
            yield from _routes(old[name], model)
            yield from _rest(old[name], model, f"model {name}: ", _MODEL_OWN)


def _routes(old: Model, new: Model) -> Iterator[str]:
    before, after = named(old), named(new)
    pairs = _paired(before, after)
    for rule in before.keys() - pairs.values():
        yield f"model {new.name}: rule {rule} is gone ({when(before[rule])}: {flow(before[rule])})"
    for rule, route in after.items():
        was = pairs.get(rule)
        if was is None:
            yield f"model {new.name}: rule {rule} is new: {when(route)}: {flow(route)}"
        elif route != before[was]:
            yield from _route(new.name, rule, before[was], route, alone=len(after) == len(before) == 1)
    kept = [pairs[rule] for rule in after if rule in pairs]
    if kept != [rule for rule in before if rule in kept]:
        yield f"model {new.name}: its rules are tried in another order: {', '.join(after)}"


def _paired(before: Mapping[str, Route], after: Mapping[str, Route]) -> dict[str, str]:
    """Which rule was which: the same one wherever it stands, else that of the same name, else for the same requests."""
    pairs: dict[str, str] = {}
    for alike in (_is_same, _is_namesake, _is_for_the_same):
        for rule, route in after.items():
            if rule not in pairs:
                found = next((was for was, other in before.items()
                              if was not in pairs.values() and alike(other, route)), None)  # fmt: skip
                if found is not None:
                    pairs[rule] = found
    return pairs


def _is_same(one: Route, other: Route) -> bool:
    return one == other


def _is_namesake(one: Route, other: Route) -> bool:
    return bool(one.name) and one.name == other.name


def _is_for_the_same(one: Route, other: Route) -> bool:
    return not (one.name and other.name) and one.when == other.when


def _route(model: str, rule: str, old: Route, new: Route, alone: bool) -> Iterator[str]:
    """One rule of a model that has changed. `alone`: all of the model's requests go by it."""
    whose = f"model {model}: " if alone else f"model {model}, rule {rule}: "
    share = "its requests" if alone and new.when == old.when == When() else "the requests that fit"
    if old.when != new.when:
        yield f"{whose}it is for requests {when(new)} instead of {when(old)}"
    before, after = shares(old), shares(new)
    for key in dict.fromkeys([*after, *before]):
        was, now = before.get(key, 0.0), after.get(key, 0.0)
        if abs(was - now) > 1e-9:
            name, pool = key
            by = f" (arm {name})" if name else ""
            yield f"{whose}{percent(now)} of {share} go to {pool}{by} instead of {percent(was)}"
    arms = {arm.name: arm for arm in old.arms}
    for arm in new.arms:
        if arm.name in arms:
            who = f"{whose}arm {arm.name}: " if arm.name else whose
            yield from _rest(arms[arm.name], arm, who, ("name", "to", "weight"))
    yield from _rest(old, new, whose, ("name", "arms", "when", "fallback"))
    if {arm.name: arm.weight for arm in old.arms} != {arm.name: arm.weight for arm in new.arms} and before == after:
        yield f"{whose}its weights are written otherwise and mean the same shares"


def shares(route: Route) -> dict[tuple[str, str], float]:
    """What share of a rule's requests each (arm, pool) gets; a canary's is that of its first step."""
    canary = route.canary.arm if route.canary is not None else None
    first = route.canary.steps[0] if route.canary is not None else 0.0
    total = sum(arm.weight for arm in route.arms if arm.name != canary) or 1.0
    return {(arm.name, arm.to): first if arm.name == canary else (1.0 - first) * arm.weight / total
            for arm in route.arms}  # fmt: skip


# --- keys -------------------------------------------------------------------------------------------------------


def _keys(old: Config, new: Config) -> Iterator[str]:
    before, after = ({key.digest: key for key in config.keys} for config in (old, new))
    if before and not after:
        yield "there are no keys any more: every client is tenant anonymous and may use everything"
        return
    if after and not before:
        yield "there are keys now: requests without one are refused"
    for digest in before.keys() - after.keys():
        yield f"{_whose(before[digest])} is gone: its requests are refused"
    for digest, key in after.items():
        if digest not in before:
            yield f"{_whose(key)} is new"
        elif key != before[digest]:
            yield from _rest(before[digest], key, f"{_whose(key)}: ", ("digest",))


def _whose(key: Key) -> str:
    return f"key sha256:{key.digest.hex()[:6]}… of tenant {key.tenant}"


# --- all the rest -----------------------------------------------------------------------------------------------


def _rest(old: Any, new: Any, place: str, own: tuple[str, ...] = ()) -> Iterator[str]:
    """Every value that differs, by its place; `own` are the fields that have sentences of their own."""
    if old == new:
        return
    if isinstance(old, Secret) or isinstance(new, Secret):
        yield f"{place.rstrip('. ')} is another secret"
    elif is_dataclass(old) and type(old) is type(new):
        for field in fields(old):
            if field.name not in own:
                name = _SPELT.get(field.name, field.name)
                yield from _rest(getattr(old, field.name), getattr(new, field.name), f"{place}{name}.")
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            yield from _rest(old.get(name), new.get(name), f"{place}{name}.")
    else:
        yield f"{place.rstrip('. ')}: {value(place, new)} instead of {value(place, old)}"
