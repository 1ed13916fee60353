"""The few JSON fields the gateway reads, without parsing the rest into objects; and the strictness around them.

What the gateway checked must be what the model server reads. So a body that two parsers could understand differently
is refused: not UTF-8, a repeated key that the gateway reads (escaped spellings included), nesting deeper than 64,
bytes after the value. The typed decoder skips what is not asked for (64 KiB: about 11 us, json.loads 27 us), and the
strict checks run at C speed over the part of the body that is not the prompt.

A prompt is more than its messages: engines write tools and system prompts before them, and a ranking reads a query and
documents. All of it is work and lies in caches, so all of it is counted and hashed, as raw JSON.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import numpy as np

from gateway.core.errors import BadRequest

DEPTH = 64
_READ = ("model", "stream", "max_tokens", "max_completion_tokens", "max_output_tokens", "messages", "prompt", "input",
         "user", "prompt_cache_key", "stream_options", "n", "text_input", "tools", "system",
         "instructions")  # fmt: skip
_ASKED, _RANKED = ("query", "queries", "text_1", "data_1"), ("documents", "items", "text_2", "data_2")


def _keys(names: tuple[str, ...]) -> re.Pattern[bytes]:
    return re.compile(b'"(' + b"|".join(name.encode() for name in names) + rb')"\s*:')


# The names of a ranking are read of nothing else: as properties of JSON Schemas they come in many chats, repeatedly.
_READ_OF_RANKING = (*_READ, *_ASKED, *_RANKED)
_KEYS, _KEYS_OF_RANKING = _keys(_READ), _keys(_READ_OF_RANKING)
_USUALLY = (b'"messages":', b'"messages": ', b'"prompt":', b'"prompt": ', b'"input":', b'"input": ')
_VALUE_OF = re.compile(rb'"(?:messages|prompt|input|text_input)"\s*:\s*\Z')  # however it is spaced
_ESCAPED_ASCII = re.compile(rb"\\u00[2-7][0-9A-Fa-f]")
_STRING = re.compile(rb'"[^"]*"')
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))
_STRICT = 256 * 1024  # bytes that may be parsed in full: 30 ms
_MOST = 1 << 53  # tokens: beyond, a whole number may be more than a float can be
_MEDIA = (b"base64,", b'"data":"', b'"data": "')  # what base64 stands behind: a URL's, Anthropic's and sounds'
_IMAGE = 4096  # bytes of words that one is taken to be worth: about a thousand tokens
_LARGE, _SEVERAL = 1 << 16, 256  # bytes of a prompt in which they are looked for; how many of each kind
_NONE = msgspec.Raw()


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Peek(msgspec.Struct, gc=False):
    """What was read. Prompt fields are raw JSON; absent ones are empty.

    `query` to `data_2` are the names of what is asked and of what is ranked, in the order of the ways to ask for it.
    """

    model: str | None = None
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    messages: msgspec.Raw = _NONE
    prompt: msgspec.Raw = _NONE
    input: msgspec.Raw = _NONE
    user: str | None = None
    prompt_cache_key: str | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    best_of: int | None = None
    tools: msgspec.Raw = _NONE
    system: msgspec.Raw = _NONE
    instructions: msgspec.Raw = _NONE
    query: msgspec.Raw = _NONE
    queries: msgspec.Raw = _NONE
    text_1: msgspec.Raw = _NONE
    data_1: msgspec.Raw = _NONE
    documents: msgspec.Raw = _NONE
    items: msgspec.Raw = _NONE
    text_2: msgspec.Raw = _NONE
    data_2: msgspec.Raw = _NONE

    @property
    def text(self) -> bytes:
        """The raw JSON of the prompt: its parts, one behind the other."""
        return b"".join(self.parts)

    @property
    def parts(self) -> tuple[msgspec.Raw, ...]:
        """What the prompt is made of, in whichever fields it came, in the order in which a template writes it."""
        if self.messages:
            if not self.tools and not self.system:
                return (self.messages,)
            return _said(self.tools, self.system, self.messages)
        if self.prompt:  # of a completion, which knows no tools
            return (self.prompt,)
        if self.input:
            return _said(self.tools, self.instructions, self.input)
        return _said(self.query or self.queries or self.text_1 or self.data_1,
                     self.documents or self.items or self.text_2 or self.data_2)  # fmt: skip

    @property
    def answers(self) -> int:
        """How many answers are to be made."""
        return max(self.n or 1, self.best_of or 1)

    @property
    def limit(self) -> int | None:
        """The output limit the client set, if any. What is below 1 limits nothing, and must reserve nothing."""
        found = self.max_completion_tokens or self.max_tokens or self.max_output_tokens
        return min(found, _MOST) if found is not None and found > 0 else None


class Tensors(msgspec.Struct):
    """What is read of a body for Triton: its members are the model's own inputs, and may be of any type."""

    text_input: msgspec.Raw = _NONE
    max_tokens: Any = None


_decoder = msgspec.json.Decoder(Peek)
_tensors = msgspec.json.Decoder(Tensors)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def peek(body: bytes, tensors: bool = False) -> Peek:
    """Read the fields of one JSON body, `tensors` if it is for Triton. Raises BadRequest with what is wrong."""
    if not body.isascii():
        try:
            body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRequest(f"the body is not valid UTF-8 (byte {error.start})", code="invalid_json") from None
    try:
        found = _decoder.decode(body) if not tensors else _read_tensors(body)
    except msgspec.ValidationError as error:
        raise _wrong_type(error) from None
    except (msgspec.DecodeError, RecursionError) as error:
        reason = "it nests too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadRequest(f"the body is not valid JSON: {reason}", code="invalid_json") from None
    if _may_be_too_deep(body):
        _check_depth(body)
    _check_repeats(body, found)
    return found


def _said(*parts: msgspec.Raw) -> tuple[msgspec.Raw, ...]:
    """Those that are there: clients also write `null` for what they leave out."""
    return tuple(part for part in parts if part and not (len(part) == 4 and bytes(part) == b"null"))


def worded(text: bytes) -> int:
    """How many bytes of a prompt are words, where images and sounds are counted as the few that they are worth."""
    size = len(text)
    if size < _LARGE:
        return size
    for mark in _MEDIA:
        end = 0
        for _ in range(_SEVERAL):
            at = text.find(mark, end)
            if at < 0:
                break
            start = at + len(mark)
            end = max(start, text.find(b'"', start))
            size -= max(0, end - start - _IMAGE)
    return size


def _read_tensors(body: bytes) -> Peek:
    seen = _tensors.decode(body)
    return Peek(prompt=seen.text_input, max_tokens=seen.max_tokens if isinstance(seen.max_tokens, int) else None)


def _may_be_too_deep(body: bytes) -> bool:
    """Whether it has more opening brackets than it may have levels, those inside strings included.

    A bounded split finds each by memchr: counting costs five times as much for a small body, and for a large one goes
    on long after the answer is known.
    """
    return len(body.split(b"{", DEPTH + 1)) + len(body.split(b"[", DEPTH + 1)) - 2 > DEPTH


def _check_repeats(body: bytes, found: Peek) -> None:
    """Refuse repeated keys. Only the part outside the prompt is searched; any doubt goes to a full parse."""
    rest = _without_prompt(body, found.parts)
    others = found.messages or found.prompt or found.input
    keys = (_KEYS if others else _KEYS_OF_RANKING).findall(rest)
    if len(keys) != len(set(keys)) or (rest.find(b"\\u") >= 0 and _ESCAPED_ASCII.search(rest)):
        _parse_strictly(rest, _READ if others else _READ_OF_RANKING)


def _without_prompt(body: bytes, parts: tuple[msgspec.Raw, ...]) -> bytes:
    """The body with `null` where the prompt is."""
    if len(parts) == 1:
        # The value's place is found by its beginning: searching for all of it costs more than parsing it, and where it
        # lies in memory costs more to find out than this.
        raw = bytes(parts[0])
        at = body.find(raw[:64]) if len(raw) > 64 else -1
        # The same bytes may also lie across keys (from one string's closing quote to another's opening one): cutting
        # those out would hide a key. Only behind its own key is it surely the value.
        if at < 0 or not body.startswith(raw, at):
            return body
        if body.endswith(_USUALLY, 0, at) or _VALUE_OF.search(body, max(0, at - 32), at):
            return body[:at] + b"null" + body[at + len(raw) :]
        return body
    pieces: list[bytes] = []
    end = 0
    for at, part in sorted((offset_in(body, part), part) for part in parts):
        pieces += (body[end:at], b"null")
        end = at + len(part)
    return b"".join((*pieces, body[end:]))


def _parse_strictly(rest: bytes, names: tuple[str, ...]) -> None:
    """A full parse, for the repeated keys of the top level alone. On the loop, so what it may be given is bounded."""
    if len(rest) > _STRICT:
        raise BadRequest(f"more than {_STRICT >> 10} KiB besides the prompt, in which a key may be repeated: write "
                         "each key once and without escapes", code="repeated_key")  # fmt: skip

    def pairs(items: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        return items

    try:
        top = json.loads(rest, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None
    found = [name for name, _ in top]
    for name in names:
        if found.count(name) > 1:
            raise BadRequest(f"the key `{name}` is repeated in the body", code="repeated_key", param=name)


def _check_depth(body: bytes) -> None:
    """Exact nesting depth by deleting, at C speed, everything that is not a bracket outside a string."""
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_STRUCTURE)
    bare = _STRING.sub(b"", bare)
    # Opening brackets are 0x5b and 0x7b, closing ones 0x5d and 0x7d: with bit 5 cleared, a step up or down from 0x5c.
    steps = 0x5C - (np.frombuffer(bare, np.uint8) & 0xDF).astype(np.int8)
    if len(steps) and int(np.cumsum(steps, dtype=np.int32).max()) > DEPTH:
        raise BadRequest(f"the body nests deeper than {DEPTH} levels", code="invalid_json")


def _wrong_type(error: msgspec.ValidationError) -> BadRequest:
    text = str(error)
    match = re.search(r"at `\$\.(\w+)", text)
    param = match[1] if match else None
    return BadRequest(f"the body is not what is expected: {text}", code="invalid_value", param=param)


def rewrite(body: bytes, changes: dict[str, Any]) -> bytes:
    """The body with some top-level members replaced, or put in front; every other byte is as it was."""
    for name, value in changes.items():
        members = _members.decode(body)
        new, old = msgspec.json.encode(value), members.get(name)
        if old is None:
            at = end = body.index(b"{") + 1
            new = b"%b:%b%b" % (msgspec.json.encode(name), new, b"," if members else b"")
        else:
            at = offset_in(body, old)
            end = at + len(old)
        view = memoryview(body)
        body = b"".join((view[:at], new, view[end:]))
    return body


def offset_in(body: bytes, value: msgspec.Raw) -> int:
    """Where in `body` a value begins that was decoded from it.

    A raw value is a view of the bytes it came from: the distance of the two in memory is its place. Searching for it
    would have to tell it from what looks alike, and so to parse the body once more.
    """
    at = _address(value) - _address(body)
    if not 0 <= at <= len(body) - len(value):
        raise ValueError("the value was not decoded from this body")
    return at


def _address(data: bytes | msgspec.Raw) -> int:
    return int(np.frombuffer(data, np.uint8).__array_interface__["data"][0])
