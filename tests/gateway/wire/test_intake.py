"""Bodies that pass through in pieces: the same from any split, held back by a full sink, ended once in every way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.above import Answering, Sink, Unwanted, Verdict
from gateway.wire.head import RequestHead, WireError, parse_head
from gateway.wire.intake import Intake
from gateway.wire.reply import Reply
from tests.support.client import Client, post
from tests.support.listening import LIMITS, Echo, Listening, Waiting, statuses
from tests.support.loop import on_uvloop, until
from tests.support.tls import client_context, server_context


class Taking(Sink):
    """A sink that keeps what it gets, is full from `room` bytes on, and gives up at `patience` bytes."""

    def __init__(self, limit: int = 1 << 30, room: int = 1 << 40, patience: int = 1 << 40):
        self.limit = limit
        self.got = bytearray()
        self.ended = ""
        self._room = room
        self._patience = patience
        self.waiting: Waiting | None = None

    def begin(self, resume: Callable[[], None]) -> None:
        self.resume = resume

    def write(self, data: bytes) -> bool:
        assert not self.ended and data
        self.got += data
        if len(self.got) >= self._patience:
            self._end("unwanted")
            raise Unwanted(lambda reply: reply.send(422, b"", b"enough"))
        return len(self.got) < self._room

    def make_room(self) -> None:
        self._room = 1 << 40
        self.resume()

    def finish(self, reply: Reply) -> Answering | None:
        self._end("finished")
        if self.waiting is None:
            reply.send(200, b"", b"%d" % len(self.got))
        return self.waiting

    def abort(self) -> None:
        self._end("aborted")

    def _end(self, how: str) -> None:
        assert not self.ended, (self.ended, how)
        self.ended = how


class Streams(Echo):
    """`/sink` goes to the next of these sinks; the rest is echoed."""

    def __init__(self, *sinks: Sink):
        super().__init__()
        self.sinks = list(sinks)

    def screen(self, head: RequestHead) -> Verdict | Sink | None:
        return self.sinks.pop(0) if head.path == b"/sink" else super().screen(head)


def listening(*sinks: Sink, **limits: Any) -> Listening:
    return Listening(replace(LIMITS, **limits), front=Streams(*sinks))


HEAD = b"POST /sink HTTP/1.1\r\nhost: a\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


PARTS = st.lists(st.binary(min_size=1, max_size=30), max_size=5)


@given(PARTS, st.binary(max_size=20), st.integers(1, 9), st.booleans())
def test_a_sink_gets_the_body_and_nothing_after_it_from_any_split(
    parts: list[bytes], after: bytes, step: int, chunked: bool
) -> None:
    data = b"".join(parts)
    if chunked:
        raw = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        head = CHUNKED
    else:
        raw, head = data, HEAD + b"content-length: %d\r\n\r\n" % len(data)
    sink = Taking()
    intake = Intake(sink, parse_head(head, 10, 100), lambda: None)
    raw += after
    rest = intake.feed(b"") if not raw else None
    for at in range(0, len(raw), step):
        piece = raw[at : at + step]
        rest = intake.feed(piece) if rest is None else rest + piece
    assert (bytes(sink.got), rest) == (data, after)


@on_uvloop
async def test_a_large_body_passes_without_being_counted_and_over_the_limit_of_ordinary_bodies() -> None:
    body = b"x" * 3_000_000
    async with listening(first := Taking(), second := Taking(), body=1000, buffered=2000) as server:
        async with server.client() as client:
            said = await client.ask("/sink", body)
            assert (said.status, said.body, bytes(first.got)) == (200, b"3000000", body)
            client.send(CHUNKED + b"".join(b"3e8\r\n%b\r\n" % (b"y" * 1000) for _ in range(300)) + b"0\r\n\r\n")
            assert ((await client.answer()).body, server.server.buffered) == (b"300000", 0)
            assert second.ended == "finished"
            assert (await client.ask("/a", b"small")).body == b"POST /a small"
        async with server.client() as client:
            assert await statuses(client, post(body, "/a")) == [413]


@on_uvloop
async def test_a_full_sink_stops_the_client_and_lets_it_go_on() -> None:
    body = b"x" * 20_000_000  # more than the kernel's buffers hold
    async with listening(sink := Taking(room=1), body_idle=0.3) as server, server.client() as client:
        client.send(post(body, "/sink") + post(b"next", "/a"))
        await until(lambda: sink.got)
        await asyncio.sleep(1.0)  # longer than `body_idle` and a sweep: it is not the client that is slow
        assert len(sink.got) < 1_000_000 and not sink.ended
        sink.make_room()
        assert (await client.answer()).body == b"20000000"
        sink.resume()  # may be called whenever it likes
        assert (await client.answer()).body == b"POST /a next"


@on_uvloop
async def test_a_full_sink_stops_a_client_that_speaks_tls() -> None:
    body = b"x" * 20_000_000
    sink = Taking(room=1)
    async with (
        Listening(tls=server_context(), front=Streams(sink)) as server,
        Client(server.port, client_context()) as client,
    ):
        client.send(post(body, "/sink"))
        await until(lambda: sink.got)
        await asyncio.sleep(0.1)
        assert len(sink.got) < 2_000_000
        sink.make_room()
        assert (await client.answer()).body == b"20000000"


@on_uvloop
async def test_a_sinks_body_is_asked_for_with_100_continue() -> None:
    async with listening(Taking(), Taking()) as server, server.client() as client:
        client.send(HEAD + b"content-length: 4\r\nexpect: 100-continue\r\n\r\n")
        assert (await client.head())[0] == 100
        client.send(b"body")
        assert (await client.answer()).body == b"4"
        client.send(HEAD + b"content-length: 0\r\nexpect: 100-continue\r\n\r\n")
        assert (await client.head())[0] == 100 and (await client.answer()).body == b"0"


@on_uvloop
async def test_an_empty_body_is_finished_at_once_and_pipelined_bodies_keep_their_order() -> None:
    async with listening(Taking(), Taking(), Taking()) as server, server.client() as client:
        client.send(HEAD + b"\r\n" + post(b"ab", "/sink") + post(b"1", "/a") + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n")
        assert [(await client.answer()).body for _ in range(4)] == [b"0", b"2", b"POST /a 1", b"3"]


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (HEAD + b"content-length: 101\r\n\r\n", 413),
        (HEAD + b"content-length: 101\r\nexpect: 100-continue\r\n\r\n", 413),
        (CHUNKED + b"65\r\n" + b"x" * 101, 413),
        (CHUNKED + b"5\r\nabcdeX", 400),
        (HEAD + b"content-length: 50\r\n\r\nabc", 408),
    ],
)
def test_a_body_that_is_too_long_malformed_or_too_slow_aborts_its_sink(raw: bytes, status: int) -> None:
    @on_uvloop
    async def run() -> None:
        async with listening(sink := Taking(limit=100), body_idle=0.2) as server, server.client() as client:
            assert await statuses(client, raw) == [status]
            has_begun = not (status == 413 and b"101" in raw)
            assert sink.ended == ("aborted" if has_begun else "")

    run()


@pytest.mark.parametrize("how", ["reset", "half", "stop"])
def test_a_client_that_leaves_aborts_its_sink(how: str) -> None:
    @on_uvloop
    async def run() -> None:
        async with listening(sink := Taking()) as server, server.client() as client:
            client.send(HEAD + b"content-length: 50\r\n\r\nabc")
            await until(lambda: sink.got)
            if how == "reset":
                client.reset()
            elif how == "half":
                client.writer.write_eof()
            else:
                server.server.stop()
            await until(lambda: sink.ended)
            assert sink.ended == "aborted"

    run()


@on_uvloop
async def test_a_client_that_leaves_after_its_body_cancels_the_answer() -> None:
    sink = Taking(room=1)
    waiting = sink.waiting = Waiting()
    async with listening(sink) as server, server.client() as client:
        client.send(post(b"body", "/sink"))
        await until(lambda: sink.ended)
        client.reset()
        await until(lambda: waiting.is_cancelled)
        assert sink.ended == "finished"


@on_uvloop
async def test_a_sink_may_answer_before_the_body_is_over() -> None:
    async with listening(sink := Taking(room=1, patience=100_000)) as server, server.client() as client:
        client.send(HEAD + b"content-length: 90000000\r\n\r\n" + b"x" * 1000)
        await until(lambda: sink.got)
        client.send(b"x" * 200_000)
        sink.make_room()
        said = await client.answer()
        assert (said.status, said.named["connection"], sink.ended) == (422, "close", "unwanted")
        assert await client.is_closed()


class Long(Echo):
    """Answers with many pieces, each after the client has taken the one before."""

    written = 0

    def screen(self, head: RequestHead) -> Verdict | Sink | None:
        return lambda reply: asyncio.get_running_loop().create_task(self._send(reply))

    async def _send(self, reply: Reply) -> None:
        try:
            reply.start(200, b"", 400 * 65536)
            for _ in range(400):
                reply.write(b"x" * 65536)
                self.written += 65536
                await reply.drained()
            reply.end()
        except asyncio.CancelledError:
            self.waiting.append((Waiting(), reply))
            raise


@on_uvloop
async def test_a_long_answer_is_made_as_fast_as_the_client_takes_it() -> None:
    front = Long()
    async with Listening(front=front) as server, server.client(receive_buffer=65536) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(b"GET /long HTTP/1.1\r\nhost: a\r\n\r\n")
        await until(lambda: front.written)
        await asyncio.sleep(0.1)
        assert front.written < 20_000_000
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        said = await client.answer()
        assert said.whole and len(said.body) == 400 * 65536


@on_uvloop
async def test_a_client_that_leaves_ends_the_making_of_a_long_answer() -> None:
    front = Long()
    async with Listening(front=front) as server, server.client(receive_buffer=65536) as client:
        client.send(b"GET /long HTTP/1.1\r\nhost: a\r\n\r\n")
        await until(lambda: front.written)
        client.reset()
        await until(lambda: front.waiting)
        assert front.waiting[0][1].gone


def test_an_intake_that_is_over_resumes_nothing() -> None:
    called: list[bool] = []
    sink = Taking(room=1)
    intake = Intake(sink, parse_head(HEAD + b"content-length: 9\r\n\r\n", 10, 100), lambda: called.append(True))
    assert intake.feed(b"abc") is None and intake.is_full
    sink.resume()
    sink.resume()
    assert called == [True] and not intake.is_full
    intake.feed(b"abc")
    intake.over()
    sink.resume()
    assert called == [True]


def test_a_body_that_says_it_is_too_long_never_begins() -> None:
    with pytest.raises(WireError):
        Intake(Taking(limit=8), parse_head(HEAD + b"content-length: 9\r\n\r\n", 10, 100), lambda: None)
