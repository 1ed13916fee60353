"""What the front changes on the way in and out: a model's name, and usage that only the gateway asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.config.types import ModelFrom, PathRule, model_to
from tests.support.client import Answer, chat, post
from tests.support.gateway import Running, config, one, pool
from tests.support.loop import on_uvloop
from tests.support.upstream import Upstream, answer, sse, whole

ALIASED = model_to("real", "p", aliases=("alias", "gpt-4o-mini"), patterns=("llama-*",))


@on_uvloop
async def test_an_alias_is_rewritten_on_the_way_in_and_back_on_the_way_out() -> None:
    body = b'{"messages": [ {"content":"model: alias"} ],"model" : "alias","temperature":1.0}'
    up = Upstream(whole(answer(b'{"id":"x","model":"real","choices":[{"text":"\\"model\\":\\"real\\""}]}')))
    said, gateway = await one(post(body), upstream=up, models=[ALIASED])
    sent = json.loads(up.requests[0].body)
    assert sent["model"] == "real" and b'[ {"content":"model: alias"} ]' in up.requests[0].body
    assert b'"temperature":1.0' in up.requests[0].body
    assert said.body == b'{"id":"x","model":"alias","choices":[{"text":"\\"model\\":\\"real\\""}]}'
    assert gateway.last.model == "real"


@pytest.mark.parametrize("name", ["alias", "llama-99"])
@pytest.mark.parametrize(
    ("path", "event"),
    [
        ("/v1/chat/completions", b'data: {"model":"real","choices":[{"delta":{"content":"a"}}]}'),
        ("/v1/messages", b'event: message_start\ndata: {"type":"message_start","message":{"model":"real"}}'),
        ("/v1/responses", b'event: response.created\ndata: {"type":"response.created","response":{"model": "real"}}'),
    ],
)
def test_every_event_of_a_stream_names_the_model_as_the_client_did(name: str, path: str, event: bytes) -> None:
    @on_uvloop
    async def run() -> None:
        up = Upstream(whole(sse(event, event, b"data: [DONE]")))
        said, _ = await one(post(chat(name, stream=True), path), upstream=up, models=[ALIASED])
        want = event.replace(b'"real"', json.dumps(name).encode())
        assert said.body == b"\n\n".join([want, want, b"data: [DONE]", b""]) and said.whole
        assert json.loads(up.requests[0].body)["model"] == "real"

    run()


@on_uvloop
async def test_as_is_what_the_endpoint_calls_it() -> None:
    up = Upstream(whole(answer(b'{"model":"org/real-v2"}')))
    said, _ = await one(post(chat("m")), upstream=up, models=[model_to("m", "p", as_="org/real-v2")])
    assert json.loads(up.requests[0].body)["model"] == "org/real-v2" and said.json() == {"model": "m"}


@on_uvloop
async def test_a_body_that_is_not_rewritten_passes_byte_for_byte() -> None:
    body = b' {"model":"real" , "x":[1.0e0,"\\u00e9"],\n"messages":[]}\r\n'
    reply = b'{"model": "real-2024","y":1.50}'
    up = Upstream(whole(answer(reply)))
    said, _ = await one(post(body), upstream=up, models=[ALIASED])
    assert up.requests[0].body == body and said.body == reply


@on_uvloop
async def test_a_model_is_found_in_path_header_form_or_default() -> None:
    rules = (PathRule("/predict", ModelFrom("default", "m")), PathRule("/h", ModelFrom("header", "x-model")))
    form = b'--X\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--X--\r\n'
    multipart = "Content-Type: multipart/form-data; boundary=X"
    for raw in (
        post(b"any \xff bytes", "/predict"),
        post(b"", "/h", "X-Model: m"),
        post({"inputs": []}, "/v2/models/m/infer"),
        post(form, "/v1/audio/transcriptions", multipart),
    ):
        up = Upstream()
        said, _ = await one(raw, upstream=up, paths=rules)
        assert said.status == 200 and up.requests[0].body == raw.partition(b"\r\n\r\n")[2]
    up = Upstream()
    aliased = form.replace(b"\r\nm\r\n", b"\r\nalias\r\n")
    await one(post(aliased, "/v1/audio/transcriptions", multipart), upstream=up, models=[ALIASED])
    assert up.requests[0].body == aliased.replace(b"\r\nalias\r\n", b"\r\nreal\r\n")
    up = Upstream()
    await one(post({}, "/v2/models/alias/infer?a=b"), upstream=up, models=[ALIASED])
    assert up.requests[0].target == b"/v2/models/real/infer?a=b"
    said, _ = await one(post(b"", "/h"), paths=rules)
    assert (said.status, said.error["code"]) == (400, "model_missing")


BY_HEADER = (PathRule("/h", ModelFrom("header", "X-Model")),)
BY_DEFAULT = (PathRule("/h", ModelFrom("default", "m")),)


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b' {"model": "m", "x":1.0}', b' {"model": "theirs", "x":1.0}'),
        (b'{"model": "another"}', b'{"model": "another"}'),
        (b'{"model": {"kind": "m"}}', b'{"model": {"kind": "m"}}'),
        (b'{"model": "m"', b'{"model": "m"'),
        (b'{"x": 1}', b'{"x": 1}'),
        (b"any \xff bytes", b"any \xff bytes"),
        (b"", b""),
    ],
)
@pytest.mark.parametrize("rules", [BY_HEADER, BY_DEFAULT])
def test_where_a_header_or_the_path_names_the_model_it_is_renamed_where_it_stands(
    body: bytes, sent: bytes, rules: tuple[PathRule, ...]
) -> None:
    """The server was told the client's spelling, and did not know it."""

    @on_uvloop
    async def run() -> None:
        up = Upstream(whole(answer(b'{"model":"theirs"}')))
        raw = post(body, "/h", "X-Model: m", "X-Other: m")
        said, _ = await one(raw, upstream=up, paths=rules, models=[model_to("m", "p", as_="theirs")])
        assert said.json() == {"model": "m"}
        (request,) = up.requests
        assert request.body == sent and request.named[b"x-other"] == b"m"
        assert request.named[b"x-model"] == (b"theirs" if rules is BY_HEADER else b"m")

    run()


@on_uvloop
async def test_an_alias_in_a_header_is_the_models_own_name_for_its_servers() -> None:
    up = Upstream()
    await one(post(b'{"model":"alias"}', "/h", "X-Model: alias"), upstream=up, paths=BY_HEADER, models=[ALIASED])
    assert up.requests[0].named[b"x-model"] == b"real" and up.requests[0].body == b'{"model":"real"}'


# --- usage --------------------------------------------------------------------------------------------------------

TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}'


async def ask_usage(
    body: bytes, path: str = "/v1/chat/completions", **settings: Any
) -> tuple[Answer, dict[str, Any], Running]:
    async with Upstream(whole(sse(TOKEN, USAGE, b"data: [DONE]"))) as up:
        made = pool([up], **{"engine": "vllm", "usage": "inject", **settings})
        async with Running(config(made)) as gateway, gateway.client() as client:
            client.send(post(body, path))
            said = await client.answer()
            await gateway.settled(1)
            return said, json.loads(up.requests[0].body), gateway


@on_uvloop
async def test_injected_usage_is_asked_for_counted_and_taken_out_again() -> None:
    said, sent, gateway = await ask_usage(chat(stream=True))
    assert sent["stream_options"]["include_usage"] is True
    assert said.body == TOKEN + b"\n\ndata: [DONE]\n\n" and said.whole
    assert (gateway.last.prompt_tokens, gateway.last.completion_tokens) == (5.0, 1.0)


@on_uvloop
async def test_usage_the_client_asked_for_stays() -> None:
    body = chat(stream=True, stream_options={"include_usage": True})
    said, sent, _ = await ask_usage(body)
    assert sent == json.loads(body) and USAGE in said.body


@on_uvloop
async def test_nothing_is_injected_where_it_is_not_asked_for_or_not_known() -> None:
    for path, settings in (("/v1/chat/completions", {"usage": "auto"}), ("/v1/chat/completions", {"engine": "http"}),
                           ("/v1/messages", {}), ("/v1/responses", {})):  # fmt: skip
        said, sent, _ = await ask_usage(chat(stream=True), path, **settings)
        assert "stream_options" not in sent and USAGE in said.body, path
    async with Upstream() as up, Running(config(pool([up], engine="vllm", usage="inject"))) as gateway:
        async with gateway.client() as client:
            await client.ask()
        assert up.requests[0].body == chat()
