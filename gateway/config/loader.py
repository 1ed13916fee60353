"""A configuration file to a `Config`, or to everything that is wrong with it.

The idea: four steps, each over the whole file. The text becomes a tree with places (`tree`); it is read by the table
of keys (`spec`); `defaults:` is laid under the pools and the dataclasses are made; what must agree is compared
(`checks`). Whatever any step finds is raised together. It is a pure function of the file, the files it names and the
environment it is given, with bounded cost (1 MiB, 50,000 values, nothing constructed): call it from a thread.

Left to others: when to load and what to do with the result (`app`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from gateway.config import tree, types
from gateway.config.checks import CheckPick, Draft, check
from gateway.config.kinds import Nothing, Reader
from gateway.config.problems import ConfigError, Fault, Problem
from gateway.config.scalars import parse_endpoint_url
from gateway.config.spec import CONFIG, ENGINES, POLICIES, POOL, PROFILES
from gateway.config.tree import read_bytes

TO = "--to"
"""What stands for the file in the errors of a configuration made from URLs."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that may be used, and what its author should look at again."""

    config: types.Config
    warnings: tuple[Problem, ...] = ()
    text: bytes = b""
    """What was read; empty where there is no file."""


def load(
    path: str | os.PathLike[str],
    env: Mapping[str, str],
    *,
    engines: Collection[str] = ENGINES,
    policies: Collection[str] = POLICIES,
    profiles: Collection[str] = PROFILES,
    check_pick: CheckPick | None = None,
) -> Loaded:
    """Read and check the file at `path`; `env` is where `${NAME}` is looked up.

    `check_pick(policy, options)` says what is wrong with a policy's options, or None. Raises ConfigError, and nothing
    else whatever is in the file.
    """
    source = os.fspath(path)
    return load_bytes(read_bytes(source), source, env, engines=engines, policies=policies, profiles=profiles,
                      check_pick=check_pick)  # fmt: skip


def load_bytes(
    data: bytes,
    source: str,
    env: Mapping[str, str],
    *,
    engines: Collection[str] = ENGINES,
    policies: Collection[str] = POLICIES,
    profiles: Collection[str] = PROFILES,
    check_pick: CheckPick | None = None,
) -> Loaded:
    """As `load`, for content that was read already. Relative paths in it count from the folder of `source`."""
    folder = os.path.dirname(os.path.abspath(source))
    reader = Reader(source, env, folder, {"engine": engines, "policy": policies, "profile": profiles})
    root = tree.parse_tree(data, source, reader.error)
    raw = CONFIG.read(root, (), reader)
    if isinstance(raw, Nothing):
        raise ConfigError(reader.problems)
    raw = _with_defaults(raw)
    config: types.Config = CONFIG.make({name: part for name, part in raw.items() if name != "defaults"})
    check(Draft(config, raw, reader), check_pick)
    if reader.problems:
        raise ConfigError(reader.problems)
    config = replace(config, source=source)
    warnings = sorted(reader.warnings, key=lambda problem: (problem.line, problem.column))
    return Loaded(replace(config, digest=digest_of(config)), tuple(warnings), data)


def _with_defaults(raw: dict[str, Any]) -> dict[str, Any]:
    """The file with `defaults: {pool: …}` laid under every pool, and `pools` and `models` there even if they failed."""
    under = raw.get("defaults", {}).get("pool", {})
    pools = {name: POOL.merged(under, pool) if isinstance(pool, dict) else pool
             for name, pool in raw.get("pools", {}).items()}  # fmt: skip
    return {"models": {}, **raw, "pools": pools}


def for_urls(urls: Sequence[str]) -> types.Config:
    """The configuration of `headway serve --to URL…`: no file.

    One pool `default` of these endpoints with engine `auto`, and one model `*` (`types.ANY_MODEL`) that leads to it:
    whatever model a client names is sent there as it was spelt. All else is default. Raises ConfigError.
    """
    problems, seen = [], dict[str, types.EndpointSpec]()
    for number, text in enumerate(urls, 1):
        try:
            url = parse_endpoint_url(text)
            if url in seen:
                raise Fault(f"endpoint repeated: `{url}`", "leave it out")
            seen[url] = types.EndpointSpec(url)
        except Fault as fault:
            problems.append(Problem(TO, number, 1, fault.message, fault.hint))
    if not urls:
        problems.append(Problem(TO, 1, 1, "no URL is given", "write --to http://10.0.0.1:8000"))
    if problems:
        raise ConfigError(problems)
    pool = types.Pool("default", endpoints=tuple(seen.values()))
    model = types.model_to(types.ANY_MODEL, pool.name)
    config = types.Config({pool.name: pool}, {model.name: model})
    return replace(config, digest=digest_of(config))


def changes_needing_restart(old: types.Config, new: types.Config) -> list[str]:
    """The keys that differ and cannot change in a running process."""
    changed = [name for name in ("listen", "admin", "state", "shared") if getattr(old, name) != getattr(new, name)]
    stores = [config.jobs and config.jobs.store for config in (old, new)]
    return changed if stores[0] == stores[1] else [*changed, "jobs.store"]


def digest_of(config: types.Config) -> str:
    """SHA-256 in hexadecimal of everything but where it was read from. Secrets count by their hash."""
    effective = replace(config, source=None, digest="")
    return hashlib.sha256(json.dumps(_plain(effective), sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A value of the configuration as JSON can hold it."""
    if isinstance(value, types.Secret):
        return hashlib.sha256(value.reveal().encode()).hexdigest()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (tuple, frozenset)):
        parts = [_plain(part) for part in value]
        return sorted(parts) if isinstance(value, frozenset) else parts
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
