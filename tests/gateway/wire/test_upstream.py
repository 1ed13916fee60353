"""Connections to model servers: answers in any pieces, odd ones refused, and which connections are used again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.core.errors import UpstreamError
from gateway.wire.pool import EndpointPool
from gateway.wire.upstream import UpstreamConnection
from tests.support.loop import on_uvloop, until
from tests.support.upstream import (
    SSE_HEAD,
    Behaviour,
    Line,
    Upstream,
    answer,
    bytewise,
    chunk,
    cut,
    hang,
    pieces,
    reset,
    whole,
)

REQUEST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n"


class Taker:
    """A receiver that notes what it is told."""

    def __init__(self) -> None:
        self.status = 0
        self.fields: list[tuple[bytes, bytes]] = []
        self.length: int | None = -1
        self.body = b""
        self.ended = False
        self.error: UpstreamError | None = None
        self.done = asyncio.Event()

    def head(self, status: int, fields: list[tuple[bytes, bytes]], length: int | None) -> None:
        assert not self.status and not self.done.is_set()
        self.status, self.fields, self.length = status, list(fields), length

    def piece(self, data: bytes) -> None:
        assert self.status and data and not self.done.is_set()
        self.body += data

    def end(self) -> None:
        assert not self.done.is_set()
        self.ended = True
        self.done.set()

    def broke(self, error: UpstreamError) -> None:
        assert not self.done.is_set()
        self.error = error
        self.done.set()


async def ask(pool: EndpointPool) -> tuple[Taker, UpstreamConnection]:
    """One request on a warm connection, or a new one."""
    connection = pool.take() or await pool.connect()
    taker = Taker()
    connection.request(REQUEST, b"{}", taker)
    await taker.done.wait()
    return taker, connection


@pytest.mark.parametrize("play", [whole, bytewise], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(
    ("raw", "status", "length", "body"),
    [
        (answer(b"hello"), 200, 5, b"hello"),
        (answer(b""), 200, 0, b""),
        (SSE_HEAD + chunk(b"a") + chunk(b"bc") + b"0\r\nx-t: y\r\n\r\n", 200, None, b"abc"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + answer(b"ok", 201), 201, 2, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, 0, b""),
    ],
    ids=["sized", "empty", "chunked", "after 1xx", "204"],
)  # fmt: skip
def test_a_good_answer_is_read_from_any_pieces_and_its_connection_used_again(
    play: Callable[[bytes], Behaviour], raw: bytes, status: int, length: int | None, body: bytes
) -> None:
    @on_uvloop
    async def run() -> None:
        async with Upstream(play(raw)) as up:
            pool = EndpointPool(up.url)
            for _ in range(3):
                taker, _ = await ask(pool)
                assert (taker.status, taker.length, taker.body, taker.ended) == (status, length, body, True)
            assert [request.connection for request in up.requests] == [1, 1, 1]
            pool.close()

    run()


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ],
)
def test_a_connection_that_the_server_will_close_is_not_used_again(raw: bytes) -> None:
    @on_uvloop
    async def run() -> None:
        async with Upstream(whole(raw)) as up:
            pool = EndpointPool(up.url)
            for number in (1, 2):
                taker, _ = await ask(pool)
                assert taker.body == b"ok" and up.requests[-1].connection == number

    run()


@on_uvloop
async def test_an_answer_without_a_length_ends_with_its_connection_and_a_reset_is_no_end() -> None:
    async with Upstream(cut(b"HTTP/1.1 200 OK\r\n\r\nall"), reset(b"HTTP/1.1 200 OK\r\n\r\nall")) as up:
        pool = EndpointPool(up.url)
        taker, _ = await ask(pool)
        assert (taker.length, taker.body, taker.ended) == (None, b"all", True)
        taker, _ = await ask(pool)
        assert taker.error is not None and taker.error.cause == "closed"


@pytest.mark.parametrize(
    ("behaviour", "cause"),
    [
        (cut(), "closed"), (reset(), "closed"), (cut(b"HTTP/1.1 200 OK\r\n"), "closed"),
        (cut(answer(b"hello")[:-1]), "closed"), (cut(SSE_HEAD + chunk(b"a")), "closed"),
        (cut(SSE_HEAD + chunk(b"abc")[:-3]), "closed"),
        (whole(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na"), "protocol"),
        (whole(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"), "protocol"),
        (whole(b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), "protocol"),
        (whole(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"), "protocol"),
        (whole(b"HTTP/1.1 200 OK\r\ncontent-length: 1x\r\n\r\na"), "protocol"),
        (whole(b"HTTP/1.1 200 OK\r\nx: a\x00b\r\ncontent-length: 0\r\n\r\n"), "protocol"),
        (whole(b"HTTP/1.1 200 OK\r\nx: a\rb: c\r\ncontent-length: 0\r\n\r\n"), "protocol"),
        (whole(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"), "protocol"),
        (whole(answer(b"a") + answer(b"b")), "protocol"), (whole(b"nonsense\r\n\r\n"), "protocol"),
        (whole(SSE_HEAD + b"zz\r\n"), "protocol"),
        (whole(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\ncontent-length: 0\r\n\r\n"), "protocol"),
        (whole(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 30_000), "protocol"),
    ],
)  # fmt: skip
def test_an_odd_answer_breaks_its_own_request_and_its_connection_only(behaviour: Behaviour, cause: str) -> None:
    @on_uvloop
    async def run() -> None:
        async with Upstream(behaviour, whole(answer(b"ok"))) as up:
            pool = EndpointPool(up.url)
            taker, connection = await ask(pool)
            assert taker.error is not None and (taker.error.cause, taker.error.status) == (cause, 502)
            assert not connection.usable
            taker, _ = await ask(pool)
            assert taker.body == b"ok" and up.requests[-1].connection == 2
            pool.close()

    run()


@on_uvloop
async def test_bytes_that_nobody_asked_for_close_the_connection() -> None:
    async with Upstream(pieces(answer(b"mine"), answer(b"poison")), whole(answer(b"ok"))) as up:
        pool = EndpointPool(up.url)
        taker, connection = await ask(pool)
        assert taker.body == b"mine"
        await until(lambda: not connection.usable)
        taker, _ = await ask(pool)
        assert taker.body == b"ok" and up.requests[-1].connection == 2


@on_uvloop
async def test_an_abandoned_request_closes_its_connection_at_once() -> None:
    async with Upstream(hang(SSE_HEAD + chunk(b"a"))) as up:
        pool = EndpointPool(up.url)
        connection = await pool.connect()
        taker = Taker()
        connection.request(REQUEST, b"{}", taker)
        await until(lambda: taker.body)
        connection.abandon()
        await asyncio.wait_for(up.lines[0].closed.wait(), 1.0)
        assert not taker.done.is_set() and pool.take() is None


@on_uvloop
async def test_a_connection_given_back_while_paused_reads_again() -> None:
    class Pausing(Taker):
        def piece(self, data: bytes) -> None:
            super().piece(data)
            connection.pause()  # as a slow client's full buffer does, with the last piece

    async with Upstream(whole(answer(b"ok"))) as up:
        pool = EndpointPool(up.url)
        connection = await pool.connect()
        first = Pausing()
        connection.request(REQUEST, b"{}", first)
        await first.done.wait()
        second, again = await asyncio.wait_for(ask(pool), 2.0)
        assert again is connection and second.body == b"ok"


@on_uvloop
async def test_a_paused_connection_takes_a_bounded_number_of_bytes() -> None:
    sent = 0

    async def endless(line: Line, request: object) -> bool:
        nonlocal sent
        await line.send(SSE_HEAD)
        while True:
            await line.send(chunk(b"x" * 65_536))
            sent += 65_536

    class Pausing(Taker):
        def piece(self, data: bytes) -> None:
            super().piece(data)
            if len(self.body) == len(data):
                connection.pause()

    async with Upstream(endless) as up:
        pool = EndpointPool(up.url)
        connection = await pool.connect()
        taker = Pausing()
        connection.request(REQUEST, b"{}", taker)
        await until(lambda: taker.body)
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.05)
        held = len(taker.body)
        assert held < 1_000_000 and sent < 16_000_000
        connection.resume()
        await until(lambda: len(taker.body) > held)
        connection.abandon()


@on_uvloop
async def test_a_connection_whose_request_has_not_left_whole_is_not_used_again() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"too large", 413))  # without reading the body
        await writer.drain()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0, limit=4096) as server:
        pool = EndpointPool(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        connection = await pool.connect()
        taker = Taker()
        connection.request(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 30000000\r\n\r\n", b"x" * 30_000_000, taker)
        await taker.done.wait()
        assert taker.ended and taker.body == b"too large"
        assert not connection.usable and pool.take() is None
