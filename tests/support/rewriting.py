"""Random JSON and random streams with a model's name in them, and what they must become: known by construction.

Every text is made as (before, name, after), so what must come out is (before, other name, after), whatever the bytes
around are: white space, escapes, other spellings of numbers, objects and strings that mention a model, large values.
Values that must stay as they are come as texts without a name to change.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

UP, CLIENT = "org/real-ü", 'a"liäs'
TELLING = ("model", "model_name", "type", "response", "message", "choices", "usage")
KINDS = ("chat", "triton", "responses", "messages", "none")

_SHORT = {'"': '\\"', "\\": "\\\\", "/": "\\/", "\n": "\\n", "\t": "\\t"}


class Holed(NamedTuple):
    """A text around a name. `name` empty: there is none to change."""

    before: bytes
    name: bytes
    after: bytes

    @property
    def text(self) -> bytes:
        return self.before + self.name + self.after

    def named(self, name: str) -> bytes:
        """The text as it must become."""
        return self.before + (json.dumps(name).encode() if self.name else b"") + self.after


@st.composite
def spelt(draw: DrawFn, text: str) -> bytes:
    """A JSON string, each character in one of its spellings."""
    ways = draw(st.lists(st.integers(0, 2), min_size=len(text), max_size=len(text)))
    out = []
    for character, way in zip(text, ways, strict=True):
        escaped = "".join(f"\\u{unit:04x}" for unit in _utf16(character))
        plain = _SHORT.get(character, character) if character >= " " or character in _SHORT else escaped
        if way == 1 and character not in '"\\\n\t':
            plain = character if character >= " " else escaped
        out.append(escaped if way == 2 else plain)
    return ('"' + "".join(out) + '"').encode()


def _utf16(character: str) -> list[int]:
    raw = character.encode("utf-16-be")
    return [int.from_bytes(raw[at : at + 2], "big") for at in range(0, len(raw), 2)]


_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
_said = st.sampled_from(["model", UP, f'"model": "{UP}"', f'{{"model":"{UP}"}}', 'a"model', "\\", 'data: {"model"'])
_numbers = st.sampled_from([b"0", b"-0", b"1.10e+05", b"1E400", b"-3.50", b"123456789012345678901234567890"])
_words = st.sampled_from([b"true", b"false", b"null"])
_long = st.integers(10_000, 60_000).map(lambda size: b'"' + b'\\"model\\": x' * (size // 13) + b'"')


def spaces(breaks: bool) -> SearchStrategy[bytes]:
    return st.sampled_from([b"", b"", b"", b" ", b"\t ", b"\n" if breaks else b"  ", b"\n \n" if breaks else b" "])


def values(breaks: bool) -> SearchStrategy[bytes]:
    """JSON texts in which anything may be called a model. `breaks`: white space may be line breaks."""
    leaves = st.one_of((_text | _said).flatmap(spelt), _numbers, _words, spelt(UP))

    def grown(inner: SearchStrategy[bytes]) -> SearchStrategy[bytes]:
        key = (st.sampled_from(TELLING) | _text | _said).flatmap(spelt)
        member = st.tuples(key, spaces(breaks), inner, spaces(breaks)).map(lambda m: m[0] + m[1] + b":" + m[3] + m[2])
        objects = st.lists(member, max_size=3).map(lambda all_of: b"{" + b" ,".join(all_of) + b"}")
        arrays = st.lists(inner, max_size=3).map(lambda all_of: b"[" + b", ".join(all_of) + b"]")
        return objects | arrays

    return st.recursive(leaves, grown, max_leaves=6) | st.sampled_from([b"[]", b"{}"])


@st.composite
def objects(draw: DrawFn, breaks: bool, key: str | None, value: Holed | None, **fixed: bytes) -> Holed:
    """An object with the members `fixed`, others, and between them `key` with `value` (None: not there)."""
    gap = spaces(breaks)
    taken = {*TELLING, *fixed}
    names = draw(st.lists(_text.filter(lambda name: name not in taken), max_size=3, unique=True))
    rest = [(name, draw(values(breaks) | values(breaks) | _long)) for name in names]
    members: list[tuple[str, Any]] = [*fixed.items(), *rest]
    if key is not None and value is not None:
        members.append((key, value))
    parts: list[bytes | Holed] = [draw(gap), b"{", draw(gap)]
    for row, (name, found) in enumerate(draw(st.permutations(members))):
        parts += [b"," + draw(gap)] if row else []
        is_ours = isinstance(found, Holed)
        parts.append(json.dumps(name).encode() if is_ours else draw(spelt(name)))
        parts += [draw(gap), b":", draw(gap), found, draw(gap)]
    parts += [b"}", draw(gap)]
    at = next((row for row, part in enumerate(parts) if isinstance(part, Holed)), None)
    if at is None:
        return Holed(b"".join(p for p in parts if isinstance(p, bytes)), b"", b"")
    hole = parts[at]
    assert isinstance(hole, Holed)
    before, after = parts[:at], parts[at + 1 :]
    return Holed(b"".join(before) + hole.before, hole.name, hole.after + b"".join(after))  # type: ignore[arg-type]


@st.composite
def answers(draw: DrawFn, breaks: bool, kind: str) -> Holed:
    """An answer, or the JSON of one event, of a dialect; `none`: names only where they are content."""
    name = Holed(b"", draw(spelt(UP)), b"")
    if kind == "chat":
        lists = {"choices": draw(values(breaks)), "message": draw(values(breaks)), "response": draw(values(breaks))}
        return draw(objects(breaks, "model", name, **lists))
    if kind == "triton":
        return draw(objects(breaks, "model_name", name))
    if kind == "none":
        model = draw(st.sampled_from([b"null", b'"other"', b"[]", b"{}", b'{"model":' + name.name + b"}"]))
        inner = draw(objects(breaks, "model", name))
        choice = draw(st.sampled_from([{"model": model}, {"message": inner.text}, {"response": inner.text}]))
        return draw(objects(breaks, None, None, type=draw(spelt("chunk")), **choice))
    inner = draw(objects(breaks, "model", name))
    where, type_ = ("response", "response.completed") if kind == "responses" else ("message", "message_start")
    return draw(objects(breaks, where, inner, type=b'"' + type_.encode() + b'"'))


@st.composite
def events(draw: DrawFn, end: bytes) -> Holed:
    """One event of a stream whose lines end with `end`, with its blank line."""
    before = b"".join(draw(st.lists(st.sampled_from(
        [b": model", b"event: model", b'id: {"model":"x"}', b"data-x: 1", b"retry: 5"]), max_size=2).map(
            lambda lines: [line + end for line in lines])))  # fmt: skip
    kind = draw(st.sampled_from((*KINDS, "other")))
    begin = draw(st.sampled_from([b"data:", b"data: "]))
    if kind == "other":
        said = f'"model": "{UP}"'.encode()
        data = draw(st.sampled_from([b"[DONE]", b"{" + said, b"text " + said, b"{" + said + b"} {}", b""]))
        return Holed(before + begin + data + end + end, b"", b"")
    holed = draw(answers(True, kind))
    # Within JSON a line break is white space: there, the next line of data begins.
    broken = Holed(*(part.replace(b"\n", end + begin) for part in holed))
    after = draw(st.sampled_from([b"", b"", end + b": model", end + b"id: 7"]))
    return Holed(before + begin + broken.before, broken.name, broken.after + after + end + end)


@st.composite
def streams(draw: DrawFn) -> tuple[bytes, bytes, list[int]]:
    """A stream, what it must become, and where it is cut into pieces."""
    end = draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"]))
    found = draw(st.lists(events(end), max_size=4))
    if found and draw(st.booleans()):  # events of one answer begin alike
        found += [found[-1], found[0]]
    mark = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"]))
    raw, wanted = mark + b"".join(e.text for e in found), mark + b"".join(e.named(CLIENT) for e in found)
    if found and draw(st.booleans()):  # it ends before its last blank line
        raw, wanted = raw[: -len(end)], wanted[: -len(end)]
    return raw, wanted, sorted(draw(st.lists(st.integers(0, len(raw)), max_size=8)))
