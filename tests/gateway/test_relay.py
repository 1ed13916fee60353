"""One try seen from both sockets: back-pressure, what is counted while it runs, and streams of every spelling."""

from __future__ import annotations

import asyncio

import pytest

from gateway.config.types import Timeouts, model_to
from tests.support.client import chat, post
from tests.support.gateway import Running, config, limits, pool
from tests.support.loop import on_uvloop, until
from tests.support.upstream import SSE_HEAD, Behaviour, Line, Received, Upstream, answer, bytewise, chunk, sse, whole

TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}'
USAGE = (
    b'data: {"choices":[],"usage":'
    b'{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}'
)


class Endless:
    """A stream that never ends, and how much of it was taken."""

    def __init__(self, first: bytes, piece: bytes) -> None:
        self.sent = 0
        self._first = first
        self._piece = piece

    async def __call__(self, line: Line, _: Received) -> bool:
        await line.send(self._first)
        while True:
            await line.send(self._piece)
            self.sent += len(self._piece)

    async def standstill(self) -> int:
        """How much had been taken when nothing more was."""
        before = -1
        while before != self.sent or not self.sent:
            before = self.sent
            await asyncio.sleep(0.1)
        return self.sent


@pytest.mark.parametrize("stream", [True, False])
def test_a_slow_reader_stops_the_upstream_being_read_and_gets_every_byte(stream: bool) -> None:
    @on_uvloop
    async def run() -> None:
        event = b'data: {"choices":[{"text":"' + b"x" * 30_000 + b'"}]}\n\n'
        head = SSE_HEAD if stream else SSE_HEAD.replace(b"text/event-stream", b"application/json")
        source = Endless(head, chunk(event))
        async with Upstream(source) as up, Running(config(pool([up]))) as gateway:
            async with gateway.client(receive_buffer=8192) as client:
                client.send(post(chat(stream=stream)))
                taken = await source.standstill()
                assert taken < 16 << 20
                assert all(c.transport.get_write_buffer_size() < 1 << 20 for c in gateway.gateway.server.connections)
                await client.head()
                for _ in range(200):
                    size = int(await client.reader.readuntil(b"\r\n"), 16)
                    data = await client.reader.readexactly(size + 2)
                    assert data.count(event) * len(event) >= size - 2 * len(event)
                await until(lambda: source.sent > taken, "more from upstream")
            await asyncio.wait_for(up.lines[-1].closed.wait(), 2.0)
            await gateway.settled(1)

    run()


@on_uvloop
async def test_a_reader_that_takes_nothing_at_all_is_dropped_with_its_upstream_request() -> None:
    source = Endless(SSE_HEAD, chunk(TOKEN + b"\n\n" + b": " + b"x" * 30_000 + b"\n\n"))
    # The engine is not to blame while its reader stalls, so its own time-outs do not run.
    times = Timeouts(first_token=0.5, between_tokens=0.3)
    async with Upstream(source) as up:
        made = config(pool([up], timeouts=times), limits=limits(write_stall=0.8))
        async with Running(made) as gateway, gateway.client(receive_buffer=8192) as client:
            client.send(post(chat(stream=True)))
            await asyncio.wait_for(up.arrived.wait(), 5.0)
            await asyncio.wait_for(up.lines[-1].closed.wait(), 10.0)
            await gateway.settled(1)
            assert gateway.last.ended == "client_gone"


@pytest.mark.parametrize("play", [whole, bytewise])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_streams_pass_byte_for_byte_whatever_their_line_ends_and_pieces(play: type, end: bytes) -> None:
    @on_uvloop
    async def run() -> None:
        body = (
            b"\xef\xbb\xbf: c"
            + end * 2
            + b"".join(e + end * 2 for e in (TOKEN, b"id: 1" + end + TOKEN, b"retry: 5", USAGE, b"data: [DONE]"))
        )
        async with Upstream(play(SSE_HEAD + chunk(body) + b"0\r\n\r\n")) as up, Running(config(pool([up]))) as gateway:
            async with gateway.client() as client:
                said = await client.ask(body=chat(stream=True))
            assert said.body == body and said.whole
            await gateway.settled(1)
            assert (gateway.last.prompt_tokens, gateway.last.cached_tokens, gateway.last.completion_tokens) == (
                9.0,
                4.0,
                2.0,
            )
            assert gateway.last.ttft >= 0.0

    run()


@on_uvloop
async def test_an_event_of_two_mebibytes_passes() -> None:
    big = b'data: {"choices":[{"delta":{"content":"' + b"x" * (2 << 20) + b'"}}]}'
    async with Upstream(whole(sse(TOKEN, big, TOKEN))) as up, Running(config(pool([up]))) as gateway:
        async with gateway.client() as client:
            said = await client.ask(body=chat(stream=True))
        assert said.body == b"\n\n".join([TOKEN, big, TOKEN, b""]) and said.whole
    async with Upstream(whole(sse(big))) as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        assert (await client.ask(body=chat(stream=True))).body == big + b"\n\n"


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (answer(b""), b""),
        (answer(b"{}" * 500_000), b"{}" * 500_000),
        (SSE_HEAD.replace(b"text/event-stream", b"audio/mpeg") + chunk(b"\x00\xff") + chunk(b"\x01") + b"0\r\n\r\n",
         b"\x00\xff\x01"),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n\x1f\x8b\x08", b"\x1f\x8b\x08"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (sse(), b""),
        (sse(b": only a comment"), b": only a comment\n\n"),
        (SSE_HEAD + chunk(b"data: no blank line") + b"0\r\n\r\n", b"data: no blank line"),
    ],
    ids=["empty", "1 MB", "chunked audio", "compressed", "204", "empty stream", "comment", "unfinished event"],
)  # fmt: skip
def test_any_good_answer_passes_whole(raw: bytes, body: bytes) -> None:
    @on_uvloop
    async def run() -> None:
        async with Upstream(whole(raw)) as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
            for _ in range(2):
                said = await client.ask()
                assert (said.body, said.whole) == (body, True)
            assert up.requests[0].connection == up.requests[1].connection
            await gateway.settled(2)
            assert [record.ended for record in gateway.records.all] == ["complete"] * 2

    run()


@on_uvloop
async def test_a_plain_answer_to_a_stream_request_and_a_stream_to_a_plain_one_pass() -> None:
    async with Upstream(whole(answer(b"{}")), whole(sse(TOKEN))) as up, Running(config(pool([up]))) as gateway:
        async with gateway.client() as client:
            assert (await client.ask(body=chat(stream=True))).body == b"{}"
            assert (await client.ask(body=chat())).body == TOKEN + b"\n\n"
        await gateway.settled(2)


@on_uvloop
async def test_tokens_in_flight_are_estimated_anew_while_a_stream_runs_and_are_zero_after_it() -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def talk(line: Line, _: Received) -> bool:
        await line.send(SSE_HEAD + chunk(TOKEN + b"\n\n"))
        await started.wait()
        await line.send(chunk((TOKEN + b"\n\n") * 40))
        await go.wait()
        await line.send(b"0\r\n\r\n")
        return True

    async with Upstream(talk) as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        client.send(post(chat(stream=True)))
        await client.head()
        started.set()
        fleet = gateway.gateway.fleets()["p"]
        before = 200.0  # what an answer of an unknown model is taken to be
        await until(lambda: 0.0 < fleet.output.sum() != before, "progress")
        assert fleet.ours.sum() == 1.0 and fleet.prefill.sum() == 0.0 and fleet.decoding.sum() == 1.0
        go.set()
        await gateway.settled(1)


@on_uvloop
async def test_an_http_1_0_client_reads_a_stream_to_its_end() -> None:
    async with (
        Upstream(whole(sse(TOKEN, b"data: [DONE]"))) as up,
        Running(config(pool([up]))) as gateway,
        gateway.client() as client,
    ):
        client.send(post(chat(stream=True), version="1.0"))
        said = await client.answer()
        assert said.body == TOKEN + b"\n\ndata: [DONE]\n\n" and "transfer-encoding" not in said.named
        assert await client.is_closed()


@on_uvloop
async def test_a_response_in_pieces_reaches_the_client_piece_by_piece() -> None:
    gates = [asyncio.Event() for _ in range(3)]

    async def stepwise(line: Line, _: Received) -> bool:
        await line.send(SSE_HEAD)
        for gate in gates:
            await gate.wait()
            await line.send(chunk(TOKEN + b"\n\n"))
        await line.send(b"0\r\n\r\n")
        return True

    stepwise_behaviour: Behaviour = stepwise
    async with Upstream(stepwise_behaviour) as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        client.send(post(chat(stream=True)))
        for number, gate in enumerate(gates):
            gate.set()
            if number == 0:
                await client.head()
            await asyncio.wait_for(client.reader.readuntil(TOKEN + b"\n\n\r\n"), 2.0)


@on_uvloop
async def test_an_answer_that_must_be_seen_whole_may_not_be_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.relay._WHOLE", 1000)
    renamed = model_to("m", "p", as_="theirs")
    async with (
        Upstream(whole(answer(b'{"x":"' + b"y" * 2000 + b'"}'))) as up,
        Running(config(pool([up]), models=(renamed,))) as gateway,
        gateway.client() as client,
    ):
        client.send(post())
        assert (await client.answer()).status == 502
        await gateway.settled()
