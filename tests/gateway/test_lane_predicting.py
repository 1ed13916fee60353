"""A pool whose policy predicts: when it has a predictor, what that is told, and what the client and the record get."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from gateway.config.types import Config, Pick, Pool
from gateway.core.predictor import Predictor
from gateway.priors import prior_of
from tests.gateway.test_app import Gated
from tests.support.client import chat, post
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop, until
from tests.support.upstream import SSE_HEAD, Line, Received, Upstream, answer, chunk, sse, whole

TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":40}}'
STREAM = whole(sse(*[TOKEN] * 20, USAGE, b"data: [DONE]"))
PLAIN = whole(answer(b'{"choices":[{}],"usage":{"prompt_tokens":9,"completion_tokens":40}}'))
PREDICTING, PROFILE = Pick("predicted_latency"), "h100_llama-3.1-8b_bf16_tp1"


def predictor_of(gateway: Running) -> Predictor:
    found = gateway.gateway.proxy.lanes["p"].fleet.predictor
    assert found is not None
    return found


async def slow_stream(line: Line, _: Received) -> bool:
    """A first token, and a moment later the rest."""
    await line.send(SSE_HEAD + chunk(TOKEN + b"\n\n"))
    await asyncio.sleep(0.01)
    await line.send(chunk((TOKEN + b"\n\n") * 19 + USAGE + b"\n\ndata: [DONE]\n\n") + b"0\r\n\r\n")
    return True


def predicting(up: Upstream, **more: Any) -> Config:
    return config(pool([up], **{"pick": PREDICTING, **more}))


@on_uvloop
async def test_a_policy_that_does_not_predict_has_no_predictor_and_promises_nothing() -> None:
    async with Upstream(STREAM) as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        assert gateway.gateway.proxy.lanes["p"].fleet.predictor is None
        assert "x-headway-predicted-ttft-ms" not in (await client.ask(body=chat(stream=True))).named


@on_uvloop
async def test_a_named_profile_is_what_it_starts_from() -> None:
    async with Upstream() as up, Running(predicting(up, profile=PROFILE)) as gateway:
        assert predictor_of(gateway).prior == prior_of(PROFILE)
    async with Upstream() as up, Running(predicting(up)) as gateway:
        assert not predictor_of(gateway).prior.sure


@on_uvloop
async def test_a_stream_teaches_it_and_its_forecast_is_in_the_reply() -> None:
    async with Upstream(slow_stream) as up, Running(predicting(up)) as gateway, gateway.client() as client:
        said = await client.ask(body=chat(stream=True))
        assert int(said.named["x-headway-predicted-ttft-ms"]) > 0
        await gateway.settled(1)
        predictor = predictor_of(gateway)
        assert predictor.learnt.ttft.samples == 1 and predictor.learnt.tpot.samples == 1
        assert predictor.books.context[0] == 0.0 and predictor.books.queue[0] == 0.0


@pytest.mark.parametrize("body", [chat(), chat(stream=True)], ids=["asked for plain", "asked for a stream"])
def test_a_plain_answer_shows_no_first_token_and_teaches_none(body: bytes) -> None:
    @on_uvloop
    async def run() -> None:
        async with Upstream(PLAIN) as up, Running(predicting(up)) as gateway, gateway.client() as client:
            assert (await client.ask(body=body)).status == 200
            await gateway.settled(1)
            assert predictor_of(gateway).learnt.ttft.samples == predictor_of(gateway).learnt.tpot.samples == 0

    run()


@on_uvloop
async def test_several_answers_in_one_stream_teach_no_pace() -> None:
    async with Upstream(slow_stream) as up, Running(predicting(up)) as gateway, gateway.client() as client:
        await client.ask(body=chat(stream=True, n=4))
        await gateway.settled(1)
        assert predictor_of(gateway).learnt.tpot.samples == 0 and gateway.last.completion_tokens == 40.0


async def plain_in_pieces(line: Line, _: Received) -> bool:
    """A plain answer that takes its time, where a stream was asked for."""
    said = answer(b'{"choices":[{}],"usage":{"prompt_tokens":9,"completion_tokens":40}}')
    await line.send(said[:-20])
    await asyncio.sleep(0.01)
    await line.send(said[-20:])
    return True


@on_uvloop
async def test_the_pieces_of_a_plain_answer_are_no_pace() -> None:
    async with Upstream(plain_in_pieces) as up, Running(predicting(up)) as gateway, gateway.client() as client:
        assert (await client.ask(body=chat(stream=True))).status == 200
        await gateway.settled(1)
        assert gateway.last.completion_tokens == 40.0 and math.isnan(gateway.last.tpot)


@on_uvloop
async def test_a_client_that_reads_slowly_teaches_no_pace() -> None:
    long = b'data: {"choices":[{"delta":{"content":"' + b"a" * 100_000 + b'"}}]}\n\n'

    async def much(line: Line, _: Received) -> bool:
        await line.send(SSE_HEAD + chunk(TOKEN + b"\n\n"))
        for _ in range(200):
            await line.send(chunk(long))
        await line.send(chunk(USAGE + b"\n\ndata: [DONE]\n\n") + b"0\r\n\r\n")
        return True

    async with Upstream(much) as up, Running(predicting(up)) as gateway, gateway.client() as client:
        client.send(post(chat(stream=True)))
        await client.head()
        await until(lambda: any(relay.reply.paused for relay in gateway.gateway.proxy.lanes["p"].relays))
        assert (await client._chunks())[1]
        await gateway.settled(1)
        predictor = predictor_of(gateway)
        assert gateway.last.ended == "complete" and predictor.learnt.ttft.samples == 1
        assert predictor.learnt.tpot.samples == 0


@on_uvloop
async def test_several_answers_to_one_request_are_not_one_long_answer() -> None:
    async with Upstream(PLAIN) as up, Running(predicting(up)) as gateway, gateway.client() as client:
        assert (await client.ask(body=chat(n=20))).status == 200
        await gateway.settled(1)
        assert predictor_of(gateway).mean_output == pytest.approx(200.0 + 0.02 * (2.0 - 200.0))


@pytest.mark.parametrize(
    ("change", "kept"),
    [({}, True), ({"keepalive": 3.0}, True), ({"pick": Pick("predicted_latency", {"harm": 0.5})}, True),
     ({"profile": PROFILE}, False), ({"engine": "vllm"}, False)],
    ids=["nothing", "something else", "the policy's options", "the profile", "the engine"],
)  # fmt: skip
def test_what_was_learnt_outlives_a_reload_as_long_as_the_servers_are_of_the_same_kind(
    change: dict[str, object], kept: bool
) -> None:
    @on_uvloop
    async def run() -> None:
        async with Upstream() as up, Running(predicting(up)) as gateway:
            before = predictor_of(gateway)
            gateway.next_config = predicting(up, **change)
            assert await gateway.gateway.reload() == (True, [])
            assert (predictor_of(gateway) is before) is kept

    run()


@on_uvloop
async def test_it_comes_and_goes_with_the_policy_while_requests_are_in_flight() -> None:
    def with_pick(up: Upstream, pick: Pick) -> Pool:
        return pool([up], pick=pick)

    gates = [Gated(), Gated()]
    picks = [Pick("least_tokens"), PREDICTING]
    async with Upstream(gates[0], gates[1]) as up, Running(config(with_pick(up, picks[0]))) as gateway:
        async with gateway.client() as one, gateway.client() as two:
            one.send(post(chat(stream=True)))
            await one.head()
            gateway.next_config = config(with_pick(up, picks[1]))
            assert await gateway.gateway.reload() == (True, [])
            two.send(post(chat(stream=True)))
            await two.head()
            gates[0].gate.set()
            assert (await one._chunks())[1]
            assert predictor_of(gateway).books.context[0] >= 0.0
            gateway.next_config = config(with_pick(up, picks[0]))
            assert await gateway.gateway.reload() == (True, [])
            assert gateway.gateway.proxy.lanes["p"].fleet.predictor is None
            gates[1].gate.set()
            assert (await two._chunks())[1]
        await gateway.settled(2)


@on_uvloop
async def test_an_unknown_profile_refuses_the_reload_and_changes_nothing() -> None:
    async with Upstream() as up, Running(predicting(up)) as gateway:
        gateway.next_config = predicting(up, profile="h100_nothing")
        fine, problems = await gateway.gateway.reload()
        assert not fine and "h100" in problems[0]
        assert gateway.gateway.config.pools["p"].profile is None


@on_uvloop
async def test_a_try_that_failed_leaves_nothing_in_the_books() -> None:
    async with (
        Upstream(whole(answer(b"oops", 500))) as bad,
        Upstream(STREAM) as good,
        Running(config(pool([bad, good], pick=PREDICTING))) as gateway,
        gateway.client() as client,
    ):
        for _ in range(4):
            assert (await client.ask(body=chat(stream=True))).status == 200
        await gateway.settled(4)
        books = predictor_of(gateway).books
        assert not books.queue.any() and not books.context.any()
