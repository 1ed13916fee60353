"""The house's two rules about imports, checked on every import statement, those inside functions too.

Floors: a module may import only what lies below it (the table `FLOORS`). Doors: an outside library enters at the places
named in `DOORS` and nowhere else; one that is neither there nor in the standard library does not enter at all.
Imports under `if TYPE_CHECKING:` count like any other: a type is a dependency too.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("gateway", "policies", "backends", "loadtest")

# First match wins: modules whose dotted name starts with the left side may import ours only as the right side says.
# Every module may import its own package (`own`), which is the left side itself.
FLOORS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gateway.core", ()),
    ("gateway.discovery", ("gateway.core",)),
    ("gateway.wire", ("gateway.core",)),
    ("policies", ("gateway.core",)),
    ("backends", ("gateway.core",)),
    # The lab runs what the gateway runs; the two of its own room that it shares import nothing of ours either.
    (
        "loadtest.lab",
        ("policies", "gateway.core", "gateway.priors", "gateway.plan.values", "backends.sim", "loadtest.workload",
         "loadtest.svg"),
    ),
    ("loadtest", ()),
    ("gateway.cli", ("gateway", "policies", "backends", "loadtest.lab")),
    ("gateway", ("gateway", "policies", "backends")),
)

# Rooms whose concrete classes only the wiring may name. The rest of gateway/ sees their socket and their registry.
ROOMS = ("policies.routing", "policies.admission", "policies.picking", "backends", "gateway.discovery")
OPEN_IN_A_ROOM = ("base", "samples", "desk")
WIRING = ("gateway.app", "gateway.pools")
# The simulated server is a program that `headway sim` and `headway demo` start: imported when asked for, not before.
# Its table of profiles is also what a predictor may start from, read when a pool names one.
LAZY_ONLY = {"backends.sim": ("gateway.cli", "gateway.demo", "gateway.priors"), "loadtest.lab": ("gateway.cli",)}

# library: the modules (or packages) it may enter at
DOORS: dict[str, tuple[str, ...]] = {
    "numpy": OURS,
    "msgspec": ("gateway", "backends"),
    "uvloop": ("gateway.serve", "gateway.demo", "gateway.wire", "backends.sim", "loadtest"),
    "httptools": ("gateway.wire",),
    "aiohttp": ("gateway.admin", "gateway.admin_answers", "gateway.admin_rollouts", "gateway.jobs.callbacks",
                "backends.sim.server"),
    "prometheus_client": ("gateway.metrics",),
    "yaml": ("gateway.config", "loadtest.lab.reading"),  # the lab reads scenario files
    "redis": ("gateway.jobs.redis", "gateway.shared"),
    "sqlite3": ("gateway.jobs.sqlite",),
    "grpc": ("gateway.grpc",),
    "locust": ("loadtest",),
    "gevent": ("loadtest",),
    "requests": ("loadtest",),
    "geventhttpclient": ("loadtest",),
}
SHUT_OUT_OF_CORE = ("msgspec", "asyncio", "logging", "socket", "time", "threading")


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name: where it stands, what it names, and whether it runs only when a function is called."""

    module: str
    path: str
    line: int
    target: str
    lazy: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: imports {self.target}"


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def read_imports(path: Path, module: str) -> Iterator[Import]:
    """Every import of a file. `from a.b import c` gives `a.b.c` where that is a module of ours, else `a.b`."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    shown = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(module, shown, child.lineno, alias.name, lazy)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    parts = package.split(".")
                    base = ".".join(parts[: len(parts) - child.level + 1] + ([base] if base else []))
                for alias in child.names:
                    deeper = f"{base}.{alias.name}"
                    yield Import(module, shown, child.lineno, deeper if is_module(deeper) else base, lazy)
            inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, inside)

    yield from walk(tree, False)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return name.split(".")[0] in OURS and (path.is_dir() or path.with_suffix(".py").is_file())


def broken_rule(found: Import) -> str | None:
    """The rule this import breaks, in words, or None."""
    top = found.target.split(".")[0]
    if top in OURS:
        return broken_floor(found) or broken_room(found)
    if top == "headway":
        return "nothing imports the launcher"
    if is_within(found.module, "gateway.core") and top in SHUT_OUT_OF_CORE:
        return f"gateway/core holds values and state machines: no I/O, no clock, no logging, so no {top}"
    if top in DOORS:
        if any(is_within(found.module, door) for door in DOORS[top]):
            return None
        return f"{top} enters only at: {', '.join(DOORS[top])}"
    if top in sys.stdlib_module_names:
        return None
    return f"{top} has no door: add it to DOORS (and to the lock files) if the house wants it"


def broken_floor(found: Import) -> str | None:
    for own, below in FLOORS:
        if is_within(found.module, own):
            allowed = (own, *below)
            if any(is_within(found.target, package) for package in allowed):
                return None
            return f"{own} may import of ours only: {', '.join(allowed)}"
    return "this module stands on no floor of the table FLOORS"


def broken_room(found: Import) -> str | None:
    for lazy_only, by in LAZY_ONLY.items():
        if is_within(found.target, lazy_only) and is_within(found.module, "gateway"):
            if found.lazy and any(is_within(found.module, module) for module in by):
                return None
            return f"{lazy_only} is imported only by {', '.join(by)}, inside a function"
    if not is_within(found.module, "gateway") or any(is_within(found.module, w) for w in WIRING):
        return None
    for room in ROOMS:
        if found.target.startswith(room + ".") and not is_within(found.module, room):
            if found.target[len(room) + 1 :].split(".")[0] in OPEN_IN_A_ROOM:
                return None
            return f"only {', '.join(WIRING)} picks concrete classes; elsewhere use {room} or {room}.base"
    return None


def modules() -> list[tuple[Path, str]]:
    found = []
    for top in OURS:
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append((path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)))
    return found


def test_every_import_keeps_to_the_floors_and_the_doors() -> None:
    complaints = [
        f"{found}\n    rule: {rule}"
        for path, module in modules()
        for found in read_imports(path, module)
        if (rule := broken_rule(found))
    ]
    assert not complaints, f"{len(complaints)} imports break a rule of the house:\n" + "\n".join(complaints)


def test_there_is_something_to_check() -> None:
    assert len(modules()) > 5


def test_config_holds_no_python() -> None:
    assert not list((ROOT / "config").rglob("*.py"))


@pytest.mark.parametrize(
    ("module", "statement", "rule"),
    [
        ("gateway.core.fleet", "import aiohttp", "aiohttp enters only at"),
        ("gateway.core.fleet", "import time", "no clock"),
        ("gateway.core.fleet", "import policies.picking", "gateway.core may import of ours only"),
        ("policies.picking.x", "from gateway.metrics import Metrics", "policies may import of ours only"),
        ("policies.picking.x", "def f():\n    import gateway.proxy", "policies may import of ours only"),
        ("backends.vllm", "from policies import picking", "backends may import of ours only"),
        ("gateway.wire.server", "from gateway import front", "gateway.wire may import of ours only"),
        ("gateway.proxy", "import httptools", "httptools enters only at"),
        ("gateway.proxy", "from policies.picking.least_tokens import LeastTokens", "picks concrete classes"),
        ("gateway.front", "from backends.sim.server import serve", "inside a function"),
        ("gateway.cli", "from backends.sim import server", "inside a function"),
        ("loadtest.workload", "import gateway.core.types", "loadtest may import of ours only"),
        ("gateway.front", "import requests", "requests enters only at"),
        ("gateway.jobs.http", "import sqlite3", "sqlite3 enters only at"),
        ("gateway.jobs.batches", "import redis.asyncio", "redis enters only at"),
        ("gateway.front", "import torch", "torch has no door"),
    ],
)
def test_a_broken_rule_is_named(tmp_path: Path, module: str, statement: str, rule: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(statement)
    complaints = [broken_rule(found) for found in read_imports(path, module)]
    assert any(complaint and rule in complaint for complaint in complaints), complaints


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("gateway.core.fleet", "import numpy as np\nfrom gateway.core.types import Endpoint"),
        ("policies.picking.x", "from policies.picking.base import Policy\nfrom gateway.core.types import Request"),
        ("gateway.app", "from policies.picking.least_tokens import LeastTokens"),
        ("gateway.proxy", "from policies.picking.base import Policy\nfrom policies.picking import POLICIES"),
        ("gateway.cli", "def sim():\n    from backends.sim import server"),
        ("gateway.wire.upstream", "import httptools, ssl, asyncio"),
        ("gateway.config.load", "import yaml"),
    ],
)
def test_a_kept_rule_is_quiet(tmp_path: Path, module: str, statement: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(statement)
    assert [broken_rule(found) for found in read_imports(path, module)] == [None] * len(
        list(read_imports(path, module))
    )
