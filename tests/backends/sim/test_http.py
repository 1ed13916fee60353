"""The small HTTP server, byte by byte."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.sim.http import BadHttp, Connection, HttpRequest, Reply, parse_chunks
from tests.backends.sim.conftest import Start, Wire

COUNT = b'{"messages": [{"role": "user", "content": "12345"}]}'


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=5), st.data())
def test_a_chunked_body_is_put_together_wherever_it_is_split(pieces: list[bytes], data: st.DataObject) -> None:
    raw = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\nNEXT"
    end = len(raw) - 4
    assert parse_chunks(bytearray(raw), 0) == (b"".join(pieces), end)
    cut = data.draw(st.integers(0, end - 1))
    assert parse_chunks(bytearray(raw[:cut]), 0) is None


def test_trailers_are_skipped_and_a_bad_size_is_refused() -> None:
    assert parse_chunks(bytearray(b"1\r\nx\r\n0\r\na: b\r\n\r\n"), 0) == (b"x", 17)
    with pytest.raises(BadHttp):
        parse_chunks(bytearray(b"zz\r\n"), 0)


class Sink(asyncio.Transport):
    """Remembers what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True


def connect(seen: list[tuple[HttpRequest, Reply]]) -> tuple[Connection, Sink]:
    connection, sink = Connection(lambda request, reply: seen.append((request, reply)), set()), Sink()
    connection.connection_made(sink)
    return connection, sink


REQUEST = b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nX-Y:  z \r\n\r\nabc"


@pytest.mark.parametrize("size", [1, 7, len(REQUEST)])
def test_a_request_is_the_same_in_any_pieces(size: int) -> None:
    seen: list[tuple[HttpRequest, Reply]] = []
    connection, _ = connect(seen)
    for i in range(0, len(REQUEST), size):
        connection.data_received(REQUEST[i : i + size])
    request = seen[0][0]
    assert (request.method, request.path, request.body, request.headers["x-y"]) == ("POST", "/a", b"abc", "z")


async def test_pipelined_requests_are_answered_one_after_the_other() -> None:
    seen: list[tuple[HttpRequest, Reply]] = []
    connection, sink = connect(seen)
    connection.data_received(REQUEST * 2)
    assert len(seen) == 1
    seen[0][1].send(200, {}, b"one")
    await asyncio.sleep(0)
    assert len(seen) == 2
    seen[1][1].send(200, {}, b"two")
    assert sink.sent.count(b"HTTP/1.1 200 OK") == 2
    assert sink.sent.index(b"one") < sink.sent.index(b"two")
    assert not sink.closed


def test_a_client_of_1_0_gets_a_stream_without_chunks_and_the_end_is_the_close() -> None:
    seen: list[tuple[HttpRequest, Reply]] = []
    connection, sink = connect(seen)
    connection.data_received(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    reply = seen[0][1]
    reply.start(200, {"content-type": "text/event-stream"})
    reply.write(b"data: 1\n\n")
    reply.end(b"data: 2\n\n")
    assert b"chunked" not in sink.sent
    assert sink.sent.endswith(b"\r\n\r\ndata: 1\n\ndata: 2\n\n")
    assert sink.closed


def test_close_is_kept_and_continue_is_sent_once() -> None:
    seen: list[tuple[HttpRequest, Reply]] = []
    connection, sink = connect(seen)
    head = b"POST / HTTP/1.1\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    connection.data_received(head)
    connection.data_received(b"a")
    assert sink.sent == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.data_received(b"b")
    seen[0][1].send(200, {})
    assert b"connection: close" in sink.sent
    assert sink.closed


@pytest.mark.parametrize("raw", [b"NONSENSE\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"a" * 70000])
def test_what_is_not_http_gets_400_and_a_close(raw: bytes) -> None:
    seen: list[tuple[HttpRequest, Reply]] = []
    connection, sink = connect(seen)
    connection.data_received(raw)
    assert not seen
    assert sink.sent.startswith(b"HTTP/1.1 400 Bad Request")
    assert sink.closed


async def test_a_connection_is_idle_between_requests_only() -> None:
    seen: list[tuple[HttpRequest, Reply]] = []
    connection, _ = connect(seen)
    assert connection.is_idle(-1.0)
    assert not connection.is_idle(3600.0)
    connection.data_received(REQUEST[:10])
    assert not connection.is_idle(-1.0)
    connection.data_received(REQUEST[10:])
    assert not connection.is_idle(-1.0)
    seen[0][1].send(200, {})
    assert connection.is_idle(-1.0)


def test_a_lost_connection_is_told_once_and_writing_to_it_does_nothing() -> None:
    seen: list[tuple[HttpRequest, Reply]] = []
    connection, sink = connect(seen)
    connection.data_received(REQUEST)
    reply = seen[0][1]
    lost: list[int] = []
    reply.lost = lambda: lost.append(1)
    reply.start(200, {})
    sent = sink.sent
    connection.connection_lost(None)
    connection.connection_lost(None)
    reply.write(b"x")
    reply.end()
    assert lost == [1]
    assert sink.sent == sent


async def test_a_big_chunked_request_and_a_keep_alive_connection_work_for_real(start: Start) -> None:
    wire = await Wire.open(await start())
    for _ in range(2):
        body = json.dumps({"messages": [{"role": "user", "content": "x" * 400_000}]}).encode()
        wire.writer.write(b"POST /v1/messages/count_tokens HTTP/1.1\r\ncontent-type: application/json\r\n")
        wire.writer.write(b"transfer-encoding: chunked\r\n\r\n")
        for i in range(0, len(body), 50_000):
            piece = body[i : i + 50_000]
            wire.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        wire.writer.write(b"0\r\n\r\n")
        _, _, answer = await wire.answer()
        assert json.loads(answer)["input_tokens"] == 100_000
    wire.close()
