"""Mappings and lists of values: the branches of the table in `spec`.

The idea: reading keeps only what the file gives (a dict of parsed values), so that `defaults:` can be laid under a pool
key by key; `make` then calls the dataclass, whose own field defaults fill the rest. The defaults are therefore written
down once, in `types`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.config.kinds import NOTHING, Kind, Nothing, Path, Reader
from gateway.config.problems import did_you_mean, shown
from gateway.config.tree import Mapping as MappingNode
from gateway.config.tree import Node, Scalar, Sequence


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a mapping. `nullable`: `null` says "none". `argument`: what `of` calls it, where that differs."""

    kind: Kind
    doc: str
    required: bool = False
    nullable: bool = False
    argument: str = ""

    def read(self, node: Node, at: Path, reader: Reader) -> Any:
        if self.nullable and isinstance(node, Scalar) and node.is_null:
            return None
        return self.kind.read(node, at, reader)


@dataclass(frozen=True, slots=True)
class Struct(Kind):
    """A mapping with fixed keys, made into `of(**values)`.

    `short` names the argument (and its kind) that a plain value stands for. `rest` reads keys that are not in the
    table; they become the argument `options`. `whole` ones are never merged with a default. `one_of`: exactly one key.
    """

    of: Callable[..., Any]
    keys: Mapping[str, Key]
    short: tuple[str, Kind] | None = None
    rest: Kind | None = None
    whole: bool = False
    one_of: bool = False
    arguments: Mapping[str, inspect.Parameter] = field(init=False, compare=False)
    """The parameters of `of`; looked up once, because looking takes longer than making."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", inspect.signature(self.of).parameters)

    def read(self, node: Node, at: Path, reader: Reader) -> Any:
        if self.short and isinstance(node, Scalar):
            value = self.short[1].read(node, at, reader)
            return NOTHING if isinstance(value, Nothing) else {self.short[0]: value}
        if not isinstance(node, MappingNode):
            reader.error(node.mark, "a mapping is expected", f"keys: {', '.join(self.keys)}")
            return NOTHING
        values: dict[str, Any] = {}
        for name, (key_node, value_node) in node.entries.items():
            reader.places[*at, name] = (key_node.mark, value_node.mark)
            if name in self.keys:
                self._keep(values, self.keys[name].read(value_node, (*at, name), reader), (*at, name), reader)
            elif self.rest:
                options = values.setdefault("options", {})
                self._keep(options, self.rest.read(value_node, (*at, name), reader), (*at, name), reader)
            else:
                reader.spoil((*at, name))
                hint = did_you_mean(name, self.keys) or f"keys here: {', '.join(self.keys)}"
                reader.error(key_node.mark, f"unknown key {shown(name)}", hint)
        self._complain_of_missing(node, at, reader)
        return values

    @staticmethod
    def _keep(values: dict[str, Any], value: Any, at: Path, reader: Reader) -> None:
        if isinstance(value, Nothing):
            reader.spoil(at)
        else:
            values[str(at[-1])] = value

    def _complain_of_missing(self, node: MappingNode, at: Path, reader: Reader) -> None:
        for name, key in self.keys.items():
            if key.required and name not in node.entries:
                reader.spoil((*at, name))
                reader.error(reader.key_at(*at), f"`{name}` is missing", key.doc)
        if self.one_of and len(node.entries) != 1:
            reader.error(node.mark, "contradictory: exactly one key is expected", f"one of {', '.join(self.keys)}")

    def make(self, value: Any) -> Any:
        """`of(**value)`; NOTHING when an argument is missing, which was reported where it was read."""
        given = {}
        for name, part in value.items():
            key = self.keys.get(name)
            made = key.kind.make(part) if key and part is not None else part
            if not isinstance(made, Nothing):
                given[key.argument or name if key else name] = made
        needed = (p.name for p in self.arguments.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD)
        return self.of(**given) if all(name in given for name in needed) else NOTHING

    def merged(self, under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
        """`over` laid on `under`, key by key and through nested mappings."""
        result = {**under, **over}
        for name in under.keys() & over.keys():
            kind = self.keys[name].kind if name in self.keys else None
            if isinstance(kind, Struct) and not kind.whole and under[name] is not None and over[name] is not None:
                result[name] = kind.merged(under[name], over[name])
        return result

    def defaults(self) -> dict[str, Any]:
        """The default of each key that has a plain one, from the signature of `of`."""
        found = {name: self.arguments.get(key.argument or name) for name, key in self.keys.items()}
        return {name: p.default for name, p in found.items() if p is not None and p.default is not p.empty}

    def schema(self) -> dict[str, Any]:
        defaults = self.defaults()
        properties = {}
        for name, key in self.keys.items():
            described = {"description": key.doc, **key.kind.schema()}
            if key.nullable:
                described = {"description": key.doc, "anyOf": [key.kind.schema(), {"type": "null"}]}
            if name in defaults and not isinstance(key.kind, (Struct, MapOf, ListOf)):
                default = defaults[name]
                described["default"] = default if default is None else key.kind.show(default)
            properties[name] = described
        whole: dict[str, Any] = {"type": "object", "properties": properties}
        whole["additionalProperties"] = self.rest.schema() if self.rest else False
        if required := [name for name, key in self.keys.items() if key.required]:
            whole["required"] = required
        if self.one_of:
            whole |= {"minProperties": 1, "maxProperties": 1}
        return {"anyOf": [self.short[1].schema(), whole]} if self.short else whole


@dataclass(frozen=True, slots=True)
class MapOf(Kind):
    """A mapping from names that the operator chooses. `named`: the value's argument that the name becomes."""

    kind: Kind
    name: Kind
    named: str
    least: int = 0

    def read(self, node: Node, at: Path, reader: Reader) -> Any:
        if not isinstance(node, MappingNode):
            reader.error(node.mark, "a mapping is expected")
            return NOTHING
        if len(node.entries) < self.least:
            reader.error(node.mark, f"`{at[-1]}` is empty", f"at least {self.least} is expected")
            reader.spoil(at)
        values: dict[str, Any] = {}
        for key_node, value_node in node.entries.values():
            name = self.name.read(key_node, at, reader)
            if isinstance(name, Nothing):
                reader.spoil((*at, key_node.text))
                continue
            if name in values:
                first = reader.key_at(*at, name).line
                reader.error(key_node.mark, "key repeated", f"it means the same as the one on line {first}")
                continue
            reader.places[*at, name] = (key_node.mark, value_node.mark)
            values[name] = self.kind.read(value_node, (*at, name), reader)
            if isinstance(values[name], Nothing):
                reader.spoil((*at, name))
        return values

    def make(self, value: Any) -> Any:
        given = {name: part for name, part in value.items() if not isinstance(part, Nothing)}
        if self.named:
            given = {name: {**part, self.named: name} for name, part in given.items()}
        made = {name: self.kind.make(part) for name, part in given.items()}
        return {name: part for name, part in made.items() if not isinstance(part, Nothing)}

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.kind.schema(), "minProperties": self.least}


@dataclass(frozen=True, slots=True)
class ListOf(Kind):
    """A list. `least` is how many entries there must be."""

    kind: Kind
    least: int = 0
    into: Callable[[list[Any]], Any] = field(default=tuple)

    def read(self, node: Node, at: Path, reader: Reader) -> Any:
        if not isinstance(node, Sequence):
            hint = f"write [{node.text}]" if isinstance(node, Scalar) and node.text.isalnum() else ""
            reader.error(node.mark, "a list is expected", hint)
            return NOTHING
        if len(node.items) < self.least:
            reader.error(node.mark, f"`{at[-1]}` is empty", f"at least {self.least} is expected")
            reader.spoil(at)
        for row, item in enumerate(node.items):
            reader.places[*at, row] = (item.mark, item.mark)
        values = [self.kind.read(item, (*at, row), reader) for row, item in enumerate(node.items)]
        for row, value in enumerate(values):
            if isinstance(value, Nothing):
                reader.spoil((*at, row))
        return values

    def make(self, value: Any) -> Any:
        made = [self.kind.make(part) for part in value if not isinstance(part, Nothing)]
        return self.into([part for part in made if not isinstance(part, Nothing)])

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.kind.schema(), "minItems": self.least}
