"""The file that a pool's `file:` names: one URL a line, or YAML with a list as under `endpoints:`.

The idea: the same kinds of value as in the configuration read it, so the same spelling works and errors look the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from gateway.config.kinds import Nothing, Reader
from gateway.config.problems import START, ConfigError, Mark, shown
from gateway.config.shapes import ListOf
from gateway.config.spec import ENDPOINT
from gateway.config.tree import Mapping as MappingNode
from gateway.config.tree import Node, Scalar, Sequence, parse_tree
from gateway.config.types import EndpointSpec

_LIST = ListOf(ENDPOINT, least=1)


def parse_endpoints(data: bytes, source: str, env: Mapping[str, str]) -> tuple[EndpointSpec, ...]:
    """The endpoints in `data`; `source` is its name in errors. Raises ConfigError; an empty list is one too."""
    reader = Reader(source, env, os.path.dirname(os.path.abspath(source)), {})
    root = _lines(data) or _list(parse_tree(data, source, reader.error), reader)
    raw = _LIST.read(root, ("endpoints",), reader)
    found: tuple[EndpointSpec, ...] = () if isinstance(raw, Nothing) else _LIST.make(raw)
    names = [name for endpoint in found for name in (endpoint.url, endpoint.id) if name is not None]
    for name in sorted({name for name in names if names.count(name) > 1}):
        reader.error(START, f"endpoint repeated: {shown(name)}", "leave it out")
    if reader.problems:
        raise ConfigError(reader.problems)
    return found


def _lines(data: bytes) -> Sequence | None:
    """The list that the file is if each of its lines is a URL, a comment or nothing."""
    lines = [line.partition("#")[0].strip() for line in data.decode("utf-8", "replace").splitlines()]
    if not all(line.startswith(("http://", "https://")) for line in lines if line) or not any(lines):
        return None
    return Sequence(START, [Scalar(Mark(number, 1), line) for number, line in enumerate(lines, 1) if line])


def _list(root: Node, reader: Reader) -> Node:
    """The list of a YAML file: the document itself, or what stands under `endpoints`."""
    if not isinstance(root, MappingNode):
        return root
    for name, (key, _) in root.entries.items():
        if name != "endpoints":
            reader.error(key.mark, f"unknown key {shown(name)}", "a list, or `endpoints:` with a list")
    return root.entries["endpoints"][1] if "endpoints" in root.entries else Sequence(root.mark)
