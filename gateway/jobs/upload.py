"""The form in which a file is uploaded (multipart/form-data, RFC 7578), read strictly and in any pieces.

One part is the file, of any size: its bytes come out as they go in, but for the few that might begin a delimiter. The
others are short and known by name, in any order, each at most once. What two readers could understand differently
(bytes before the first delimiter or after the last, a transfer encoding, a repeated name) is refused. Storing what
comes out is left to the caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

from gateway.core.errors import BadRequest

_TYPE = re.compile(
    rb"multipart/form-data[ \t]*;[ \t]*boundary="
    rb"(?:\"([0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?])\"|([0-9A-Za-z'+_\-.]{1,70}))"
    rb"(?:[ \t]*;[ \t]*charset=\"?utf-8\"?)?",
    re.IGNORECASE,
)
_PARAMETER = rb";[ \t]*([A-Za-z0-9_*-]+)=(?:\"((?:[^\"\\\r\n]|\\[^\r\n])*)\"|([^\s\";,\\]+))[ \t]*"
_DISPOSITION = re.compile(rb"form-data[ \t]*((?:" + _PARAMETER + rb")*)", re.IGNORECASE)
_PARAMETERS = re.compile(_PARAMETER)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPED = re.compile(rb"\\(.)")
_PLAIN_ENCODINGS = (b"binary", b"8bit", b"7bit")

_HEAD = 8 * 1024  # longest head of a part
_VALUE = 1024  # longest value, name of a file included
_PADDING = 64  # bytes tolerated after the last delimiter (CRLF)

FILE = "file"

_Reader = Callable[[Any, bytes, int, list[bytes]], int]


class Form:
    """Feed it the body. `values` are the short fields, `filename` the file's name once its part has begun.

    `feed` returns those bytes that are the file's; `close` tells that the body is over. Both raise BadRequest.
    """

    __slots__ = ("values", "filename", "size", "_known", "_limit", "_delimiter", "_rest", "_state", "_name")

    def __init__(self, content_type: bytes, known: frozenset[str], limit: int):
        match = _TYPE.fullmatch(content_type.strip())
        if match is None:
            raise _wrong("an upload is multipart/form-data with a boundary")
        self.values: dict[str, str] = {}
        self.filename: str | None = None
        self.size = 0  # of the file so far
        self._known = known
        self._limit = limit
        self._delimiter = b"\r\n--" + (match[1] or match[2])
        self._rest = b"\r\n"  # so that the first delimiter is like the others
        self._state = "before"
        self._name = ""

    def feed(self, data: bytes) -> bytes:
        data = self._rest + data
        content: list[bytes] = []
        at = 0
        while True:
            after = self._READERS[self._state](self, data, at, content)
            if after < 0:
                break
            at = after
        self._rest = data[at:]
        found = b"".join(content)
        if self._state == "content" and self._name == FILE:
            held = max(0, len(self._rest) - len(self._delimiter) + 1)
            found, self._rest = found + self._rest[:held], self._rest[held:]
        self.size += len(found)
        if self.size > self._limit:
            raise BadRequest(f"the file is larger than {self._limit} bytes", status=413, code="file_too_large",
                             param=FILE)  # fmt: skip
        return found

    def close(self) -> None:
        if self._state != "after":
            raise _wrong("the form ends before its last boundary")
        if self.filename is None:
            raise BadRequest("the form has no field `file`", code="missing_required_parameter", param=FILE)

    # Each reads one thing at `at` and returns where the next one begins, or -1: it is not all there.

    def _before(self, data: bytes, at: int, content: list[bytes]) -> int:
        """The first delimiter, at the very beginning."""
        if not data.startswith(self._delimiter[: len(data)]):
            raise _wrong("the form does not begin with its boundary")
        if len(data) < len(self._delimiter):
            return -1
        self._state = "delimited"
        return len(self._delimiter)

    def _delimited(self, data: bytes, at: int, content: list[bytes]) -> int:
        """What follows a delimiter: a part, or the end."""
        mark = data[at : at + 2]
        if len(mark) < 2:
            return -1
        if mark not in (b"\r\n", b"--"):
            raise _wrong("a boundary is followed by neither a line end nor `--`")
        self._state = "head" if mark == b"\r\n" else "after"
        return at + 2

    def _head(self, data: bytes, at: int, content: list[bytes]) -> int:
        end = data.find(b"\r\n\r\n", at, at + _HEAD)
        if end < 0:
            if len(data) - at >= _HEAD:
                raise _wrong("the head of a part is too long")
            return -1
        self._begin_part(data[at:end])
        self._state = "content"
        return end + 4

    def _content(self, data: bytes, at: int, content: list[bytes]) -> int:
        end = data.find(self._delimiter, at)
        if self._name != FILE and (end if end >= 0 else len(data) - len(self._delimiter)) - at > _VALUE:
            raise _wrong(f"the field `{self._name}` is too long")
        if end < 0:
            return -1
        if self._name == FILE:
            content.append(data[at:end])
        else:
            self.values[self._name] = _text(data[at:end])
        self._state = "delimited"
        return end + len(self._delimiter)

    def _after(self, data: bytes, at: int, content: list[bytes]) -> int:
        """Past the last delimiter: a line end may follow, nothing that could be read as more."""
        if len(data) - at > _PADDING or data[at:].strip(b"\r\n"):
            raise _wrong("bytes after the last boundary")
        return -1

    _READERS: ClassVar[dict[str, _Reader]] = {
        "before": _before, "delimited": _delimited, "head": _head, "content": _content, "after": _after,
    }  # fmt: skip

    def _begin_part(self, head: bytes) -> None:
        fields: dict[bytes, bytes] = {}
        for line in head.split(b"\r\n"):
            field, colon, value = line.partition(b":")
            field = field.lower()
            if not colon or not field or field in fields or field.strip() != field or b"\n" in line or b"\r" in line:
                raise _wrong("the head of a part is malformed")
            fields[field] = value.strip(b" \t")
        if fields.get(b"content-transfer-encoding", b"binary").lower() not in _PLAIN_ENCODINGS:
            raise _wrong("a part has a content-transfer-encoding")
        name, filename = _named(fields.get(b"content-disposition", b""))
        if name not in self._known and name != FILE:
            raise BadRequest(f"unknown field {name[:100]!r}", code="unknown_parameter", param=name[:100])
        if name in self.values or (name == FILE and self.filename is not None):
            raise _wrong(f"the field `{name}` is repeated")
        if name == FILE:
            self.filename = filename or "upload"
        self._name = name


def _named(disposition: bytes) -> tuple[str, str | None]:
    """The name of a part and of its file."""
    match = _DISPOSITION.fullmatch(disposition)
    pairs = _PARAMETERS.findall(match[1]) if match is not None else []
    found = {name.lower(): _ESCAPED.sub(rb"\1", quoted) or bare for name, quoted, bare in pairs}
    if len(found) != len(pairs) or not found.get(b"name") or found.keys() - {b"name", b"filename", b"filename*"}:
        raise _wrong("a part does not say which field it is")
    filename = found.get(b"filename")
    if filename is not None and len(filename) > _VALUE:
        raise _wrong("the name of the file is too long")
    return _text(found[b"name"]), None if filename is None else _text(filename).replace("%22", '"')


def _text(raw: bytes) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise _wrong("a field is not valid UTF-8") from None
    if _CONTROL.search(text):
        raise _wrong("a field has control characters")
    return text


def _wrong(what: str) -> BadRequest:
    return BadRequest(what, code="invalid_form")
