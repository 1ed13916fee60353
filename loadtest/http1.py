"""Read one HTTP/1.1 answer from bytes fed in any pieces, cheaply.

A load generator must not be the slow part, so this reads only what it needs: the status, the headers
as a dict of lower-case names, and the body as it comes (sized, chunked, or until the connection closes;
RFC 9112). It judges the framing strictly, because a broken answer has to be counted as broken.
What the body means is the caller's business (`loadtest.stream`); the socket is `loadtest.client`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

MAX_HEAD = 65536  # bytes; more than any server sends on purpose
_HEX = re.compile(rb"[0-9A-Fa-f]{1,15}\Z")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([0-9]{3})(?: [^\r\n]*)?\Z")


class AnswerError(ValueError):
    """The bytes are not an HTTP/1.1 answer."""


class Sink(Protocol):
    """Who is told what was read."""

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """The final status and headers (1xx answers are skipped); of a repeated header, the last."""

    def body(self, piece: bytes) -> None:
        """A piece of the body, without framing, never empty."""


class AnswerReader:
    """One answer. Call `feed` with what arrives until `complete`; call `closed` when the connection ends."""

    __slots__ = ("_head_only", "_held", "_left", "_sink", "_step", "complete", "keep_alive", "started", "surplus")

    def __init__(self, sink: Sink, head_only: bool = False) -> None:
        self._sink = sink
        self._head_only = head_only
        self._held = b""
        self._left = 0
        self._step: Callable[[bytes, int], int] = self._read_head
        self.started = False  # any byte arrived
        self.complete = False  # the whole answer was read
        self.keep_alive = False  # the connection may be used again
        self.surplus = False  # bytes came after the end: the connection may not be used again

    def feed(self, data: bytes) -> None:
        """Take the next piece (never empty). Raises AnswerError."""
        self.started = True
        if self._held:
            data, self._held = self._held + data, b""
        at, end = 0, len(data)
        while at < end:
            if self.complete:
                self.surplus = True
                self.keep_alive = False
                return
            after = self._step(data, at)
            if after < 0:
                self._held = data[at:] if at else data
                if len(self._held) > MAX_HEAD:
                    raise AnswerError("a header or chunk line is too long")
                return
            at = after

    def closed(self) -> bool:
        """The connection ended; True if that leaves a complete answer."""
        if self._step == self._read_until_close:
            self.complete = True
        self.keep_alive = False
        return self.complete

    def _read_head(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            return -1
        lines = data[at:end].split(b"\r\n")
        match = _STATUS.match(lines[0])
        if match is None:
            raise AnswerError(f"not a status line: {lines[0][:60]!r}")
        status = int(match[2])
        if status < 200:
            return end + 4
        headers: dict[bytes, bytes] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon or not name or name[-1:].isspace() or name[:1].isspace():
                raise AnswerError(f"not a header line: {line[:60]!r}")
            headers[name.lower()] = value.strip()
        self._frame(match[1] == b"1", status, headers)
        self._sink.head(status, headers)
        return end + 4

    def _frame(self, is_11: bool, status: int, headers: dict[bytes, bytes]) -> None:
        token = headers.get(b"connection", b"").lower()
        self.keep_alive = b"close" not in token and (is_11 or b"keep-alive" in token)
        length, coding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
        if self._head_only or status in (204, 304):
            self.complete = True
        elif coding is not None:
            if coding.lower() != b"chunked" or length is not None:
                raise AnswerError("framing is ambiguous or of an unknown coding")
            self._step = self._read_size
        elif length is not None:
            if not length.isdigit():
                raise AnswerError(f"content-length {length[:30]!r}")
            self._left = int(length)
            self._step = self._read_sized
            self.complete = self._left == 0
        else:
            self.keep_alive = False
            self._step = self._read_until_close

    def _read_sized(self, data: bytes, at: int) -> int:
        piece = data[at : at + self._left]
        self._left -= len(piece)
        self._sink.body(piece)
        self.complete = self._left == 0
        return at + len(piece)

    def _read_until_close(self, data: bytes, at: int) -> int:
        self._sink.body(data[at:])
        return len(data)

    def _read_size(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n", at)
        if end < 0:
            return -1
        digits = data[at:end].partition(b";")[0].rstrip(b" \t")
        if not _HEX.match(digits):
            raise AnswerError(f"chunk size {digits[:30]!r}")
        self._left = int(digits, 16)
        self._step = self._read_chunk if self._left else self._read_trailer
        return end + 2

    def _read_chunk(self, data: bytes, at: int) -> int:
        piece = data[at : at + self._left]
        self._left -= len(piece)
        self._sink.body(piece)
        if not self._left:
            self._step = self._read_chunk_end
        return at + len(piece)

    def _read_chunk_end(self, data: bytes, at: int) -> int:
        if len(data) - at < 2:
            return -1
        if data[at : at + 2] != b"\r\n":
            raise AnswerError("a chunk is longer than its size")
        self._step = self._read_size
        return at + 2

    def _read_trailer(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n", at)
        if end < 0:
            return -1
        self.complete = end == at
        return end + 2
