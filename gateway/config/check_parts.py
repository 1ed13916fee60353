"""What a model has besides names and rules: an adapter, a capture, a longest context. And arms that keys may force.

The idea: as in `checks`: what can never take effect is an error at its line, what is only unused a warning.

Left to others: rules (`check_routes`), names (`check_models`).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from gateway.config.kinds import Reader
from gateway.config.problems import did_you_mean, shown, shown_path
from gateway.config.types import ANY_MODEL, Config, Model

WITH_ADAPTERS = frozenset(("auto", "vllm"))


def check_parts(config: Config, raw: Mapping[str, Any], reader: Reader) -> None:
    """Report what does not agree. `raw` is the file as it was read."""
    files: dict[str, str] = {}
    adapters: dict[str, Model] = {}
    for model in config.models.values():
        _check_lora(model, config, reader)
        _check_adapter(model, adapters, reader)
        _check_capture(model, config, files, reader)
    _check_forced(raw, reader)
    _check_costs(config, reader)
    _check_state(config, raw, reader)


def _check_state(config: Config, raw: Mapping[str, Any], reader: Reader) -> None:
    """A rollout takes hours: without a folder, a restart forgets how far it had come."""
    if config.state is not None or ("state",) in reader.broken:
        return
    for name, model in raw["models"].items():
        for row, route in enumerate(model.get("routes") or () if isinstance(model, Mapping) else ()):
            if isinstance(route, Mapping) and route.get("canary") is not None:
                where = reader.key_at("models", name, "routes", row, "canary")
                told = "a restart begins this canary anew: `state` is not given"
                reader.warn(where, told, "write state: ./headway-state")
                return


def _check_lora(model: Model, config: Config, reader: Reader) -> None:
    at = ("models", model.name, "lora")
    if model.lora is None:
        return
    where = reader.key_at(*at)
    if model.name == ANY_MODEL:
        reader.error(where, "contradictory: an adapter has one name, and `*` stands for any", "give it its own model")
    if model.lora.path is None and reader.is_given(*at, "most"):
        told = "unreachable: `most` without `path`"
        reader.error(reader.key_at(*at, "most"), told, "adapters are loaded, and go, only with a path")
    for name in model.pools:
        engine = config.pools[name].engine if name in config.pools else "auto"
        if engine not in WITH_ADAPTERS and ":" not in engine:
            told = f"unreachable: pool {shown(name)} is {shown(engine)}, whose adapters are not known"
            reader.error(where, told, "adapters need engine vllm (or auto)")


def _check_adapter(model: Model, adapters: dict[str, Model], reader: Reader) -> None:
    """Servers tell adapters apart by their names alone: two of one name would answer for each other."""
    if model.lora is None or model.lora.path is None:
        return
    name = model.upstream_name(model.name)
    first = adapters.setdefault(name, model)
    if first.lora is not None and first.lora.path != model.lora.path:
        where = reader.value_at("models", model.name, "lora", "path")
        told = f"contradictory: adapter {shown(name)} of model {shown(first.name)} has another path"
        reader.error(where, told, "servers know it by one name: give each its own `as`")


def _check_capture(model: Model, config: Config, files: dict[str, str], reader: Reader) -> None:
    capture, at = model.capture, ("models", model.name, "capture")
    if capture is None:
        return
    where = reader.value_at(*at, "file")
    first = files.setdefault(capture.file, model.name)
    if first != model.name:
        told = f"contradictory: the capture of {shown(first)} is written to this file"
        reader.error(where, told, "give each model its own")
    elif capture.file in (config.decisions.file, config.source):
        reader.error(where, "contradictory: this file is written to already", "give the capture its own")
    folder = os.path.dirname(capture.file)
    if not os.path.isdir(folder):
        told = f"the folder of {shown_path(os.path.basename(capture.file))} does not exist"
        reader.error(where, told, f"looked for {shown_path(folder)}")
    if capture.share == 0:
        told = "unreachable: a capture of 0% of the requests"
        reader.error(reader.value_at(*at, "share"), told, "raise it, or leave `capture` out")
    if capture.body > capture.rotate:
        spot = "body" if reader.is_given(*at, "body") else "rotate"
        told = "contradictory: `body` is larger than `rotate`, so no record would fit"
        reader.error(reader.value_at(*at, spot), told)
    for row, field in enumerate(capture.fields):
        if field in capture.fields[:row]:
            reader.error(reader.value_at(*at, "fields", row), f"field repeated: {shown(field)}", "leave it out")
    if not capture.redact:
        where = reader.key_at(*at, "redact")
        reader.warn(where, "secrets and personal data are kept as they are", "leave `redact` true")


def _check_forced(raw: Mapping[str, Any], reader: Reader) -> None:
    """Arms that keys may ask for must be in some split."""
    if ("models",) in reader.broken:
        return
    arms, asked = _arms_of(raw), set[str]()
    for digest, key in (raw.get("keys") or {}).items():
        names = key.get("arms") or () if isinstance(key, Mapping) else ()
        for row, name in enumerate(names):
            where = reader.value_at("keys", digest, "arms", row)
            if not isinstance(name, str):
                continue
            asked.add(name)
            if name in names[:row]:
                reader.error(where, f"arm repeated: {shown(name)}", "leave it out")
            elif name != "*" and "*" in names:
                reader.error(where, f"contradictory: `*` is any arm, {shown(name)} too", "leave one out")
            elif not arms:
                reader.error(where, "unreachable: no model has a split", "leave `arms` out")
            elif name != "*" and name not in arms:
                hint = did_you_mean(name, arms) or f"there are {', '.join(sorted(arms)[:10])}"
                reader.error(where, f"arm {shown(name)} does not exist", hint)

    if "*" not in asked:
        _check_dark(raw, asked, reader)


def _check_dark(raw: Mapping[str, Any], asked: Collection[str], reader: Reader) -> None:
    """An arm of weight 0 is for those who ask for it by name; without any it is for nobody."""
    for name, row, place, arm in _each_arm(raw):
        if arm.get("weight") == 0 and arm.get("arm") not in asked:
            at = ("models", name, "routes", row, "split", place, "weight")
            told = f"arm {shown(str(arm.get('arm')))} is unused: it has no weight, and no key may ask for it"
            reader.warn(reader.value_at(*at), told, "give a tester's key arms: [NAME]")


def _each_arm(raw: Mapping[str, Any]) -> Iterator[tuple[str, int, int, Mapping[str, Any]]]:
    """Model, row of the rule, row of the arm, and the arm as it was read."""
    for name, model in raw["models"].items():
        for row, route in enumerate(model.get("routes") or () if isinstance(model, Mapping) else ()):
            for place, arm in enumerate(route.get("split") or () if isinstance(route, Mapping) else ()):
                if isinstance(arm, Mapping):
                    yield name, row, place, arm


def _arms_of(raw: Mapping[str, Any]) -> Collection[str]:
    return {arm["arm"] for *_, arm in _each_arm(raw) if "arm" in arm}


def _check_costs(config: Config, reader: Reader) -> None:
    """A cost means something only to a rule that chooses by it."""
    chosen = {pool for model in config.models.values() for route in model.routes if route.cheapest
              for arm in route.arms for pool in (arm.to, *arm.fallback)}  # fmt: skip
    for name in config.pools:
        if name not in chosen and ("pools", name, "cost") in reader.places and ("models",) not in reader.broken:
            where = reader.key_at("pools", name, "cost")
            reader.warn(where, "`cost` is unused: no rule chooses by it", "write cheapest: true in one")
