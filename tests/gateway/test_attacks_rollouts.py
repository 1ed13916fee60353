"""What clients and failing servers could do to rules, rollouts and adapters."""

from __future__ import annotations

import json

import pytest

from gateway.config.types import Model, model_to
from gateway.peek import peek
from tests.support.client import Answer, chat
from tests.support.gateway import Running, config, one, pool
from tests.support.loop import on_uvloop
from tests.support.upstream import Upstream, answer, whole

GOOD = answer(b'{"model":"m","choices":[{"finish_reason":"stop"}],"usage":{"completion_tokens":5}}')


async def ask(path: str, body: bytes, model: Model) -> Answer:
    async with Upstream(whole(GOOD)) as up, Running(config(pool([up]), models=[model])) as gateway:
        async with gateway.client() as client:
            said = await client.ask(path, body)
        await gateway.settled()
        return said


# --- what does not fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["9" * 400, "-1000000000", "-1", "0"])
def test_no_limit_of_an_answer_is_too_large_for_a_float_or_below_one(said: str) -> None:
    limit = peek(b'{"model":"m","max_tokens":%b}' % said.encode()).limit
    assert limit is None or 0.0 < float(limit) < 1e16


@on_uvloop
async def test_an_absurd_limit_is_the_model_servers_to_refuse_and_no_bug() -> None:
    body = b'{"model":"m","max_tokens":%b,"messages":[]}' % (b"9" * 400)
    said, _ = await one(b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-length: %d\r\n\r\n%b"
                        % (len(body), body), upstream=Upstream(whole(GOOD)))  # fmt: skip
    assert said.status == 200


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/embeddings", {"input": ["word " * 50] * 40}),
        ("/v1/completions", {"prompt": ["word " * 50] * 40}),
        ("/v1/completions", {"prompt": [12345] * 90}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "word " * 2000}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 50_000}}]}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [
            {"type": "input_audio", "input_audio": {"data": "A" * 50_000, "format": "wav"}}]}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "\u6f22" * 90}]}),
    ],
)  # fmt: skip
@on_uvloop
async def test_what_may_fit_after_all_is_not_refused_for_its_bytes(path: str, fields: dict[str, object]) -> None:
    body = json.dumps({"model": "m", **fields}).encode()
    assert (await ask(path, body, model_to("m", "p", max_context=100))).status == 200


@on_uvloop
async def test_a_text_that_cannot_fit_is_still_refused() -> None:
    body = chat("m", messages=[{"role": "user", "content": "word " * 2000}])
    said = await ask("/v1/chat/completions", body, model_to("m", "p", max_context=100))
    assert said.status == 400 and said.error["code"] == "context_length_exceeded"
