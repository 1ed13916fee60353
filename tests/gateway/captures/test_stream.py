"""Streams as they may be kept: their events' fields, and what is found across them."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.captures.stream import Stream

SECRET = "sk-q7Zk2mX9wL4pT8vB3nR6"


def chat(*texts: str, index: int = 0) -> str:
    return "".join(f'data: {{"choices": [{{"index": {index}, "delta": {{"content": {json.dumps(text)}}}}}]}}\n\n'
                   for text in texts)  # fmt: skip


def said(stream: str, index: int = 0) -> str:
    """What a client would put together."""
    found = ""
    for event in stream.split("\n\n"):
        if event.startswith("data: {"):
            for choice in json.loads(event[6:])["choices"]:
                found += choice["delta"]["content"] if choice["index"] == index else ""
    return found


def redacted_stream(text: str, is_cut: bool = False) -> str:
    stream = Stream(text, is_cut)
    stream.redact()
    return stream.text


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), max_size=12), st.sampled_from([SECRET, "ada@example.com", "4111 1111 1111 1111"]))
def test_a_secret_in_pieces_is_found_in_whatever_pieces(cuts: list[int], secret: str) -> None:
    text = f"before it, {secret} and after"
    edges = sorted({0, len(text), *(cut % len(text) for cut in cuts)})
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    stream = redacted_stream(chat(*pieces) + "data: [DONE]\n\n")
    assert secret not in said(stream)
    assert said(stream).startswith("before it, [") and said(stream).endswith("] and after")
    assert stream.count("\n\n") == len(pieces) + 1 and stream.endswith("data: [DONE]\n\n")


def test_two_answers_in_one_stream_are_two_texts() -> None:
    one, two = "sk-q7Zk2mX9wL", "4pT8vB3nR6Zk2m"
    stream = chat("sk-q7Zk2", index=0) + chat(two, index=1) + chat("mX9wL4pT8vB3", index=0) + chat(" end", index=1)
    after = redacted_stream(stream)
    assert said(after, 0) == "[secret]" and said(after, 1) == two + " end" and one


def test_events_in_which_nothing_was_found_stay_as_they_came() -> None:
    text = ': ping\n\nevent: x\r\ndata: {"a":  1.50,"type":"ping"}\r\n\r\ndata: hello\n\n' + chat("nothing", " here")
    assert redacted_stream(text) == text
    assert redacted_stream("data: mail ada@example.com\n\n") == "data: mail [email]\n\n"


def test_a_last_event_that_was_cut_is_left_out() -> None:
    text = chat("one", "two")
    assert redacted_stream(text + 'data: {"choices": [{"ind', is_cut=True) == text
    assert redacted_stream(text + "data: [DONE]") == text + "data: [DONE]"


def test_of_a_stream_only_the_fields_are_kept() -> None:
    event = 'event: a\ndata: {"id":"1","choices":[{"delta":{"content":"x"}}]}\n\n'
    stream = Stream(event + "data: [DONE]\n\n: c\n\n", False)
    stream.select(["choices.delta"])
    assert stream.text == 'event: a\ndata: {"choices":[{"delta":{"content":"x"}}]}\n\n'


def test_the_texts_of_anthropics_and_responses_streams_are_put_together_too() -> None:
    events = [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": part}}
              for part in (SECRET[:9], SECRET[9:])]  # fmt: skip
    text = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    assert SECRET[9:] not in redacted_stream(text) and SECRET[:9] not in redacted_stream(text)
    text = "".join(f'data: {{"type":"response.output_text.delta","delta":"{part}"}}\n\n'
                   for part in (SECRET[:5], SECRET[5:]))  # fmt: skip
    assert SECRET[5:] not in redacted_stream(text)


@pytest.mark.parametrize("text", ["", "\n\n", "data:\n\n", "data: {\n\n", "data: 1\n\n", 'data: "x"\n\n', "\r\r"])
def test_odd_streams_do_no_harm(text: str) -> None:
    assert redacted_stream(text) == text


def events(*values: Any) -> str:
    return "".join(f"data: {json.dumps(value)}\n\n" for value in values)


def datas(stream: str) -> list[Any]:
    return [json.loads(event[6:]) for event in stream.split("\n\n") if event]


def test_what_spells_a_text_out_is_left_out_of_every_event() -> None:
    pieces = [{"choices": [{"index": 0, "text": part, "token_ids": [1], "logprobs": {"tokens": [part]}}]}
              for part in ("sk", SECRET[2:5], SECRET[5:])]  # fmt: skip
    kept = datas(redacted_stream(events(*pieces)))
    assert [value["choices"] for value in kept] == [[{"index": 0, "text": text}] for text in ("[secret]", "", "")]
    text = events({"choices": [{"text": "a", "logprobs": None}]})
    assert redacted_stream(text) == text


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), max_size=8), st.sampled_from([
    '{"login": {"password": "x"}}', '{"body":"{\\"password\\":\\"x\\"}"}', '{"mail": "alice\\u0040x.com"}',
]))  # fmt: skip
def test_the_arguments_of_a_call_are_read_as_json_however_they_come(cuts: list[int], arguments: str) -> None:
    edges = sorted({0, len(arguments), *(cut % len(arguments) for cut in cuts)})
    pieces = [{"arguments": arguments[a:b]} for a, b in itertools.pairwise(edges)]
    calls = [{"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 1, "function": one}]}}]} for one in pieces]
    kept = [value["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"]
            for value in datas(redacted_stream(events(*calls)))]  # fmt: skip
    assert len(kept) == len(calls) and set(kept[1:]) <= {""}
    assert "[" in kept[0] and "x" not in json.loads(kept[0]) and "x\\" not in kept[0] and "x.com" not in kept[0]


def test_texts_of_one_stream_s_items_are_texts_of_their_own() -> None:
    pieces = [(0, "Hello"), (1, '{"pass'), (1, 'word": "x"}')]
    kept = datas(redacted_stream(events(*({"type": "d", "output_index": at, "delta": text} for at, text in pieces))))
    assert [value["delta"] for value in kept] == ["Hello", '{"password":"[secret]"}', ""]


def test_strings_in_lists_go_on_in_the_next_event_s_list() -> None:
    def tensor(name: str, *texts: str) -> Any:
        return {"name": name, "datatype": "BYTES", "data": list(texts)}

    kept = datas(redacted_stream(events(
        {"outputs": [tensor("a", SECRET[:6], "one "), tensor("b", "his")]},
        {"outputs": [tensor("a", SECRET[6:], "two"), tensor("b", "hers")]},
    )))  # fmt: skip
    assert [[one["data"] for one in value["outputs"]] for value in kept] == [
        [["[secret]", "one "], ["his"]], [["", "two"], ["hers"]]]  # fmt: skip


def test_a_stream_of_many_finds_is_shared_out_in_as_many_steps() -> None:
    """Looking at all finds for each event takes minutes."""
    count = 20_000
    kept = redacted_stream("".join(f'data: {{"text":"a{number}@x.io "}}\n\n' for number in range(count)))
    assert kept == 'data: {"text":"[email] "}\n\n' * count
