"""The listener by itself, with a front that echoes: order, framing, limits, time, and who hears that a client left."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

import pytest

from gateway.config.types import Limits
from gateway.sockets import bind
from gateway.wire.above import Answering
from gateway.wire.head import RequestHead, WireError
from gateway.wire.reply import Reply
from gateway.wire.server import Server
from tests.support.client import Client, post
from tests.support.loop import on_uvloop, until
from tests.support.tls import client_context, server_context

LIMITS = Limits()


class Waiting:
    """An answer that has not come yet."""

    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Echo:
    """Answers with method, path and body; `/wait` is answered by the test, `/no` by the head alone."""

    def __init__(self) -> None:
        self.handled: list[tuple[bytes, bytes, bytes]] = []
        self.waiting: list[tuple[Waiting, Reply]] = []
        self.refused: list[int] = []

    def screen(self, head: RequestHead) -> Callable[[Reply], None] | None:
        return (lambda reply: reply.send(404, b"", b"no")) if head.path == b"/no" else None

    def handle(self, head: RequestHead, body: bytes, reply: Reply, peer: str) -> Answering | None:
        self.handled.append((head.method, head.target, body))
        if head.path == b"/wait":
            waiting = Waiting()
            self.waiting.append((waiting, reply))
            return waiting
        if head.path == b"/stream":
            reply.start(200, b"", None, b"one,")
            reply.write(b"two,")
            reply.end(b"three")
            return None
        said = b"%b %b %b" % (head.method, head.target, body)
        reply.send(int(head.query[1:] or b"200"), b"", said if head.query != b"?204" else b"")
        return None

    def refuse(self, error: WireError, reply: Reply, path: bytes) -> None:
        self.refused.append(error.status)
        reply.send(error.status, b"", error.message.encode())


class Listening:
    """`async with Listening(...) as server:`."""

    def __init__(self, limits: Limits = LIMITS, tls: ssl.SSLContext | None = None):
        self.front = Echo()
        self.server = Server(self.front, limits)
        self._tls = tls

    async def __aenter__(self) -> Listening:
        sock = bind("127.0.0.1", 0)
        self.port = int(sock.getsockname()[1])
        await self.server.start(sock, self._tls)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:  # fmt: skip
        self.server.stop()
        await asyncio.sleep(0)

    def client(self, receive_buffer: int | None = None) -> Client:
        return Client(self.port, receive_buffer=receive_buffer)


async def statuses(client: Client, raw: bytes) -> list[int]:
    """Send, then every status until the connection closes."""
    client.send(raw)
    found = []
    try:
        while True:
            found.append((await client.answer()).status)
    except (asyncio.IncompleteReadError, ConnectionError):
        return found


@on_uvloop
async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async with Listening() as server, server.client() as client:
        client.send(
            post(b"1", "/wait") + post(b"2", "/a") + post(b"3", "/wait") + post(b"4", "/stream") + post(b"5", "/c")
        )
        await until(lambda: server.front.waiting)
        assert len(server.front.handled) == 1
        server.front.waiting.pop()[1].send(200, b"", b"first")
        await until(lambda: server.front.waiting)
        server.front.waiting.pop()[1].send(200, b"", b"third")
        bodies = [(await client.answer()).body for _ in range(5)]
        assert bodies == [b"first", b"POST /a 2", b"third", b"one,two,three", b"POST /c 5"]


@on_uvloop
async def test_a_flood_of_tiny_pipelined_requests_is_answered_without_recursing() -> None:
    async with Listening() as server, server.client() as client:
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n" * 5000)
        for _ in range(5000):
            assert (await client.answer()).body == b"GET /a "


@pytest.mark.parametrize("step", [1, 2, 7])
def test_requests_are_understood_from_any_split(step: int) -> None:
    @on_uvloop
    async def run() -> None:
        async with Listening() as server, server.client() as client:
            chunked = b"POST /b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
            chunked += b"3;x\r\nabc\r\n2\r\nde\r\n0\r\nt: x\r\n\r\n"
            raw = post(b"body", "/a") + chunked + b"\r\nGET /c HTTP/1.1\r\nHost: a\r\n\r\n"
            for at in range(0, len(raw), step):
                client.send(raw[at : at + step])
                await asyncio.sleep(0)
            got = [(await client.answer()).body for _ in range(3)]
            assert got == [b"POST /a body", b"POST /b abcde", b"GET /c "]

    run()


@on_uvloop
async def test_a_body_is_asked_for_with_100_continue_only_where_it_is_wanted() -> None:
    async with Listening() as server:
        async with server.client() as client:
            client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
            assert (await client.head())[0] == 100
            client.send(b"body")
            assert (await client.answer()).body == b"POST /a body"
            client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody")
            assert (await client.answer()).status == 200
        for raw, status in (
            (b"POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n", 404),
            (b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n", 413),
            (b"POST /a HTTP/1.0\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody", 200),
        ):
            async with server.client() as client:
                assert await statuses(client, raw) == [status]


@on_uvloop
async def test_an_http_1_0_client_gets_no_chunks_and_a_closed_connection_unless_it_asks() -> None:
    async with Listening() as server:
        async with server.client() as client:
            client.send(b"GET /stream HTTP/1.0\r\n\r\n")
            said = await client.answer()
            assert said.body == b"one,two,three" and said.named == {"connection": "close"}
        async with server.client() as client:
            for _ in range(2):
                client.send(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                said = await client.answer()
                assert (said.body, said.named["connection"]) == (b"GET /a ", "keep-alive")
            client.send(b"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert (await client.answer()).named["connection"] == "close" and await client.is_closed()


@on_uvloop
async def test_head_and_bodiless_answers_have_no_body() -> None:
    async with Listening() as server, server.client() as client:
        client.send(b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\nHEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        client.send(b"GET /a?204 HTTP/1.1\r\nHost: a\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        first = await client.answer(bodiless=True)
        assert first.named["content-length"] == "8"
        assert (await client.answer(bodiless=True)).named["transfer-encoding"] == "chunked"
        empty = await client.answer()
        assert empty.status == 204 and not {"content-length", "transfer-encoding"} & empty.named.keys()
        assert (await client.answer()).body == b"GET /a "


@on_uvloop
async def test_connection_close_is_honoured_and_later_bytes_are_not_read_as_requests() -> None:
    async with Listening() as server, server.client() as client:
        raw = b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n"
        assert await statuses(client, raw) == [200]
        assert [target for _, target, _ in server.front.handled] == [b"/a"]


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
        (b"\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000, 431),
        (b"GET /" + b"a" * 9_000, 414),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"G" * 10_000, 414),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n66\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_a_refused_request_is_answered_once_and_the_connection_closes(raw: bytes, status: int) -> None:
    @on_uvloop
    async def run() -> None:
        async with Listening(replace(LIMITS, body=100)) as server, server.client() as client:
            after = b"GET /after HTTP/1.1\r\nHost: a\r\n\r\n" if raw.endswith(b"\n") else b""
            assert await statuses(client, raw + after) == [status]
            assert (server.front.handled, server.front.refused) == ([], [status])
            client.writer.close()
            await until(lambda: not server.server.connections)
            assert server.server.buffered == 0

    run()


@on_uvloop
async def test_an_empty_line_before_a_request_is_tolerated() -> None:
    async with Listening() as server, server.client() as client:
        client.send(b"\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.answer()).status == 200


@on_uvloop
async def test_a_refusal_by_the_head_alone_does_not_wait_for_a_large_body() -> None:
    async with Listening() as server, server.client() as client:
        client.send(b"POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: 30000000\r\n\r\n" + b"x" * 200_000)
        said = await client.answer()
        assert (said.status, said.named["connection"]) == (404, "close")
    async with Listening() as server, server.client() as client:
        client.send(post(b"small", "/no") + post(b"", "/a"))
        assert [(await client.answer()).status for _ in range(2)] == [404, 200]


@on_uvloop
async def test_bodies_of_all_requests_together_are_bounded() -> None:
    async with Listening(replace(LIMITS, buffered=1000)) as server:
        async with server.client() as first, server.client() as second:
            first.send(post(b"x" * 800, "/wait"))
            await until(lambda: server.front.waiting)
            assert await statuses(second, post(b"x" * 300, "/a")) == [503]
            server.front.waiting[0][1].send(200, b"", b"")
            assert (await first.answer()).status == 200 and server.server.buffered == 0
        async with server.client() as third:
            third.send(post(b"x" * 300, "/a"))
            assert (await third.answer()).status == 200


@on_uvloop
async def test_connections_over_the_limit_are_closed_at_once() -> None:
    async with Listening(replace(LIMITS, connections=2)) as server:
        async with server.client() as one, server.client() as two:
            for client in (one, two):
                assert (await client.get("/a")).status == 200
            async with server.client() as three:
                assert await three.is_closed()
        await until(lambda: not server.server.connections)
        async with server.client() as four:
            assert (await four.get("/a")).status == 200


FAST = replace(LIMITS, header_time=0.3, body_idle=0.3, idle=0.3, write_stall=0.5)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [(b"", []), (b"GET / HT", [408]), (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", [408]),
     (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na", [408]),
     (b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", [200]), (b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET", [200, 408])],
    ids=["nothing", "half a head", "half a body", "half a chunk", "idle after an answer", "half a second head"],
)  # fmt: skip
def test_a_client_that_is_too_slow_is_answered_and_closed(raw: bytes, expected: list[int]) -> None:
    @on_uvloop
    async def run() -> None:
        async with Listening(FAST) as server, server.client() as client:
            assert await statuses(client, raw) == expected
            client.writer.close()
            await until(lambda: not server.server.connections)

    run()


@on_uvloop
async def test_a_head_that_trickles_in_is_cut_by_the_clock_of_its_first_byte() -> None:
    async with Listening(FAST) as server, server.client() as client:
        assert (await client.get("/a")).status == 200

        async def drip() -> None:
            for byte in b"GET / HTTP/1.1\r\nX: " + b"a" * 1000:
                client.send(bytes([byte]))
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert (await client.answer()).status == 408
        dripping.cancel()


@on_uvloop
async def test_a_slow_reader_gets_all_of_its_answer_also_when_the_connection_closes_after_it() -> None:
    body = b"x" * 12_000_000
    async with Listening() as server, server.client(receive_buffer=4096) as client:
        client.send(b"GET /wait HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await until(lambda: server.front.waiting)
        server.front.waiting[0][1].send(200, b"", body)
        await asyncio.sleep(2.0)  # longer than an answered connection lingers
        said = await client.answer()
        assert said.whole and len(said.body) == len(body)


@on_uvloop
async def test_a_client_that_takes_nothing_is_dropped_and_one_that_takes_little_is_not() -> None:
    body = b"x" * 8_000_000
    async with Listening(FAST) as server:
        async with server.client(receive_buffer=4096) as client:
            client.send(post(b"", "/wait"))
            await until(lambda: server.front.waiting)
            waiting, reply = server.front.waiting.pop()
            reply.start(200, b"", None, body)
            assert reply.paused
            await until(lambda: reply.gone)
            assert waiting.is_cancelled
        async with server.client(receive_buffer=4096) as client:
            client.send(post(b"", "/wait"))
            await until(lambda: server.front.waiting)
            waiting, reply = server.front.waiting.pop()
            reply.start(200, b"", len(body), body)
            reply.end()
            assert await client.head()
            for _ in range(20):  # a little at a time, for longer than a stall may last
                await client.reader.readexactly(60_000)
                await asyncio.sleep(0.06)
            assert len(await client.reader.readexactly(len(body) - 1_200_000)) == len(body) - 1_200_000
        # Answered and to be closed, but the client never reads: it does not stay for ever either.
        async with server.client(receive_buffer=4096) as client:
            client.send(b"GET /wait HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            await until(lambda: server.front.waiting)
            server.front.waiting.pop()[1].send(200, b"", body[:4_000_000])
            await until(lambda: not server.server.connections)


@on_uvloop
async def test_back_pressure_is_told_to_whoever_answers_and_taken_back() -> None:
    async with Listening() as server, server.client(receive_buffer=4096) as client:
        client.send(post(b"", "/wait"))
        await until(lambda: server.front.waiting)
        _, reply = server.front.waiting[0]
        told: list[str] = []
        reply.on_pause, reply.on_resume = lambda: told.append("pause"), lambda: told.append("resume")
        written = 0
        reply.start(200, b"", None)
        while not reply.paused:
            reply.write(b"x" * 65_536)
            written += 65_536
            await asyncio.sleep(0)
        assert told == ["pause"]
        reading = asyncio.create_task(client.answer())
        await until(lambda: told == ["pause", "resume"])
        reply.end()
        assert len((await reading).body) == written


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_whoever_answers_is_told_when_the_client_leaves(how: str) -> None:
    @on_uvloop
    async def run() -> None:
        async with Listening() as server, server.client(receive_buffer=4096) as client:
            client.send(post(b"", "/wait"))
            await until(lambda: server.front.waiting)
            waiting, reply = server.front.waiting[0]
            if how == "half":  # also with a full write buffer, which a graceful close would wait for
                reply.start(200, b"", None, b"x" * 8_000_000)
                client.writer.write_eof()
            elif how == "reset":
                client.reset()
            else:
                client.writer.close()
            await until(lambda: waiting.is_cancelled, "the cancellation")
            assert reply.gone
            reply.write(b"nobody is there")
            reply.end()

    run()


@on_uvloop
async def test_an_answer_that_is_shorter_than_it_promised_is_cut() -> None:
    async with Listening() as server, server.client() as client:
        client.send(post(b"", "/wait"))
        await until(lambda: server.front.waiting)
        _, reply = server.front.waiting[0]
        reply.start(200, b"", 10, b"short")
        reply.end()
        said = await client.answer()
        assert not said.whole


@on_uvloop
async def test_while_draining_answers_close_their_connections_and_idle_ones_can_be_closed() -> None:
    async with Listening() as server, server.client() as idle, server.client() as busy:
        assert (await idle.get("/a")).status == 200
        busy.send(post(b"", "/wait"))
        await until(lambda: server.front.waiting)
        server.server.stop_accepting()
        server.server.close_idle(float("inf"))
        assert await idle.is_closed()
        server.front.waiting[0][1].send(200, b"", b"")
        said = await busy.answer()
        assert (said.status, said.named["connection"]) == (200, "close") and await busy.is_closed()
        with pytest.raises(ConnectionError):
            await server.client().__aenter__()


@on_uvloop
async def test_tls_serves_and_can_insist_on_client_certificates() -> None:
    async with Listening(tls=server_context()) as server, Client(server.port, client_context()) as client:
        client.send(post(b"x" * 300_000, "/a"))
        assert len((await client.answer()).body) == 300_008
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await client.answer()).status == 200 and await client.is_closed()
    async with Listening(tls=server_context(ask_client=True)) as server:
        async with Client(server.port, client_context("client")) as client:
            assert (await client.get("/a")).status == 200
        for certificate in (None, "stranger"):
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                async with Client(server.port, client_context(certificate)) as client:
                    await client.get("/a")
        assert len(server.front.handled) == 1


@on_uvloop
async def test_a_tls_handshake_that_does_not_come_is_bounded_like_a_head() -> None:
    async with Listening(FAST, tls=server_context()) as server, server.client() as client:
        assert await client.is_closed()
