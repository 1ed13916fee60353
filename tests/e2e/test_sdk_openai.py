"""The official `openai` client: what it sees through the gateway is what it sees of a model server."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any
from urllib.request import urlopen

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.e2e.stack import ALIAS, ENGINE_KEY, KEY, MODEL, Both, Stack, fault

HELLO: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
SIZED: Any = {"ignore_eos": True}  # exactly max_tokens tokens
TOO_LONG = "word " * 120_000


@pytest.fixture(scope="module")
def both(stack: Stack) -> Both[OpenAI]:
    return Both(
        OpenAI(base_url=f"{stack.servers[0]}/v1", api_key=ENGINE_KEY, max_retries=0),
        OpenAI(base_url=f"{stack.gateway}/v1", api_key=KEY, max_retries=0),
    )


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


# --- answers ---------------------------------------------------------------------------------------------------------


def test_a_chat_is_answered(both: Both[OpenAI]) -> None:
    answer = both.same(lambda c: c.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=12, extra_body=SIZED))  # fmt: skip
    assert answer.model == MODEL
    assert len(answer.choices[0].message.content.split()) == 12
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 12)


def test_several_choices_are_answered(both: Both[OpenAI]) -> None:
    answer = both.same(lambda c: c.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=5, n=3, extra_body=SIZED))  # fmt: skip
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


@pytest.mark.parametrize("usage", [False, True])
def test_a_chat_is_streamed_chunk_by_chunk(both: Both[OpenAI], usage: bool) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if usage else {}
    chunks = both.same(lambda c: list(c.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=12, stream=True, extra_body=SIZED, **options)))  # fmt: skip
    assert len(text_of(chunks).split()) == 12
    assert {chunk.model for chunk in chunks} == {MODEL}
    assert (chunks[-1].usage is not None) == usage
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"


def test_the_stream_helper_gathers_a_whole_message(both: Both[OpenAI]) -> None:
    def step(client: OpenAI) -> Any:
        with client.chat.completions.stream(model=MODEL, messages=HELLO) as stream:  # its length is the server's choice
            events = list(stream)
            said = stream.get_final_completion().choices[0].message.content
        deltas = [event.delta for event in events if event.type == "content.delta"]
        assert said == "".join(deltas) and deltas
        return sorted({event.type for event in events})

    both.same(step)


def test_a_completion_is_answered_and_streamed(both: Both[OpenAI]) -> None:
    answer = both.same(lambda c: c.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=9, extra_body=SIZED))  # fmt: skip
    assert len(answer.choices[0].text.split()) == 9
    chunks = both.same(lambda c: list(c.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=9, stream=True, extra_body=SIZED)))  # fmt: skip
    assert len("".join(chunk.choices[0].text for chunk in chunks).split()) == 9


def test_a_completion_of_token_ids_is_answered(both: Both[OpenAI]) -> None:
    answer = both.same(lambda c: c.completions.create(
        model=MODEL, prompt=[11, 12, 13], max_tokens=3, extra_body=SIZED))  # fmt: skip
    assert answer.usage.prompt_tokens == 3


def test_a_response_is_answered_and_streamed(both: Both[OpenAI]) -> None:
    answer = both.same(lambda c: c.responses.create(
        model=MODEL, input="hello", instructions="Be brief.", max_output_tokens=16, extra_body=SIZED))  # fmt: skip
    assert len(answer.output_text.split()) == 16
    assert (answer.status, answer.model, answer.usage.output_tokens) == ("incomplete", MODEL, 16)
    events = both.same(lambda c: list(c.responses.create(
        model=MODEL, input="hello", max_output_tokens=16, stream=True, extra_body=SIZED)))  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    assert sum(event.type == "response.output_text.delta" for event in events) == 16


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_embeddings_are_those_of_the_server_to_the_last_bit(both: Both[OpenAI], encoding: Any) -> None:
    options = {} if encoding is None else {"encoding_format": encoding}
    def step(client: OpenAI) -> Any:
        answer = client.embeddings.create(model=MODEL, input=["one", "two, and a half"], dimensions=64, **options)
        return [(row.index, row.embedding) for row in answer.data], answer.usage, answer.model

    rows, usage, model = both.same(step)
    assert [index for index, _ in rows] == [0, 1] and (usage.prompt_tokens, model) == (5, MODEL)
    assert len(rows[0][1]) == (344 if encoding == "base64" else 64)


def test_answers_can_be_read_raw_with_their_headers(both: Both[OpenAI], stack: Stack) -> None:
    raw = both.through.chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, max_tokens=3, extra_headers={"x-request-id": "my-own-id"})  # fmt: skip
    assert raw.headers["x-request-id"] == "my-own-id"
    assert raw.headers["x-headway-endpoint"] in stack.servers
    assert raw.headers["x-headway-pool"] == "main"
    assert raw.parse()._request_id == "my-own-id"


# --- models ----------------------------------------------------------------------------------------------------------


def test_models_are_listed_with_their_aliases(both: Both[OpenAI]) -> None:
    listed = both.through.models.list().data
    assert [model.id for model in listed] == [MODEL, ALIAS]
    assert {model.id for model in both.direct.models.list().data} <= {model.id for model in listed}


def test_a_model_is_retrieved_by_name_and_by_alias(both: Both[OpenAI]) -> None:
    for name in (MODEL, ALIAS):
        model = both.through.models.retrieve(name)
        assert (model.id, model.object) == (name, "model")
    with pytest.raises(openai.NotFoundError) as raised:
        both.through.models.retrieve("no-such-model")
    assert raised.value.code == "model_not_found"


def test_an_alias_comes_back_as_the_client_spelt_it(both: Both[OpenAI]) -> None:
    client = both.through
    chat: Any = {"model": ALIAS, "messages": HELLO, "max_tokens": 4}
    assert client.chat.completions.create(**chat).model == ALIAS
    assert {chunk.model for chunk in client.chat.completions.create(**chat, stream=True)} == {ALIAS}
    assert client.completions.create(model=ALIAS, prompt="x", max_tokens=4).model == ALIAS
    assert client.embeddings.create(model=ALIAS, input="x").model == ALIAS
    assert client.responses.create(model=ALIAS, input="x", max_output_tokens=16).model == ALIAS
    events = list(client.responses.create(model=ALIAS, input="x", max_output_tokens=16, stream=True))
    assert {event.response.model for event in events if hasattr(event, "response")} == {ALIAS}


def test_what_an_alias_answers_is_otherwise_what_the_model_answers(both: Both[OpenAI]) -> None:
    def step(name: str) -> Any:
        return both.through.chat.completions.create(
            model=name, messages=HELLO, max_tokens=6, extra_body=SIZED).model_dump()  # fmt: skip

    plain, alias = step(MODEL), step(ALIAS)
    assert alias.keys() == plain.keys() and alias["usage"] == plain["usage"]


# --- errors ----------------------------------------------------------------------------------------------------------

# What the engine refuses: status, body and exception reach the client as if the gateway were not there.
FROM_THE_ENGINE: dict[str, dict[str, Any]] = {
    "a prompt that is too long": {"messages": [{"role": "user", "content": TOO_LONG}]},
    "no messages": {"messages": []},
    "messages of the wrong type": {"messages": "hello"},
    "a temperature below zero": {"messages": HELLO, "temperature": -1.0},
    "a max_tokens beyond the context": {"messages": HELLO, "max_tokens": 10_000_000},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("what", FROM_THE_ENGINE)
def test_an_error_of_the_engine_is_the_engine_s_own(both: Both[OpenAI], what: str, stream: bool) -> None:
    through, direct = both.same_error(lambda c: c.chat.completions.create(
        model=MODEL, stream=stream, **FROM_THE_ENGINE[what]))  # fmt: skip
    for name in ("status_code", "code", "param", "type", "message", "body"):
        assert getattr(through, name) == getattr(direct, name), name


@pytest.mark.parametrize("path", ["completions", "responses", "embeddings"])
def test_a_prompt_that_is_too_long_is_refused_by_the_engine_on_every_path(both: Both[OpenAI], path: str) -> None:
    steps: Any = {
        "completions": lambda c: c.completions.create(model=MODEL, prompt=TOO_LONG),
        "responses": lambda c: c.responses.create(model=MODEL, input=TOO_LONG),
        "embeddings": lambda c: c.embeddings.create(model=MODEL, input=TOO_LONG),
    }
    through, direct = both.same_error(steps[path])
    assert isinstance(through, openai.BadRequestError)
    assert through.body == direct.body and "context length" in through.message


def test_an_unknown_model_is_not_found_and_near_names_are_told(both: Both[OpenAI]) -> None:
    through, _ = both.same_error(lambda c: c.chat.completions.create(model="llama-3.1-8", messages=HELLO))
    assert isinstance(through, openai.NotFoundError)
    assert (through.code, through.param) == ("model_not_found", "model")
    assert MODEL in through.message


def test_a_wrong_key_is_an_authentication_error(both: Both[OpenAI]) -> None:
    through, _ = both.same_error(lambda c: c.with_options(api_key="sk-wrong").chat.completions.create(
        model=MODEL, messages=HELLO))  # fmt: skip
    assert isinstance(through, openai.AuthenticationError)
    assert through.code == "invalid_api_key"


def test_a_body_that_is_no_object_is_a_bad_request(both: Both[OpenAI]) -> None:
    through, _ = both.same_error(lambda c: c.post("/chat/completions", body=["hello"], cast_to=object))
    assert isinstance(through, openai.BadRequestError)


def test_a_key_that_the_gateway_reads_too_is_checked_by_it_first(both: Both[OpenAI]) -> None:
    wrong: Any = {"messages": HELLO, "max_tokens": "many"}
    through, _ = both.same_error(lambda c: c.chat.completions.create(model=MODEL, **wrong))
    assert isinstance(through, openai.BadRequestError)
    assert (through.code, through.type) == ("invalid_value", "invalid_request_error")


def test_a_path_that_does_not_exist_is_not_found(both: Both[OpenAI]) -> None:
    through, _ = both.same_error(lambda c: c.post("/load_lora_adapter", body={"model": MODEL}, cast_to=object))
    assert isinstance(through, openai.NotFoundError)


def test_a_stream_that_breaks_raises_and_never_looks_complete(both: Both[OpenAI], stack: Stack) -> None:
    got = []
    with fault(stack, kind="cut", value=3), pytest.raises(openai.APIError) as raised:
        for chunk in both.through.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=20, stream=True, extra_body=SIZED):  # fmt: skip
            got.append(chunk)
    assert raised.value.code == "upstream_failed"
    assert len(text_of(got).split()) == 3
    assert not any(choice.finish_reason for chunk in got for choice in chunk.choices)


def test_a_5xx_of_every_server_is_the_engine_s_own(both: Both[OpenAI], stack: Stack) -> None:
    with fault(stack, kind="5xx"):
        through, direct = both.same_error(lambda c: c.chat.completions.create(model=MODEL, messages=HELLO))
    assert isinstance(through, openai.InternalServerError)
    assert through.body == direct.body


# --- leaving, and many at once ---------------------------------------------------------------------------------------


def test_a_stream_that_the_client_leaves_ends_at_the_server_too(both: Both[OpenAI], stack: Stack) -> None:
    with both.through.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=100_000, stream=True, extra_body=SIZED) as stream:  # fmt: skip
        next(iter(stream))
        assert sum(running(server) for server in stack.servers) == 1
    for _ in range(500):
        if not any(running(server) for server in stack.servers):
            break
        time.sleep(0.01)
    assert not any(running(server) for server in stack.servers)


def running(server: str) -> int:
    with urlopen(f"{server}/sim/state", timeout=10) as answer:
        return int(json.load(answer)["running"])


def has_its_full_share(stack: Stack) -> bool:
    with urlopen(f"{stack.admin}/api/endpoints", timeout=10) as answer:
        (pool,) = json.load(answer)["pools"].values()
    return all(endpoint["weight"] == 1.0 and endpoint["state"] == "healthy" for endpoint in pool)


async def test_forty_streams_at_once_are_whole_and_spread_over_both_servers(stack: Stack) -> None:
    # A fault of another test may have taken a server out of service: it comes back little by little.
    for _ in range(600):
        if has_its_full_share(stack):
            break
        await asyncio.sleep(0.1)
    async with AsyncOpenAI(base_url=f"{stack.gateway}/v1", api_key=KEY, max_retries=0) as client:

        async def one(number: int) -> tuple[str, int]:
            raw = await client.chat.completions.with_raw_response.create(
                model=MODEL, messages=HELLO, max_tokens=20 + number, stream=True, extra_body=SIZED)  # fmt: skip
            chunks = [chunk async for chunk in raw.parse()]
            assert len(text_of(chunks).split()) == 20 + number
            return raw.headers["x-headway-endpoint"], number

        done = await asyncio.gather(*(one(number) for number in range(40)))
    servers = Counter(server for server, _ in done)
    assert set(servers) == set(stack.servers)
    assert max(servers.values()) <= 24
