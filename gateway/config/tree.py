"""YAML text to a tree of nodes, each with its line and column.

The idea: take the parser's *events* and build three kinds of node from them. What a configuration does not need and
what makes YAML dangerous is refused while the events come by: anchors, aliases and merge keys (a file of 1 KB can keep
a loader busy for half a minute), tags, directives, a second document, deep nesting. Nothing is ever constructed, so no
text can run code or grow, and the cost is linear in the size of a bounded file.

Left to others: what a scalar means (`kinds`), `${NAME}` (`expand`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import yaml

from gateway.config.files import MOST, read_regular
from gateway.config.problems import MOST_PROBLEMS, START, ConfigError, Mark, Problem, shown

DEEPEST = 50
MOST_NODES = 50_000
"""One to two seconds of reading, at most. Ten thousand clients' keys with their tenants are 40,000 nodes."""

# libyaml's parser is ten times as fast and says the same; it is in every wheel of PyYAML, but not in every build.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CONTROL = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_NO_ANCHORS = "write the value out, or use `defaults:`"
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))


@dataclass(frozen=True, slots=True)
class Scalar:
    """Text. `plain` is false when it was quoted or a block: then it is text whatever it looks like."""

    mark: Mark
    text: str
    plain: bool = True

    @property
    def is_null(self) -> bool:
        return self.plain and self.text in _NULLS


@dataclass(frozen=True, slots=True)
class Sequence:
    mark: Mark
    items: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Mapping:
    mark: Mark
    entries: dict[str, tuple[Scalar, Node]] = field(default_factory=dict)


Node = Scalar | Sequence | Mapping
_REFUSED = Scalar(START, "")
"""Stands for a key that was reported and whose value is left out."""
Report = Callable[[Mark, str, str], None]


def read_bytes(path: str) -> bytes:
    """The file's content. Raises ConfigError when it is missing, not a regular file, or larger than 1 MiB."""
    try:
        data = read_regular(path, MOST + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _refused(path, START, f"cannot be read: {reason}") from None
    if len(data) > MOST:
        raise _refused(path, START, "too large", "a configuration is at most 1 MiB")
    return data


def parse_tree(data: bytes, source: str, report: Report) -> Node:
    """The one document in `data`.

    `report` is given keys that are repeated or no text: their entries are left out. All else that is refused raises
    ConfigError: bad UTF-8, bad syntax, anchors, aliases, tags (all of them at once), too deep, too large, empty.
    """
    text = _decoded(data, source)
    builder = _Builder(source, report)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        raise _explained(error, text, source) from None
    except yaml.YAMLError as error:
        raise _refused(source, START, f"not YAML: {error}") from None
    if builder.refused:
        raise ConfigError(builder.refused)
    root = builder.root
    if root is None or (isinstance(root, Scalar) and root.is_null):
        raise _refused(source, START, "empty file", "a mapping with at least `pools` and `models` is expected")
    return root


def _decoded(data: bytes, source: str) -> str:
    if len(data) > MOST:
        raise _refused(source, START, "too large", "a configuration is at most 1 MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mark = _place(data[: error.start].decode("utf-8", "replace"))
        raise _refused(source, mark, f"not UTF-8: byte 0x{data[error.start]:02x}", "save the file as UTF-8") from None
    if found := _CONTROL.search(text):
        raise _refused(source, _place(text[: found.start()]), f"control character U+{ord(found[0]):04X}")
    return text


def _place(before: str) -> Mark:
    """The mark of the character that follows `before`."""
    ends = list(_LINE_END.finditer(before))
    return Mark(len(ends) + 1, len(before) - (ends[-1].end() if ends else 0) + 1)


class _Builder:
    """Events in, nodes out. `root` is the document's node once all events were taken."""

    def __init__(self, source: str, report: Report) -> None:
        self.source = source
        self.report = report
        self.root: Node | None = None
        self.refused: list[Problem] = []
        self._open: list[tuple[Sequence | Mapping, list[Scalar | None]]] = []
        self._documents = 0
        self._nodes = 0

    def take(self, event: yaml.Event) -> None:
        assert event.start_mark is not None  # both parsers give every event its place
        mark = Mark(event.start_mark.line + 1, event.start_mark.column + 1)
        if isinstance(event, yaml.DocumentStartEvent):
            self._start_document(event, mark)
        elif isinstance(event, yaml.AliasEvent):
            self._refuse(mark, f"anchor or alias: {shown(f'*{event.anchor}')}", _NO_ANCHORS)
            self._add(Scalar(mark, "", plain=False))
        elif isinstance(event, yaml.ScalarEvent):
            self._refuse_decoration(event, mark)
            self._add(Scalar(mark, event.value, plain=not event.style))
        elif isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            self._refuse_decoration(event, mark)
            node = Sequence(mark) if isinstance(event, yaml.SequenceStartEvent) else Mapping(mark)
            self._add(node)
            self._open.append((node, [None]))
            if len(self._open) > DEEPEST:
                raise _refused(self.source, mark, "too deep", f"at most {DEEPEST} levels")
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            self._open.pop()

    def _start_document(self, event: yaml.DocumentStartEvent, mark: Mark) -> None:
        self._documents += 1
        if self._documents > 1:
            raise _refused(self.source, mark, "second document", "one file holds one configuration")
        if event.version or event.tags:
            self._refuse(mark, "directive: `%` lines are refused", "leave it out")

    def _refuse(self, mark: Mark, message: str, hint: str) -> None:
        self.refused.append(Problem(self.source, mark.line, mark.column, message, hint))
        if len(self.refused) >= MOST_PROBLEMS:
            raise ConfigError(self.refused)

    def _refuse_decoration(self, event: yaml.NodeEvent, mark: Mark) -> None:
        if event.anchor is not None:
            self._refuse(mark, f"anchor or alias: {shown('&' + event.anchor)}", _NO_ANCHORS)
        if (tag := getattr(event, "tag", None)) is not None:
            self._refuse(mark, f"tag: {shown(tag)} is refused", "the key says how its value is read")

    def _add(self, node: Node) -> None:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise _refused(self.source, node.mark, "too large", f"at most {MOST_NODES} values")
        if not self._open:
            self.root = node
            return
        parent, waiting = self._open[-1]
        if isinstance(parent, Sequence):
            parent.items.append(node)
        elif waiting[0] is None:
            waiting[0] = self._key(parent, node)
        else:
            key, waiting[0] = waiting[0], None
            if key is not _REFUSED:
                parent.entries.setdefault(key.text, (key, node))

    def _key(self, parent: Mapping, node: Node) -> Scalar:
        if not isinstance(node, Scalar):
            self.report(node.mark, "a key is not plain text", "")
            return _REFUSED
        if node.plain and node.text == "<<":
            self._refuse(node.mark, "anchor or alias: the merge key `<<` is refused", "use `defaults:`")
            return _REFUSED
        if node.text in parent.entries:
            first = parent.entries[node.text][0].mark.line
            self.report(node.mark, f"key repeated: {shown(node.text)}", f"it is already on line {first}")
            return _REFUSED
        return node


def _explained(error: yaml.MarkedYAMLError, text: str, source: str) -> ConfigError:
    """The parser's complaint in our words, at the line of the cause rather than where it was noticed."""
    mark, problem, context = error.problem_mark, error.problem or "", error.context or ""
    if "quoted scalar" in context and "end of stream" in problem and error.context_mark:
        start = error.context_mark
        return _refused(source, Mark(start.line + 1, start.column + 1), "unclosed quote", "the quote is never closed")
    mark = mark or error.context_mark
    if mark is None:
        return _refused(source, START, f"not YAML: {problem}")
    opened = error.context_mark
    if "flow" in context and "expected ','" in problem and opened is not None and opened.line < mark.line:
        # Noticed where something did not fit; the cause is nearly always the bracket that was left open further up.
        bracket = "[" if "sequence" in context else "{"
        message = f"not YAML: `{bracket}` is not closed, or a comma is missing"
        hint = f"noticed at line {mark.line + 1}"
        return _refused(source, Mark(opened.line + 1, opened.column + 1), message, hint)
    lines = _LINE_END.split(text)
    line = lines[mark.line] if mark.line < len(lines) else ""
    place = Mark(mark.line + 1, mark.column + 1)
    if "tab" in problem or line[mark.column : mark.column + 1] == "\t":
        return _refused(source, place, "tab in indentation", "indent with spaces")
    if "anchor" in context or "alias" in context:
        return _refused(source, place, f"anchor or alias: {problem}")
    return _refused(source, place, f"not YAML: {problem}", context)


def _refused(source: str, mark: Mark, message: str, hint: str = "") -> ConfigError:
    return ConfigError([Problem(source, mark.line, mark.column, message, hint)])
