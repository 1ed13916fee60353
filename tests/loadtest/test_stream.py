"""Tests of loadtest/stream.py: what counts as content, and what as a good end."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.stream import AnswerMeter, EventSplitter

ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
ONE = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"delta":{"content":"b"},"finish_reason":"length"}]}\n\n'
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,'
    b'"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
)
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"gone","type":"internal_error"}}\n\n'
GOOD = ROLE + ONE + LAST + USAGE + DONE


def meter(data: bytes, pieces: int | None = None, content_type: bytes = b"text/event-stream") -> AnswerMeter:
    """Fed in pieces of that many bytes (None: whole), the n-th at n seconds."""
    made = AnswerMeter()
    made.head(200, {b"content-type": content_type, b"x-headway-endpoint": b"http://e"})
    size = pieces or len(data)
    for n, start in enumerate(range(0, len(data), size), 1):
        made.feed(data[start : start + size], float(n))
    return made


@pytest.mark.parametrize("pieces", [None, 1, 7])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_good_stream_is_good_in_any_pieces_and_with_either_newline(pieces: int | None, newline: bytes) -> None:
    made = meter(GOOD.replace(b"\n", newline), pieces)
    assert made.failure(True) == ""
    assert (len(made.arrivals), made.tokens, made.prompt_tokens, made.cached_tokens) == (2, 3, 9, 4)
    assert made.endpoint == "http://e"


def test_the_first_token_is_the_first_event_with_content() -> None:
    made = AnswerMeter()
    made.head(200, {b"content-type": b"text/event-stream; charset=utf-8"})
    for now, piece in enumerate([b": waiting\n\n", ROLE, ONE, LAST, DONE]):
        made.feed(piece, float(now))
    assert list(made.arrivals) == [2.0, 3.0]


@given(st.lists(st.integers(0, len(GOOD)), max_size=10))
def test_where_the_stream_is_cut_into_pieces_does_not_matter(cuts: list[int]) -> None:
    data = GOOD.replace(b"\n", b"\r\n")
    edges = sorted({0, len(data), *cuts})
    splitter = EventSplitter()
    events = [e for low, high in itertools.pairwise(edges) for e in splitter.feed(data[low:high])]
    assert events == EventSplitter().feed(GOOD)


@pytest.mark.parametrize(
    ("data", "complete", "reason"),
    [
        (ROLE + ONE + LAST + DONE, False, "broken stream"),
        (ROLE + ONE, False, "broken stream"),
        (ROLE + ONE + LAST, True, "no [DONE]"),
        (ROLE + ONE + DONE, True, "no finish_reason"),
        (ROLE + ONE + LAST + b"data: [DONE]\n", True, "no [DONE]"),
        (ONE + ERROR, True, "error event (internal_error)"),
        (ONE + ERROR + DONE, True, "error event (internal_error)"),
        (ONE + ERROR + LAST + DONE, True, "error event (internal_error)"),
        (b"event: error\ndata: {}\n\n" + DONE, True, "error event"),
        (LAST.replace(b'"b"', b'""') + DONE, True, "no content"),
        (b"", True, "no finish_reason"),
    ],
)
def test_a_stream_that_is_not_whole_is_a_failure(data: bytes, complete: bool, reason: str) -> None:
    assert meter(data or b"\n").failure(complete) == reason


@pytest.mark.parametrize(
    "payload",
    [
        rb'{"choices":[{"delta":{"content":"say \"error\": \"usage\""},"finish_reason":null}]}',
        rb'{"choices": [ { "delta": {"reasoning_content": "hm"}, "finish_reason": null } ]}',
        rb'{"choices":[{"text":"x","finish_reason":null}],"error":null}',
        rb'{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{\"a\""}}]}}]}',
        rb'{"choices":[{"delta":{"content":"\u00e9"}}]}',
    ],
)
def test_content_is_seen_in_every_form_and_words_inside_it_are_not_keys(payload: bytes) -> None:
    made = meter(b"data: " + payload + b"\n\n")
    assert len(made.arrivals) == 1 and made.error is None


@pytest.mark.parametrize(
    "payload", [rb'{"id":"\"content\":\"x"}', rb'{"delta":{"content":null}}', rb'{"delta":{"content":""}}', b"{}", b"x"]
)
def test_other_events_are_not_content(payload: bytes) -> None:
    assert not meter(b"data: " + payload + b"\n\n").arrivals


def test_an_event_of_several_lines_is_joined() -> None:
    assert EventSplitter().feed(b"event: a\r\ndata: 1\r\ndata:2\r\n: c\r\nid: 4\r\n\r\n") == [(b"a", b"1\n2")]


def test_an_anthropic_stream_ends_with_message_stop() -> None:
    data = (
        b'event: content_block_delta\ndata: {"delta":{"type":"text_delta","text":"a"}}\n\n'
        b'event: message_delta\ndata: {"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}\n\n'
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )
    assert meter(data).failure(True) == "" and meter(data).tokens == 1


def test_without_usage_the_events_are_counted() -> None:
    assert meter(ONE + ONE + LAST + DONE).tokens == 3


def test_a_plain_answer_is_read_as_json() -> None:
    made = meter(b'{"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":5}}', 10, b"application/json")
    assert made.failure(True) == "" and made.tokens == 5 and made.first_byte == 1.0
    assert meter(b"[1]", None, b"application/json").failure(True) == "not a JSON object"
    assert meter(b'{"error":{}, "a":1}', None, b"application/json").failure(True) == ""
    assert meter(b'{"error":{"code":1}}', None, b"application/json").failure(True) == "error in a 200"
    assert meter(b'{"a":1}', None, b"application/json").failure(False) == "broken answer"


def test_a_status_other_than_200_is_the_failure() -> None:
    made = AnswerMeter()
    assert made.failure(False) == "no answer"
    made.head(503, {b"content-type": b"text/event-stream"})
    made.feed(GOOD, 1.0)
    assert made.failure(True) == "status 503" and not made.arrivals


def test_a_refusal_is_counted_by_its_code() -> None:
    made = AnswerMeter()
    made.head(429, {b"content-type": b"application/json"})
    made.feed(b'{"error":{"message":"later","type":"rate_limit","code":"queue_full"}}', 1.0)
    assert made.failure(True) == "status 429 (queue_full)"


@given(st.binary(max_size=300))
def test_any_bytes_are_metered_without_raising(data: bytes) -> None:
    meter(data or b"x", 9).failure(True)
    meter(b"data: " + data + b"\n\n").failure(True)
