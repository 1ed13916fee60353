"""What was simulated once is kept on disk, so that an interrupted study goes on where it was.

A run is known by a digest of its scenario, rate, policy, options and seed, and of the source it depends on: every
module of ours that the simulation and this one policy import, directly or not. So a change to one policy leaves the
runs of the others valid, the predictor's source counts only for policies that predict, and comments count for nothing.
Figures are kept, not requests. Source that was changed while this process runs is not what it runs, so then nothing of
another process is recalled, and none will recall what this one keeps.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from loadtest.lab.scenario import Scenario
from policies.picking import POLICIES

OURS = ("gateway", "policies", "backends", "loadtest")
# Registries import every room's content; what is used of it is followed from the policy's own module.
_NOT_FOLLOWED = ("policies.picking",)
_ENTRANCES = ("loadtest.lab.simulation", "loadtest.lab.figures")
_MIXED = ("loadtest.lab.mixed_desk", "loadtest.lab.mixed_figures")
_DESKED = ("loadtest.lab.desked", "loadtest.lab.desked_study")
_PREDICTORS = "gateway.core.predictor"
_LOADED_AT = time.time()  # what is newer on disk is not what was imported
_DATA = ("backends/sim/profiles.json",)


class Memory:
    """A folder of figures by digest. Several processes may write to it at once."""

    def __init__(self, folder: Path | None):
        self._folder = folder

    def recall(self, key: str) -> dict[str, Any] | None:
        """What was kept under this key, or None."""
        if self._folder is None:
            return None
        try:
            found: dict[str, Any] = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found

    def keep(self, key: str, figures: Mapping[str, Any]) -> None:
        """Keep it, at once and whole."""
        if self._folder is None:
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(figures), encoding="utf-8")
        part.replace(path)

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / key[:2] / f"{key}.json"


def key_of(scenario: Scenario, rate: float, policy: str, options: Mapping[str, object], seed: int, more: object) -> str:
    """The digest of one run; `more` is whatever else decides over what is kept (JSON values)."""
    entrances = _MIXED if scenario.fill.gates else _DESKED if scenario.admission.loads else ()
    said = [asdict(scenario), rate, policy, dict(options), seed, more, source(policy, entrances), traces(scenario)]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:40]


def traces(scenario: Scenario) -> list[str]:
    """The digests of the traces that a scenario draws from."""
    names = {part.trace for part in (*scenario.traffic.sources, *scenario.traffic.later) if part.trace}
    shipped = {path.name.split(".")[0]: path for path in (_root() / "loadtest" / "traces").glob("*.gz")}
    return [hashlib.sha256(shipped.get(name, Path(name)).read_bytes()).hexdigest() for name in sorted(names)]


@cache
def source(policy: str, more: tuple[str, ...] = ()) -> str:
    """The digest of all source that a run with this policy depends on, and that of `more` modules."""
    digest, files = hashlib.sha256(), sources(policy, more)
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + _meaning(path))
    if max(path.stat().st_mtime for path in files) > _LOADED_AT:
        digest.update(f"{os.getpid()} {_LOADED_AT}".encode())
    return digest.hexdigest()


def _meaning(path: Path) -> bytes:
    """What a file says, without comments, docstrings and layout where it is Python."""
    if path.suffix != ".py":
        return path.read_bytes()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            del node.body[0]
    return ast.dump(tree).encode()


def sources(policy: str, more: tuple[str, ...] = ()) -> set[Path]:
    """The files behind a run with this policy: the source of ours that it and `more` import, and the profiles."""
    if policy in POLICIES:
        found = POLICIES[policy]
    else:
        name, _, attribute = policy.partition(":")
        found = getattr(import_module(name), attribute)
    root = _root()
    entrances = [*_ENTRANCES, *more, found.__module__, "policies.picking.base"]
    modules = _closure(root, entrances, frozenset() if found.predicts else frozenset((_PREDICTORS,)))
    kept = {path for module, path in modules.items() if path is not None and module not in _NOT_FOLLOWED}
    return kept | {root / data for data in _DATA}


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


def _closure(root: Path, entrances: list[str], left_out: frozenset[str]) -> dict[str, Path | None]:
    seen: dict[str, Path | None] = {}
    waiting = list(entrances)
    while waiting:
        module = waiting.pop()
        if module in seen or module in left_out:
            continue
        path = _file_of(root, module)
        seen[module] = path
        if path is not None and module not in _NOT_FOLLOWED:
            waiting += _imports(path)
    return seen


def _file_of(root: Path, module: str) -> Path | None:
    if module.split(".")[0] not in OURS:
        loaded = sys.modules.get(module)
        file = getattr(loaded, "__file__", None)
        # A policy of the operator's own, given as `module:Class`, counts too; what it imports is taken as given.
        return Path(file) if file and module not in sys.stdlib_module_names and "site-packages" not in file else None
    base = root.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _imports(path: Path) -> tuple[str, ...]:
    """Modules of ours named by the imports of a file, wherever they stand; not those that only type checkers see."""
    found: list[str] = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.If) and _is_type_checking(node)
              for inner in ast.walk(node)}  # fmt: skip
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(name for name in found if name.split(".")[0] in OURS)


def _is_type_checking(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
