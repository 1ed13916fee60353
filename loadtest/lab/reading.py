"""Reads a scenario file: YAML into the frozen values of `plan`, every complaint with file, line and a way out.

The keys are the fields of the dataclasses, so what they say of themselves is the documentation of the file. Two forms
are shorter than the values: a mapping for pairs (`pace: {0: 1, 60: 3}`, `warp: {base: 1.3}`), and a policy's bare name.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from backends.sim.profiles import UnknownProfile
from loadtest.lab.arrivals import trace, warped
from loadtest.lab.gates import GATES
from loadtest.lab.plan import BEST, FLUID, POOLED, Bar, Plan
from loadtest.lab.scenario import ARRIVALS, Gate, ScenarioError
from loadtest.lab.trial import Choice
from policies.picking import check

FOLDER = Path(__file__).resolve().parent / "scenarios"


def read_plan(path: Path) -> Plan:
    """The plan in a scenario file. Raises ScenarioError with file, line and what to write instead."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: cannot be read: {error}; the standard ones are in {FOLDER}") from error
    return parse_plan(text, path.stem, str(path))


def parse_plan(text: str, name: str, file: str = "scenario") -> Plan:
    """The same from text; `name` is used where the file gives none."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        raise ScenarioError(f"{where}: not YAML: {getattr(error, 'problem', error)}") from error
    if root is None:
        raise ScenarioError(f"{file}: is empty; at least `title:` is needed (see {FOLDER})")
    reader = _Reader(file)
    found = reader.build(root, Plan, "", {"name": name})
    assert isinstance(found, Plan)
    _check(found, reader, root)
    return found


class _Reader:
    """Nodes to values of a type, with the place of each in complaints."""

    def __init__(self, file: str):
        self.file = file

    def fail(self, node: yaml.Node, key: str, words: str) -> ScenarioError:
        mark = node.start_mark
        return ScenarioError(f"{self.file}:{mark.line + 1}:{mark.column + 1}: {key or 'the file'}: {words}")

    def build(self, node: yaml.Node, kind: Any, key: str, given: Mapping[str, object] | None = None) -> Any:
        """A value of type `kind` from `node`; `given` fills fields that are not written."""
        if kind in (Choice, Gate) and isinstance(node, yaml.ScalarNode):
            return kind(node.value)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return self._dataclass(node, kind, key, given or {})
        origin = typing.get_origin(kind)
        if origin is tuple:
            return self._tuple(node, typing.get_args(kind), key)
        if isinstance(kind, type) and issubclass(kind, str | int | float | bool):
            return self._scalar(node, kind, key)
        return self._plain(node, key)

    def _dataclass(self, node: yaml.Node, kind: type, key: str, given: Mapping[str, object]) -> Any:
        if not isinstance(node, yaml.MappingNode):
            raise self.fail(node, key, "must be a mapping (key: value)")
        hints = typing.get_type_hints(kind)
        fields = {field.name: field for field in dataclasses.fields(kind)}
        values: dict[str, Any] = dict(given)
        written: set[str] = set()
        for name_node, value_node in node.value:
            name = str(name_node.value)
            inner = f"{key}.{name}" if key else name
            if name not in fields:
                close = get_close_matches(name, fields, n=1)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(fields)}"
                raise self.fail(name_node, inner, f"there is no such key; {hint}")
            if name in written:
                raise self.fail(name_node, inner, "is there twice; remove one")
            written.add(name)
            values[name] = self.build(value_node, hints[name], inner)
        needed = [f.name for f in fields.values() if f.default is dataclasses.MISSING
                  and f.default_factory is dataclasses.MISSING and f.name not in values]  # fmt: skip
        if needed:
            raise self.fail(node, key, f"needs {' and '.join(needed)}")
        return kind(**values)

    def _tuple(self, node: yaml.Node, inside: tuple[Any, ...], key: str) -> tuple[Any, ...]:
        if isinstance(node, yaml.MappingNode) and typing.get_origin(inside[0]) is tuple:
            first, second = typing.get_args(inside[0])
            return tuple((self.build(a, first, f"{key}.{a.value}"), self.build(b, second, f"{key}.{a.value}"))
                         for a, b in node.value)  # fmt: skip
        if not isinstance(node, yaml.SequenceNode):
            raise self.fail(node, key, "must be a list ([a, b], or lines that begin with -)")
        if len(inside) == 2 and inside[1] is Ellipsis:
            return tuple(self.build(one, inside[0], f"{key}[{i}]") for i, one in enumerate(node.value))
        if len(node.value) != len(inside):
            raise self.fail(node, key, f"must have {len(inside)} values, not {len(node.value)}")
        return tuple(self.build(one, kind, f"{key}[{i}]")
                     for i, (one, kind) in enumerate(zip(node.value, inside, strict=True)))  # fmt: skip

    def _scalar(self, node: yaml.Node, kind: type, key: str) -> Any:
        value: Any = self._plain(node, key)
        words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[kind]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
            raise self.fail(node, key, f"must be {words}, not {value!r}")
        return value

    def _plain(self, node: yaml.Node, key: str) -> Any:
        if isinstance(node, yaml.MappingNode):
            return {str(a.value): self._plain(b, f"{key}.{a.value}") for a, b in node.value}
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(one, key) for one in node.value]
        try:
            return yaml.SafeLoader("").construct_object(node)
        except yaml.YAMLError as error:
            raise self.fail(node, key, f"cannot be read: {error}") from error


def _check(plan: Plan, reader: _Reader, root: yaml.Node) -> None:
    """What types do not tell: names that must exist, numbers that must lie somewhere."""

    def need(right: bool, key: str, words: str) -> None:
        if not right:
            raise reader.fail(_find(root, key), key, words)

    traffic, study = plan.traffic, plan.study
    need(bool(plan.groups), "groups", "needs at least one group of engines")
    for i, group in enumerate(plan.groups):
        key = f"groups[{i}]"
        need(group.count >= 1, key, "count must be at least 1")
        need(group.chunk >= 16 and group.max_seqs >= 1, key, "chunk must be at least 16, max_seqs at least 1")
        need(bool(group.pace) and group.pace[0][0] == 0.0, key, "pace must begin at second 0, as {0: 1}")
        need(all(factor > 0 for _, factor in group.pace), key, "every pace must be above 0")
        try:
            warped(group)
        except (UnknownProfile, ScenarioError) as error:
            need(False, key, str(error))
    need(traffic.arrivals in ARRIVALS, "traffic.arrivals", f"must be one of {', '.join(ARRIVALS)}")
    need(bool(traffic.sources), "traffic.sources", "needs at least one source of lengths")
    need(0.0 <= traffic.swing < 1.0, "traffic.swing", "must be from 0 to below 1")
    for source in (*traffic.sources, *traffic.later):
        if source.trace:
            try:
                trace(source.trace)
            except ValueError as error:
                need(False, "traffic", str(error))
    need(plan.requests >= 100, "requests", "must be at least 100")
    need(0.0 <= plan.warm_up < 0.9, "warm_up", "must be from 0 to below 0.9")
    need(plan.routers.count >= 1, "routers.count", "must be at least 1")
    need(study.seeds >= 1, "study.seeds", "must be at least 1")
    need(study.load > 0 or study.rate > 0, "study.load", "must be above 0")
    if plan.fill.gates:
        need(study.rate > 0 and plan.routers.count == 1, "fill", "needs study.rate and one router")
        for gate in plan.fill.gates:
            need(gate.gate in GATES, "fill.gates", f"there is no gate {gate.gate!r}; there are {', '.join(GATES)}")
        _check_bars(plan, need, {gate.name for gate in plan.fill.gates})
        return
    if plan.admission.loads:
        need(plan.routers.count == 1 and min(plan.admission.loads) > 0, "admission", "needs one router, loads above 0")
        _check_bars(plan, need, {f"{load:.0%}" for load in plan.admission.loads})
        return
    _check_policies(plan, need)


def _check_policies(plan: Plan, need: typing.Callable[[bool, str, str], None]) -> None:
    for choice in plan.study.policies:
        if (wrong := check(choice.policy, choice.options)) is not None:
            need(False, "study.policies", wrong.removeprefix("pick: "))
    _check_bars(plan, need, {choice.name for choice in plan.choices})


def _check_bars(plan: Plan, need: typing.Callable[[bool, str, str], None], names: set[str]) -> None:
    for bar in plan.study.bars:
        for name in (bar.policy, bar.over):
            known = name in names or name in ("", BEST, POOLED, FLUID)
            need(known, "study.bars", f"{name!r} is no policy of this study; there are {', '.join(sorted(names))}")
        need(_is_set(bar), "study.bars", f"{bar.figure}: needs at_least or at_most")


def _is_set(bar: Bar) -> bool:
    return math.isfinite(bar.at_least) or math.isfinite(bar.at_most)


def _find(root: yaml.Node, key: str) -> yaml.Node:
    """The node of a dotted key, or the nearest one around it."""
    node = root
    for part in key.replace("[", ".[").split("."):
        if part.startswith("["):
            if not isinstance(node, yaml.SequenceNode):
                return node
            node = node.value[int(part[1:-1])]
            continue
        inner = [b for a, b in node.value if a.value == part] if isinstance(node, yaml.MappingNode) else []
        if not inner:
            return node
        node = inner[0]
    return node


def standard() -> dict[str, Path]:
    """The scenario files that come with the lab, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
