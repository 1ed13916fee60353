"""The stated exceptions to "bytes pass unchanged": the model's name, and usage that only we asked for.

Where an alias or `as:` renamed the model on the way in, answers carry the client's spelling on the way out. Where
`usage: inject` asked the engine for usage on a stream, the extra event is taken out again. Only these bytes change.

A name is the model's only where its dialect puts it: `model` at the top (OpenAI, plain Anthropic), `model_name` there
(Triton), `response.model` in an event of the Responses API, `message.model` in Anthropic's `message_start`. Text,
arguments and objects that mention a model are content. So the event is parsed for its place; and as all events of a
stream begin alike up to there, the next one is only compared with that beginning. What is not JSON passes as it is.
"""

from __future__ import annotations

import json
import re

import msgspec

from gateway.peek import offset_in

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r|\r\n\n|\n\r\n")
_EMPTY = re.compile(rb"\[\s*\]")
# Of an event's lines, what is not data: the field's name, or the whole line of another field. A byte order mark, too.
_NOT_DATA = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|(?<=[\r\n]))(?:data:|[^\r\n]+)")
_BOM = b"\xef\xbb\xbf"
_HELD = 32 << 20  # bytes of an unfinished event that are held for editing
_NONE = msgspec.Raw()
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Top(msgspec.Struct):
    """The members of an answer, or of one event of it, that tell the model's name or that there is only usage."""

    type: msgspec.Raw = _NONE
    model: msgspec.Raw = _NONE
    model_name: msgspec.Raw = _NONE
    response: msgspec.Raw = _NONE
    message: msgspec.Raw = _NONE
    choices: msgspec.Raw = _NONE
    usage: msgspec.Raw = _NONE


_top = msgspec.json.Decoder(_Top)


class Editor:
    """Edits one answer. `stream` works event by event, `plain` on a whole body."""

    __slots__ = ("_name", "_replacement", "_drop_usage", "_held", "_begin", "_begin_edited")

    def __init__(self, upstream_name: str | None, client_name: str, drop_usage: bool):
        self._name = None if upstream_name == client_name else upstream_name
        self._replacement = json.dumps(client_name).encode()
        self._drop_usage = drop_usage
        self._held = bytearray()
        self._begin = b""  # of the last event that told the name, up to the name's end
        self._begin_edited = b""

    @property
    def changes_plain(self) -> bool:
        return self._name is not None

    def stream(self, data: bytes) -> bytes:
        """Edit whole events; an unfinished one waits for its end."""
        held = self._held
        if held:
            look = max(0, len(held) - 3)
            held += data
            if _EVENT_END.search(held, look) is None and len(held) <= _HELD:
                return b""
            data = bytes(held)
            held.clear()
        elif data[-2:] == b"\n\n":  # the common case: whole events, often one
            if self._is_nothing_in(data):
                return data
            if data.find(b"\n\n") == len(data) - 2 and data.find(b"\r") < 0:
                return self._event(data)
            look = 0
        else:
            look = 0
        out, at = [], 0
        for match in _EVENT_END.finditer(data, look):
            out.append(self._event(data[at : match.end()]))
            at = match.end()
        held += data[at:]
        if len(held) > _HELD:
            out.append(self.rest())
        return b"".join(out)

    def rest(self) -> bytes:
        """What is still held when the stream ends."""
        event = bytes(self._held)
        self._held.clear()
        return self._event(event)

    def plain(self, body: bytes) -> bytes:
        if self._name is None:
            return body
        return self._renamed(body, b"   " + body[3:] if body.startswith(_BOM) else body)

    def _is_nothing_in(self, data: bytes) -> bool:
        """Whether there is nothing to change in some events."""
        return (self._name is None or data.find(b'"model') < 0) and not (self._drop_usage and data.find(b'"usage"') > 0)

    def _event(self, event: bytes) -> bytes:
        """One event as it goes to the client: nothing, if it is there only because we asked for it."""
        begin, may_drop = self._begin, self._drop_usage and event.find(b'"usage"') > 0
        if begin and not may_drop and event.startswith(begin):
            return self._begin_edited + event[len(begin) :]
        if self._is_nothing_in(event):
            return event
        # The data stays in its place, so that a place in it is one in the event; line ends are white space in JSON.
        data = _NOT_DATA.sub(lambda match: b" " * len(match[0]), event)
        if may_drop and _is_only_usage(data):
            return b""
        return event if self._name is None else self._renamed(event, data)

    def _renamed(self, text: bytes, data: bytes) -> bytes:
        """`text` with the model's name as the client spells it. `data` is its JSON in the same place."""
        try:
            name = _name_in(data)
            is_ours = msgspec.json.decode(name) == self._name
        except _UNREADABLE:
            return text
        if not is_ours:
            return text
        at = offset_in(data, name)
        end = at + len(name)
        self._begin, self._begin_edited = text[:end], text[:at] + self._replacement
        return self._begin_edited + text[end:]


def _name_in(data: bytes) -> msgspec.Raw:
    """The value that names the model. Raises MsgspecError where there is none."""
    top = _top.decode(data)
    if top.model or top.model_name:
        return top.model or top.model_name
    kind = bytes(top.type)
    if kind.startswith(b'"response.'):
        return _top.decode(top.response).model
    if kind == b'"message_start"':
        return _top.decode(top.message).model
    return _NONE


def _is_only_usage(data: bytes) -> bool:
    """Whether a chunk has usage and no choice."""
    try:
        top = _top.decode(data)
    except _UNREADABLE:
        return False
    return _EMPTY.fullmatch(top.choices) is not None and bytes(top.usage)[:1] == b"{"
