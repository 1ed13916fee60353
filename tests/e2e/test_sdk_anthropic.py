"""The official `anthropic` client on `/v1/messages`: through the gateway as directly."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from anthropic import Anthropic

from tests.e2e.stack import ALIAS, ENGINE_KEY, KEY, MODEL, Both, Stack, fault

HELLO: Any = [{"role": "user", "content": "hello"}]
SIZED: Any = {"ignore_eos": True}


@pytest.fixture(scope="module")
def both(stack: Stack) -> Both[Anthropic]:
    # The engine takes only a bearer token; the gateway takes the key as this SDK sends it by default.
    return Both(
        Anthropic(base_url=stack.servers[0], auth_token=ENGINE_KEY, max_retries=0),
        Anthropic(base_url=stack.gateway, api_key=KEY, max_retries=0),
    )


def test_a_message_is_answered(both: Both[Anthropic]) -> None:
    answer = both.same(lambda c: c.messages.create(
        model=MODEL, system="Be brief.", messages=HELLO, max_tokens=12, extra_body=SIZED))  # fmt: skip
    assert answer.model == MODEL and answer.stop_reason == "max_tokens"
    assert len(answer.content[0].text.split()) == 12
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 12)


def test_a_message_is_streamed_event_by_event(both: Both[Anthropic]) -> None:
    events = both.same(lambda c: list(c.messages.create(
        model=MODEL, messages=HELLO, max_tokens=12, stream=True, extra_body=SIZED)))  # fmt: skip
    assert events[0].type == "message_start" and events[-1].type == "message_stop"
    assert sum(event.type == "content_block_delta" for event in events) == 12


def test_the_stream_helper_gathers_a_whole_message(both: Both[Anthropic]) -> None:
    def step(client: Anthropic) -> Any:
        with client.messages.stream(model=MODEL, messages=HELLO, max_tokens=12, extra_body=SIZED) as stream:
            pieces = list(stream.text_stream)
            return len(pieces), stream.get_final_message()

    pieces, message = both.same(step)
    assert pieces == 12 and message.usage.output_tokens == 12


def test_parts_and_earlier_turns_are_taken(both: Both[Anthropic]) -> None:
    messages: Any = [
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": "four"},
    ]
    answer = both.same(lambda c: c.messages.create(
        model=MODEL, messages=messages, max_tokens=4, extra_body=SIZED))  # fmt: skip
    assert answer.usage.input_tokens == 4


def test_tokens_are_counted(both: Both[Anthropic]) -> None:
    assert both.same(lambda c: c.messages.count_tokens(model=MODEL, messages=HELLO)).input_tokens == 2


def test_an_alias_comes_back_as_the_client_spelt_it(both: Both[Anthropic]) -> None:
    client = both.through
    assert client.messages.create(model=ALIAS, messages=HELLO, max_tokens=4).model == ALIAS
    started = next(iter(client.messages.create(model=ALIAS, messages=HELLO, max_tokens=4, stream=True)))
    assert started.type == "message_start" and started.message.model == ALIAS
    assert client.messages.count_tokens(model=ALIAS, messages=HELLO).input_tokens == 2


FROM_THE_ENGINE: dict[str, dict[str, Any]] = {
    "a prompt that is too long": {"messages": [{"role": "user", "content": "word " * 120_000}], "max_tokens": 10},
    "no messages": {"messages": [], "max_tokens": 10},
    "no tokens wanted": {"messages": HELLO, "max_tokens": 0},
    "a temperature below zero": {"messages": HELLO, "max_tokens": 10, "extra_body": {"temperature": -1.0}},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("what", FROM_THE_ENGINE)
def test_an_error_of_the_engine_is_the_engine_s_own(both: Both[Anthropic], what: str, stream: bool) -> None:
    through, direct = both.same_error(lambda c: c.messages.create(
        model=MODEL, stream=stream, **FROM_THE_ENGINE[what]))  # fmt: skip
    for name in ("status_code", "message", "body"):
        assert getattr(through, name) == getattr(direct, name), name


def test_an_unknown_model_is_not_found(both: Both[Anthropic]) -> None:
    through, _ = both.same_error(lambda c: c.messages.create(model="nobody", messages=HELLO, max_tokens=4))
    assert isinstance(through, anthropic.NotFoundError)
    body: Any = through.body
    assert body["type"] == "error" and body["error"]["type"] == "not_found_error"


def test_a_wrong_key_is_an_authentication_error(both: Both[Anthropic], stack: Stack) -> None:
    wrong = Both(
        Anthropic(base_url=stack.servers[0], auth_token="sk-wrong", max_retries=0),
        Anthropic(base_url=stack.gateway, api_key="sk-wrong", max_retries=0),
    )
    through, _ = wrong.same_error(lambda c: c.messages.create(model=MODEL, messages=HELLO, max_tokens=4))
    assert isinstance(through, anthropic.AuthenticationError)
    body: Any = through.body
    assert body["error"]["type"] == "authentication_error"


def test_a_stream_that_breaks_raises_and_never_looks_complete(both: Both[Anthropic], stack: Stack) -> None:
    got = []
    with fault(stack, kind="cut", value=3), pytest.raises(anthropic.APIError):
        for event in both.through.messages.create(
            model=MODEL, messages=HELLO, max_tokens=20, stream=True, extra_body=SIZED):  # fmt: skip
            got.append(event.type)
    assert got.count("content_block_delta") == 3
    assert "message_stop" not in got and "message_delta" not in got


def test_the_request_s_id_is_kept_and_told(both: Both[Anthropic]) -> None:
    raw = both.through.messages.with_raw_response.create(
        model=MODEL, messages=HELLO, max_tokens=4, extra_headers={"x-request-id": "my-own-id"})  # fmt: skip
    assert raw.headers["x-request-id"] == "my-own-id"
