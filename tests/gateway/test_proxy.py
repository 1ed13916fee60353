"""The life of a request when model servers fail: who is tried, what the client gets, and that nothing stays counted."""

import asyncio

import pytest

from gateway.config.types import Eject, Retry, Timeouts
from tests.support.client import Answer, chat, post
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop
from tests.support.ports import free_port
from tests.support.upstream import (
    OK,
    SSE_HEAD,
    Behaviour,
    Line,
    Received,
    Upstream,
    answer,
    chunk,
    cut,
    hang,
    pieces,
    reset,
    sse,
    whole,
)

TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}'
DONE = b"data: [DONE]"
ERROR = b'data: {"error":{"message":"engine died","type":"x","code":500}}'
STREAM = whole(sse(TOKEN, TOKEN, DONE))
GONE_500 = answer(b'{"detail":"cannot schedule new futures after shutdown"}', 500)


async def ask_two(first: Behaviour, second: Behaviour = OK, *, stream: bool = False, engine: str = "http",
                  timeouts: Timeouts | None = None) -> tuple[Answer, list[int], Running]:  # fmt: skip
    """One request to a pool of two, the first of which is asked first. Afterwards nothing is in flight."""
    async with Upstream(first) as one, Upstream(second) as two:
        made = pool([one, two], engine=engine, timeouts=timeouts or Timeouts())
        async with Running(config(made)) as gateway, gateway.client() as client:
            said = await client.ask(body=chat(stream=stream))
            await gateway.settled(1)
            return said, [one.posts, two.posts], gateway


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "failure",
    [
        cut(),
        reset(),
        cut(b"HTTP/1.1 200 OK\r\ncontent-le"),
        cut(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        whole(answer(b"oops", 500)),
        whole(answer(b"oops", 503)),
        whole(answer(b"", 302, b"location: http://169.254.169.254/")),
        whole(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        whole(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nab"),
        whole(b"HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 2\r\n\r\nab"),
        whole(b"garbage\r\n\r\n"),
        whole(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"),
    ],
    ids=["fin", "rst", "half-head", "head-only", "500", "503", "302", "cl-te", "cl-cl", "nul", "garbage", "101"],
)  # fmt: skip
def test_a_try_that_fails_before_the_answer_started_is_repeated_elsewhere(failure: Behaviour, stream: bool) -> None:
    @on_uvloop
    async def run() -> None:
        said, posts, gateway = await ask_two(failure, STREAM if stream else OK, stream=stream)
        assert (said.status, said.whole, posts) == (200, True, [1, 1])
        assert (gateway.last.tries, gateway.last.ended) == (2, "complete")
        assert b"oops" not in said.body

    run()


@on_uvloop
async def test_a_refused_connection_is_no_client_error_and_the_endpoint_is_left_at_once() -> None:
    async with Upstream() as alive:
        dead = f"http://127.0.0.1:{free_port()}"
        async with Running(config(pool([dead, alive]))) as gateway, gateway.client() as client:
            for _ in range(10):
                assert (await client.ask()).status == 200
            await gateway.settled(10)
            assert sum(record.tries - 1 for record in gateway.records.all) <= 2


@on_uvloop
async def test_when_every_endpoint_is_known_to_be_down_the_answer_is_503_no_endpoint() -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    async with Running(config(pool([dead]))) as gateway, gateway.client() as client:
        for _ in range(4):
            said = await client.ask()
        assert (said.status, said.error["code"]) == (503, "no_endpoint")
        assert said.named["x-headway-reason"] == "no_endpoint" and int(said.named["retry-after"]) >= 1
        await gateway.settled()


@on_uvloop
async def test_no_token_in_time_is_tried_elsewhere_and_then_504() -> None:
    times = Timeouts(first_token=0.3)
    said, posts, _ = await ask_two(hang(SSE_HEAD + chunk(b": ping\n\n")), STREAM, stream=True, timeouts=times)
    assert (said.status, posts) == (200, [1, 1])
    said, posts, gateway = await ask_two(hang(), hang(SSE_HEAD), stream=True, timeouts=times)
    assert (said.status, posts, gateway.last.ended) == (504, [1, 1], "timeout")
    assert said.error["code"] == "upstream_timeout"


@on_uvloop
async def test_a_plain_answer_is_bound_by_total_and_not_tried_again() -> None:
    said, posts, _ = await ask_two(hang(), timeouts=Timeouts(first_token=0.05, between_tokens=0.05, total=0.6))
    assert (said.status, posts) == (504, [1, 0])


@on_uvloop
async def test_a_busy_vllm_is_tried_elsewhere_and_not_held_against() -> None:
    busy = whole(answer(b'{"error":{"message":"The engine is currently busy, retry","code":503}}', 503))
    said, posts, gateway = await ask_two(busy, engine="vllm")
    assert (said.status, posts) == (200, [1, 1])
    fleet = gateway.gateway.fleets()["p"]
    assert {fleet.health(row).state.value for row, _ in fleet.members()} == {"healthy"}


@on_uvloop
async def test_the_500_of_a_draining_vllm_means_that_it_leaves() -> None:
    said, posts, gateway = await ask_two(whole(GONE_500), engine="vllm")
    assert (said.status, posts) == (200, [1, 1])
    fleet = gateway.gateway.fleets()["p"]
    assert sorted(fleet.health(row).state.value for row, _ in fleet.members()) == ["ejected", "healthy"]


@pytest.mark.parametrize("status", [400, 404, 413, 422, 429])
def test_the_engines_own_4xx_passes_unchanged(status: int) -> None:
    @on_uvloop
    async def run() -> None:
        body = b'{"error": {"message" :"theirs","code":"context_length_exceeded"}}'
        said, posts, gateway = await ask_two(whole(answer(body, status, b"retry-after: 7")))
        assert (said.status, said.body, posts, said.named["retry-after"]) == (status, body, [1, 0], "7")
        assert gateway.last.ended == "complete"

    run()


@on_uvloop
async def test_when_no_try_is_left_the_last_failure_is_the_answer_in_the_engines_words() -> None:
    said, posts, gateway = await ask_two(cut(), whole(answer(b'{"error":"theirs"}', 500, b"set-cookie: a=b")))
    assert (said.status, said.body, posts) == (500, b'{"error":"theirs"}', [1, 1])
    assert "set-cookie" not in said.named and gateway.last.ended == "upstream_failed"
    said, posts, _ = await ask_two(whole(answer(b"full", 503, b"retry-after: 9")), cut())
    assert (said.status, said.error["code"], posts) == (502, "upstream_failed", [1, 1])


@on_uvloop
async def test_tries_counts_dispatches() -> None:
    async with Upstream(cut()) as a, Upstream(cut()) as b, Upstream(cut()) as c, Upstream() as d:
        for tries, asked in ((1, 1), (2, 2), (3, 3), (4, 4)):
            for up in (a, b, c, d):
                up.requests.clear()
            made = pool([a, b, c, d], retry=Retry(tries=tries), eject=Eject(after=50))
            async with Running(config(made)) as gateway, gateway.client() as client:
                said = await client.ask()
                await gateway.settled(1)
            assert [up.posts for up in (a, b, c, d)] == [1] * asked + [0] * (4 - asked)
            assert said.status == (200 if tries == 4 else 502)


@on_uvloop
async def test_a_bad_day_is_not_made_worse_further_tries_have_a_budget() -> None:
    async with Upstream(whole(answer(b"x", 500))) as one, Upstream(whole(answer(b"x", 500))) as two:
        made = pool([one, two], retry=Retry(budget=0.1), eject=Eject(after=10_000))
        async with Running(config(made)) as gateway, gateway.client() as client:
            for _ in range(200):
                assert (await client.ask()).status == 500
            await gateway.settled(200)
            assert 200 <= one.posts + two.posts <= 200 + 10 + 20


@on_uvloop
async def test_an_error_event_before_the_start_is_tried_elsewhere() -> None:
    early = whole(sse(b": ping", ERROR, DONE))
    said, posts, _ = await ask_two(early, STREAM, stream=True)
    assert (said.status, said.body, posts) == (200, b"\n\n".join([TOKEN, TOKEN, DONE, b""]), [1, 1])
    said, posts, gateway = await ask_two(early, early, stream=True)
    assert (said.status, said.error["message"], posts) == (500, "engine died", [1, 1])
    assert gateway.last.ended == "error_event"


@on_uvloop
async def test_an_error_event_that_blames_the_client_is_the_answer() -> None:
    blame = whole(sse(b'data: {"error":{"message":"too long","code":400}}', DONE))
    said, posts, _ = await ask_two(blame, STREAM, stream=True)
    assert (said.status, said.error["message"], posts) == (400, "too long", [1, 0])


@pytest.mark.parametrize("in_one_read", [True, False])
def test_an_error_event_after_the_start_is_forwarded_once_and_the_stream_does_not_end_whole(in_one_read: bool) -> None:
    @on_uvloop
    async def run() -> None:
        parts = (SSE_HEAD + chunk(TOKEN + b"\n\n"), chunk(ERROR + b"\n\n") + chunk(DONE + b"\n\n") + b"0\r\n\r\n")
        said, posts, gateway = await ask_two(whole(b"".join(parts)) if in_one_read else pieces(*parts), stream=True)
        assert (said.status, said.body, posts) == (200, TOKEN + b"\n\n" + ERROR + b"\n\n", [1, 0])
        assert not said.whole and gateway.last.ended == "error_event"

    run()


@pytest.mark.parametrize("ending", [cut, reset], ids=["fin", "rst"])
def test_a_stream_that_breaks_gets_one_error_event_and_does_not_end_whole(ending: type) -> None:
    @on_uvloop
    async def run() -> None:
        said, posts, gateway = await ask_two(ending(SSE_HEAD + chunk(TOKEN + b"\n\n")), stream=True)
        assert said.status == 200 and said.body.startswith(TOKEN + b'\n\ndata: {"error":') and posts == [1, 0]
        assert said.body.count(b"error") >= 1 and said.body.endswith(b"\n\n") and b"DONE" not in said.body
        assert not said.whole and gateway.last.ended == "upstream_failed"

    run()


@on_uvloop
async def test_a_stream_that_breaks_inside_an_event_closes_that_event_first() -> None:
    said, _, _ = await ask_two(cut(SSE_HEAD + chunk(TOKEN + b"\n\n" + b'data: {"cho')), stream=True)
    assert said.body.startswith(TOKEN + b'\n\ndata: {"cho\n\ndata: {"error":') and not said.whole


@on_uvloop
async def test_a_stream_that_falls_silent_gets_an_error_event_after_between_tokens() -> None:
    times = Timeouts(between_tokens=0.3)
    said, _, gateway = await ask_two(hang(SSE_HEAD + chunk(TOKEN + b"\n\n")), stream=True, timeouts=times)
    assert b'"code":"upstream_timeout"' in said.body and not said.whole and gateway.last.ended == "timeout"


@on_uvloop
async def test_a_plain_answer_that_breaks_is_cut_and_never_padded() -> None:
    for raw in (answer(b"x" * 100)[:-40], SSE_HEAD.replace(b"text/event-stream", b"text/plain") + chunk(b"abc")):
        said, posts, _ = await ask_two(cut(raw))
        assert (said.status, said.whole, posts) == (200, False, [1, 0])


@on_uvloop
async def test_the_same_endpoint_is_used_again_when_a_reused_connection_closes_before_any_byte() -> None:
    async with Upstream(OK, cut(), OK) as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        assert [(await client.ask()).status for _ in range(2)] == [200, 200]
        await gateway.settled(2)
        assert [request.connection - up.requests[0].connection for request in up.requests] == [0, 0, 1]
        assert [record.tries for record in gateway.records.all] == [1, 1]
    # A fresh connection that closes is a failed try, and so is a reused one that had begun to answer.
    async with Upstream(cut()) as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        assert (await client.ask()).status == 502 and up.posts == 1
    half = b"HTTP/1.1 200 OK\r\ncon"
    async with Upstream(OK, cut(half)) as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        assert [(await client.ask()).status for _ in range(2)] == [200, 502] and up.posts == 2


@on_uvloop
async def test_a_server_that_closes_idle_connections_at_any_moment_costs_no_request() -> None:
    async def answer_then_close(line: Line, request: Received) -> bool:
        await line.send(answer(b"{}"))
        for _ in range(int.from_bytes(request.body[-8:], "big") % 5):
            await asyncio.sleep(0)
        return False

    async with Upstream(answer_then_close) as up, Running(config(pool([up]))) as gateway:

        async def ask_on_and_on(gap: float) -> list[int]:
            async with gateway.client() as client:
                statuses = []
                for number in range(100):
                    statuses.append((await client.ask(body=chat(user=str(number)))).status)
                    await asyncio.sleep(gap)
                return statuses

        found = await asyncio.gather(*(ask_on_and_on(gap) for gap in (0.0, 0.0, 0.001, 0.002)))
        assert {status for statuses in found for status in statuses} == {200}
        await gateway.settled(400)
        assert {record.tries for record in gateway.records.all} == {1}


@on_uvloop
async def test_the_head_is_held_until_the_first_event_that_is_neither_comment_nor_error() -> None:
    go = asyncio.Event()

    async def slow(line: Line, request: Received) -> bool:
        await line.send(SSE_HEAD + chunk(b": one\n\n: two\n") + chunk(b"\n"))
        await go.wait()
        await line.send(chunk(b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'))
        await line.send(chunk(TOKEN + b"\n\n") + b"0\r\n\r\n")
        return True

    async with Upstream(slow) as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        client.send(post(chat(stream=True)))
        await up.arrived.wait()
        await asyncio.sleep(0.1)
        assert not client.reader._buffer  # type: ignore[attr-defined]
        go.set()
        said = await client.answer()
        assert said.whole and said.body.startswith(b": one\n\n: two\n\ndata: ") and said.body.endswith(TOKEN + b"\n\n")


@on_uvloop
async def test_what_was_held_is_not_lost_when_the_start_and_an_error_come_in_one_read() -> None:
    half, rest = TOKEN[:20], TOKEN[20:] + b"\n\n" + ERROR + b"\n\n"
    said, _, _ = await ask_two(pieces(SSE_HEAD + chunk(b": c\n\n" + half), chunk(rest) + b"0\r\n\r\n"), stream=True)
    assert said.body == b": c\n\n" + half + rest and not said.whole
