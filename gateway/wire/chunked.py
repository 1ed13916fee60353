"""Strict decoder of a chunked request body, fed in any pieces.

Chunk sizes are 1 to 8 hexadecimal digits and nothing else before CRLF but a short extension; trailers are refused
when they frame or route, dropped otherwise. What a chunk costs beyond its data is bounded, so a flood of tiny
chunks or long extensions ends early.
"""

from __future__ import annotations

import re

from gateway.wire.head import WireError

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[\t !-~\x80-\xff]*)?")
_TRAILER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[^\x00-\x08\x0a-\x1f\x7f]*")
_FORBIDDEN = frozenset((b"content-length", b"transfer-encoding", b"host", b"authorization", b"trailer", b"connection"))
_LINE = 256  # longest size line or trailer
_TRAILERS = 16
# Framing bytes allowed on top of the data: a floor for small bodies, then 8 bytes for each byte of data.
_SLACK, _PER_BYTE = 64 * 1024, 8
# Chunks allowed, in the same way: a floor, then one for every 16 bytes. Each costs 3 us, whatever is in it.
_CHUNKS, _BYTES = 64 * 1024, 16


class ChunkedBody:
    """Feed it bytes; `done` tells the end, `data()` gives what was decoded. Raises WireError."""

    __slots__ = ("done", "size", "_parts", "_rest", "_left", "_limit", "_framing", "_chunks", "_state", "_trailers")

    def __init__(self, limit: int):
        self.done = False
        self.size = 0
        self._parts: list[bytes] = []
        self._rest = b""
        self._left = 0
        self._limit = limit
        self._framing = 0
        self._chunks = 0
        self._state = "size"
        self._trailers = 0

    def feed(self, data: bytes) -> bytes:
        """Decode what can be decoded. Returns what came after the end of the body (pipelined bytes)."""
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        while not self.done:
            if self._state == "data":
                taken = min(self._left, end - at)
                if taken:
                    self._parts.append(data[at : at + taken])
                    at, self._left, self.size = at + taken, self._left - taken, self.size + taken
                if self._left:
                    break
                self._state = "crlf"
            if self._state == "crlf":
                if end - at < 2:
                    if data[at:end] not in (b"", b"\r"):
                        raise WireError(400, "chunk data is not followed by CRLF")
                    break
                if data[at : at + 2] != b"\r\n":
                    raise WireError(400, "chunk data is not followed by CRLF")
                at, self._state = at + 2, "size"
            line_end = data.find(b"\r\n", at, at + _LINE)
            if line_end < 0:
                self._check_partial(data[at:end])
                break
            self._line(data[at:line_end])
            self._framing += line_end + 4 - at
            if self._framing > _SLACK + _PER_BYTE * self.size:
                raise WireError(400, "too many tiny chunks")
            at = line_end + 2
        self._rest = b"" if self.done else data[at:]
        return data[at:] if self.done else b""

    def _check_partial(self, line: bytes) -> None:
        if len(line) >= _LINE - 1 or b"\n" in line or b"\r" in line[:-1]:
            raise WireError(400, "a chunk size line is malformed or too long")

    def _line(self, line: bytes) -> None:
        if self._state == "trailer":
            if not line:
                self.done = True
                return
            match = _TRAILER.fullmatch(line)
            self._trailers += 1
            if match is None or match[1].lower() in _FORBIDDEN or self._trailers > _TRAILERS:
                raise WireError(400, "a trailer is not allowed here")
            return
        match = _SIZE.fullmatch(line)
        if match is None:
            raise WireError(400, "a chunk size is not a plain hexadecimal number")
        self._chunks += 1
        if self._chunks > _CHUNKS + self.size // _BYTES:
            raise WireError(400, "too many tiny chunks")
        self._left = int(match[1], 16)
        if self.size + self._left > self._limit:
            raise WireError(413, f"the body is larger than {self._limit} bytes", "body_too_large")
        self._state = "data" if self._left else "trailer"

    def data(self) -> bytes:
        """What was decoded since this was last asked for."""
        parts, self._parts = self._parts, []
        return b"".join(parts)
