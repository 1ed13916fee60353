"""Bodies as they may be kept: what is selected, what is closed where it was cut, what is found across events."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.captures.redacted import Redactor, Stream, dumped, mended, selected

SECRET = "sk-q7Zk2mX9wL4pT8vB3nR6"
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**9), 10**9), st.text(max_size=8),
              st.floats(allow_nan=False, allow_infinity=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)),
    max_leaves=12,
)  # fmt: skip


@settings(deadline=None)
@given(values.filter(lambda value: isinstance(value, dict | list)), st.data())
def test_json_that_was_cut_off_anywhere_can_be_read_and_says_what_it_said(value: Any, data: st.DataObject) -> None:
    for text in (json.dumps(value), json.dumps(value, indent=1, ensure_ascii=False)):
        assert json.loads(mended(text)) == value
        cut = data.draw(st.integers(1, len(text)))
        _is_beginning(json.loads(mended(text[:cut])), value)


def _is_beginning(part: Any, whole: Any) -> None:
    """What there is of it is as it was, but for a last string that is shorter."""
    if isinstance(part, dict) and isinstance(whole, dict):
        for name in part:
            _is_beginning(part[name], whole[name])
    elif isinstance(part, list) and isinstance(whole, list):
        for item, other in zip(part, whole, strict=False):
            _is_beginning(item, other)
    elif isinstance(part, str) and isinstance(whole, str):
        assert whole.startswith(part) or "\ud800" <= part[-1:] <= "\udbff"
    else:
        assert part == whole


@given(st.text('{}[],:"\\u0 1a\n', max_size=30))
def test_what_was_never_json_does_no_harm(text: str) -> None:
    mended(text)


@settings(deadline=None)
@given(values)
def test_what_has_nothing_to_hide_stays_the_same(value: Any) -> None:
    assert Redactor().value(value) == value
    assert json.loads(dumped(value)) == value


def test_every_string_is_searched_and_some_members_are_secret_by_their_name() -> None:
    value = {"messages": [{"role": "user", "content": f"my key is {SECRET}", "n": 3}], "password": "x", "Api_Key": "y",
             "secret": {"token": "stays"}, "ada@example.com": True}  # fmt: skip
    assert Redactor().value(value) == {
        "messages": [{"role": "user", "content": "my key is [secret]", "n": 3}], "password": "[secret]",
        "Api_Key": "[secret]", "secret": {"token": "stays"}, "[email]": True,
    }  # fmt: skip


def test_an_address_written_with_escapes_is_found() -> None:
    assert Redactor().value(json.loads('"ada\\u0040example.com"')) == "[email]"


def test_fields_are_members_and_members_of_members() -> None:
    value = {"model": "m", "usage": {"total_tokens": 3, "x": 1}, "choices": [{"index": 0, "message": {"content": "a"}}]}
    assert selected(value, ["model", "usage.total_tokens", "choices.message.content"]) == {
        "model": "m", "usage": {"total_tokens": 3}, "choices": [{"message": {"content": "a"}}],
    }  # fmt: skip
    assert selected(value, ["usage", "nothing"]) == {"usage": {"total_tokens": 3, "x": 1}}
    assert selected([], ["a"]) == [] and selected("text", ["a"]) == {}


# --- streams ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("text", ["", "\n\n", "data:\n\n", "data: {\n\n", "data: 1\n\n", "data: \"x\"\n\n", "\r\r"])
def test_odd_streams_do_no_harm(text: str) -> None:
    assert redacted_stream(text) == text
