"""Tests of loadtest/http1.py: answers read whole, byte by byte, and refused when malformed."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.http1 import MAX_HEAD, AnswerError, AnswerReader


class Seen:
    def __init__(self) -> None:
        self.status, self.headers, self.text = 0, dict[bytes, bytes](), b""

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status, self.headers = status, headers

    def body(self, piece: bytes) -> None:
        assert piece
        self.text += piece


def read(data: bytes, cuts: list[int] | None = None, head_only: bool = False) -> tuple[Seen, AnswerReader]:
    seen = Seen()
    reader = AnswerReader(seen, head_only)
    edges = [0, *sorted(cuts or []), len(data)]
    for low, high in itertools.pairwise(edges):
        if high > low:
            reader.feed(data[low:high])
    return seen, reader


SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b \r\n\r\nhello"
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED = HEAD + b"3\r\nhel\r\n1;ext=1\r\nl\r\n1 \r\no\r\n0\r\nTrailer: x\r\n\r\n"
LATER = b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED


@pytest.mark.parametrize("data", [SIZED, CHUNKED, LATER])
def test_an_answer_reads_the_same_whole_and_byte_by_byte(data: bytes) -> None:
    for cuts in ([], list(range(len(data)))):
        seen, reader = read(data, cuts)
        assert (seen.status, seen.text) == (200, b"hello")
        assert reader.complete and reader.keep_alive and not reader.surplus


@given(st.lists(st.integers(0, len(CHUNKED)), max_size=8))
def test_where_the_pieces_are_cut_does_not_matter(cuts: list[int]) -> None:
    seen, reader = read(CHUNKED, cuts)
    assert seen.text == b"hello" and reader.complete


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_and_nothing_else(data: bytes) -> None:
    for prefix in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"):
        seen = Seen()
        with contextlib.suppress(AnswerError):
            AnswerReader(seen).feed(prefix + data + b"\r\n\r\n")


def test_header_names_are_lower_case_and_values_stripped() -> None:
    assert read(SIZED)[0].headers == {b"content-length": b"5", b"x-a": b"b"}


def test_an_answer_without_length_ends_with_the_connection() -> None:
    seen, reader = read(b"HTTP/1.1 200 OK\r\n\r\nabc")
    assert not reader.complete
    assert reader.closed() and seen.text == b"abc" and not reader.keep_alive


@pytest.mark.parametrize("cut", range(1, len(CHUNKED)))
def test_a_chunked_answer_cut_anywhere_is_not_complete(cut: int) -> None:
    _, reader = read(CHUNKED[:cut])
    assert not reader.closed()


def test_when_the_connection_may_be_used_again() -> None:
    assert not read(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")[1].keep_alive
    assert not read(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")[1].keep_alive
    assert read(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n")[1].keep_alive
    _, reader = read(SIZED + b"more")
    assert reader.surplus and not reader.keep_alive


def test_answers_without_a_body_are_complete_at_once() -> None:
    assert read(b"HTTP/1.1 204 No Content\r\n\r\n")[1].complete
    assert read(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", head_only=True)[1].complete


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * MAX_HEAD,
    ],
)
def test_bad_framing_is_refused(data: bytes) -> None:
    with pytest.raises(AnswerError):
        read(data)
