"""Classes, keys, jobs and limits: do their references lead somewhere, and can what they promise be kept?

The idea: as in `checks`, single values are fine when this runs. A class that does not exist, a filler that would harm
what it protects, a limit that can never be reached are errors; what nobody can use is a warning.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from gateway.config.kinds import NOTHING, Path, Reader
from gateway.config.problems import did_you_mean, shown
from gateway.config.types import Config, Key, TrafficClass

WITHOUT_PRIORITY = frozenset(("http", "tgi", "llamacpp", "lmdeploy", "jetstream"))
"""Engines that have no priority a request could carry."""


def check_traffic(config: Config, raw: Mapping[str, Any], reader: Reader) -> None:
    """Report what does not agree. `raw` is the file as it was read: names to parsed values, faulty ones too."""
    _check_key_models(raw, reader)
    _check_key_limits(config, reader)
    _check_pools(config, reader)
    _check_jobs(config, reader)
    if "classes" not in raw and ("classes",) in reader.places:
        return  # it could not be read at all, which was told: nothing can be said of names
    classes = raw.get("classes", config.classes)
    _check_references(raw, classes, reader)
    _check_default(config, classes, reader)
    for kind in config.classes.values():
        _check_filler(kind, config.classes, classes, reader)
    _check_one_rule(config, reader)
    _check_reserve(config, reader)
    if len(classes) == len(config.classes):
        _check_use(config, reader)


def _names(part: Any, key: str) -> Iterator[tuple[int, str]]:
    """The texts of a list in the file, with their rows."""
    named = part.get(key) or () if isinstance(part, Mapping) else ()
    return ((row, name) for row, name in enumerate(named) if isinstance(name, str))


def _check_references(raw: Mapping[str, Any], classes: Collection[str], reader: Reader) -> None:
    """Every class that is named is one of `classes`."""
    named: list[tuple[Path, str]] = []
    for name, model in raw["models"].items():
        if isinstance(model, Mapping) and model.get("class") is not None:
            named.append((("models", name, "class"), model["class"]))
    for digest, key in (raw.get("keys") or {}).items():
        seen: set[str] = set()
        for row, name in _names(key, "classes"):
            at = ("keys", digest, "classes", row)
            if name in seen:
                reader.error(reader.value_at(*at), f"class repeated: {shown(name)}", "leave it out")
            else:
                named.append((at, name))
            seen.add(name)
    if raw.get("jobs") is not None:
        named.append((("jobs", "class"), raw["jobs"].get("class", "async")))
    for place, name in named:
        if name not in classes:
            reader.error(reader.value_at(*place), *_no_such_class(name, classes))


def _no_such_class(name: str, classes: Collection[str]) -> tuple[str, str]:
    return f"class {shown(name)} does not exist", did_you_mean(name, classes) or f"there are {_listed(classes)}"


def _listed(names: Iterable[str]) -> str:
    """The names, or the first of very many."""
    first = list(islice(names, 11))
    return ", ".join([*first[:10], "…"] if len(first) > 10 else first)


def _check_default(config: Config, classes: Mapping[str, Any], reader: Reader) -> None:
    defaults = [kind.name for kind in config.classes.values() if kind.default]
    for name in defaults[1:]:
        told = f"contradictory: {shown(defaults[0])} is the default class already"
        reader.error(reader.value_at("classes", name, "default"), told, "exactly one is")
    # Where one could not be read, that was told, and it may have been the default.
    unread = (part is NOTHING or (reader.is_given("classes", name, "default") and "default" not in part)
              for name, part in classes.items())  # fmt: skip
    if classes and not defaults and not any(unread):
        hint = f"write {{default: true}} in one of {_listed(classes)}"
        reader.error(reader.key_at("classes"), "no class is the default", hint)


def _check_filler(
    kind: TrafficClass, made: Mapping[str, TrafficClass], classes: Collection[str], reader: Reader
) -> None:
    """A filler protects another class, one with a right of its own, and stands behind it."""
    if kind.filler is None:
        return
    at = ("classes", kind.name, "filler", "protect")
    where, told = reader.value_at(*at), shown(kind.filler.protect)
    protected = made.get(kind.filler.protect)
    if kind.filler.protect == kind.name:
        others = _listed(name for name in classes if name != kind.name)
        hint = f"name one of {others}" if others else "name the class that must not notice it"
        reader.error(where, f"contradictory: filler {told} cannot protect itself", hint)
    elif kind.filler.protect not in classes:
        reader.error(where, *_no_such_class(kind.filler.protect, classes))
    elif protected is not None and protected.filler is not None:
        reader.error(where, f"contradictory: {told} is a filler itself", "protect the class that both give way to")
    elif protected is not None and kind.priority >= protected.priority:
        spot = "priority" if reader.is_given("classes", kind.name, "priority") else "filler"
        relation = "before" if kind.priority > protected.priority else "level with"
        message = f"contradictory: filler {shown(kind.name)} would go {relation} {told}, which it protects"
        hint = f"give it a priority below {protected.priority}"
        reader.error(reader.value_at("classes", kind.name, spot), message, hint)


def _check_one_rule(config: Config, reader: Reader) -> None:
    """What filler may do to others is one account at each endpoint: several fillers cannot have a bound each."""
    fillers = [(kind.name, kind.filler) for kind in config.classes.values() if kind.filler is not None]
    for name, rule in fillers[1:]:
        first, ruling = fillers[0]
        for key in ("slowdown", "aborts"):
            if getattr(rule, key) != getattr(ruling, key):
                at = ("classes", name, "filler")
                where = reader.value_at(*at, key) if reader.is_given(*at, key) else reader.value_at(*at)
                told = f"contradictory: filler {shown(first)} has another `{key}`, and all filler shares one bound"
                reader.error(where, told, "write the same in both")


def _check_reserve(config: Config, reader: Reader) -> None:
    total = 0.0
    for kind in config.classes.values():
        before, total = total, total + kind.reserve
        if before <= 1.0 + 1e-9 < total:
            where = reader.value_at("classes", kind.name, "reserve")
            told = f"contradictory: {total * 100:.6g}% of every pool would be reserved"
            reader.error(where, told, "the shares of all classes together are at most 100%")


def _check_use(config: Config, reader: Reader) -> None:
    """Where every key says which classes it may use, a class that none names is for nobody."""
    if not config.keys or any(key.classes is None for key in config.keys):
        return
    used = frozenset().union(*(key.classes or () for key in config.keys))
    for name in config.classes:
        if name not in used and ("classes", name) in reader.places:
            reader.warn(reader.key_at("classes", name), f"class {shown(name)} is unused", "no key may use it")


def _check_key_models(raw: Mapping[str, Any], reader: Reader) -> None:
    for digest, key in (raw.get("keys") or {}).items():
        for row, name in _names(key, "models"):
            if name not in raw["models"]:
                hint = did_you_mean(name, raw["models"]) or "name a model as it stands under `models:`, not an alias"
                where = reader.value_at("keys", digest, "models", row)
                reader.error(where, f"model {shown(name)} does not exist", hint)


def _check_key_limits(config: Config, reader: Reader) -> None:
    for key in config.keys:
        _check_one_keys_limits(key, reader)
    if config.shared is not None and not any(key.limits for key in config.keys):
        reader.warn(reader.key_at("shared"), "`shared` is unused: no key has limits", "give one `limits:`")


def _check_one_keys_limits(key: Key, reader: Reader) -> None:
    limits, at = key.limits, ("keys", key.digest.hex(), "limits")
    if limits is None:
        return
    if limits.reserve == "max_tokens" and limits.tokens is None and limits.tokens_per_day is None:
        hint = "give tokens or tokens_per_day, or leave it out"
        reader.error(reader.key_at(*at, "reserve"), "unreachable: `reserve` without a limit of tokens", hint)
    if limits.shadow and not (limits.requests or limits.tokens or limits.concurrency or limits.tokens_per_day):
        where = reader.key_at(*at, "shadow")
        reader.error(where, "unreachable: `shadow` without a limit", "give requests, tokens or concurrency")
    if limits.tokens and limits.tokens_per_day and limits.tokens.amount > limits.tokens_per_day:
        told = f"unreachable: `tokens` is more than the whole day's {limits.tokens_per_day}"
        reader.error(reader.value_at(*at, "tokens"), told, "raise tokens_per_day, or leave tokens out")


def _check_pools(config: Config, reader: Reader) -> None:
    for name, pool in config.pools.items():
        if pool.priority and pool.engine in WITHOUT_PRIORITY:
            told = f"`priority` is unused: {shown(pool.engine)} does not schedule by priority"
            reader.warn(reader.key_at("pools", name, "priority"), told)
        places = [endpoint.max_concurrency for endpoint in pool.endpoints]
        together = sum(most or 0 for most in places)
        if pool.max_concurrency is not None and all(places) and 0 < together <= pool.max_concurrency:
            told = f"`max_concurrency` is unused: the endpoints take {together} together"
            reader.warn(reader.key_at("pools", name, "max_concurrency"), told)


def _check_jobs(config: Config, reader: Reader) -> None:
    jobs = config.jobs
    if jobs is None:
        return
    kind = config.classes.get(jobs.klass)
    if kind is not None and kind.filler is None:
        told = f"class {shown(jobs.klass)} is no filler: batches compete with the others"
        reader.warn(reader.value_at("jobs", "class"), told, "give the class {filler: {protect: …}}")
    if jobs.callbacks and jobs.secret is None:
        told = "callbacks are not signed: who gets one cannot tell it from a forged one"
        reader.warn(reader.key_at("jobs", "callbacks"), told, 'give secret: "${CALLBACK_SECRET}"')
    if jobs.secret is not None and not jobs.callbacks:
        reader.warn(reader.key_at("jobs", "secret"), "`secret` is unused: no callbacks are allowed")
