"""One client connection, with a front that echoes: order, framing, limits, time, and who hears that a client left."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.support.client import post
from tests.support.listening import LIMITS, Listening, statuses
from tests.support.loop import on_uvloop, until


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
            for _ in range(10):  # a little (more than the reader here holds) for longer than a stall may last
                await client.reader.readexactly(600_000)
                await asyncio.sleep(0.08)
            assert len(await client.reader.readexactly(len(body) - 6_000_000)) == len(body) - 6_000_000
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
async def test_a_client_that_leaves_in_the_middle_of_its_upload_leaves_nothing_behind() -> None:
    for framing in (b"Content-Length: 9000000", b"Transfer-Encoding: chunked\r\nX: y"):
        async with Listening() as server, server.client() as client:
            client.send(b"POST /a HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % framing + b"40000\r\n" + b"x" * 100_000)
            await until(lambda s=server: s.server.buffered > 90_000)  # type: ignore[misc]
            client.reset()
            await until(lambda s=server: not s.server.connections)  # type: ignore[misc]
            assert server.server.buffered == 0 and not server.front.handled
