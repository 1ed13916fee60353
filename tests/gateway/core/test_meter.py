"""The meter: what it sees does not depend on how the stream was cut, and what follows an error is dropped."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.meter import Kind, Meter, kind_of, status_of

ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}'
TOKEN = b'data: {"choices":[{"delta":{"content":"an error? \\"error\\": no"}}]}'
STOP = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}'
USAGE = (
    b'data: {"choices":[],"usage":'
    b'{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}'
)
DONE = b"data: [DONE]"
ERROR = b'data: {"error": {"message": "dead", "code": 503}}'
EVENTS = [
    ROLE, TOKEN, STOP, USAGE, DONE, b": ping", b"id: 7", b'event: ping\ndata: {"type": "ping"}',
    b'data: {"choices":[{"text":" x"}]}',
    b'data: {"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{\\"a"}}]}}]}',
    b'event: message_start\ndata: {"type":"message_start","message":{"content":[],"usage":{"input_tokens":9}}}',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"text_delta","text":"hi"}}',
    b'event: message_delta\ndata: {"delta":{},"usage":{"output_tokens":5}}',
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"hi"}',
]  # fmt: skip
ERRORS = [
    ERROR,
    b"event: error\ndata: {}",
    b'event:error\ndata: {"message": "x"}',
    b'event: response.failed\ndata: {"type":"response.failed"}',
    b'data: {"object": "error", "message": "x", "code": 400}',
    b'data:{"error":"text"}',
]


def feed(raw: bytes, cuts: list[int]) -> tuple[Meter, bytes]:
    meter, out, at = Meter(), b"", 0
    for cut in [*sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]:
        if cut > at:
            out += meter.feed(raw[at:cut])
            at = cut
    return meter, out


def seen(meter: Meter) -> tuple[object, ...]:
    return (meter.began, meter.first, meter.failed, meter.error_event, meter.prompt, meter.completion, meter.cached)


streams = st.builds(
    lambda events, end: b"".join(event.replace(b"\n", end) + end + end for event in events),
    st.lists(st.sampled_from(EVENTS), max_size=8), st.sampled_from([b"\n", b"\r\n", b"\r"]),
)  # fmt: skip


@given(streams, st.lists(st.integers(0, 2000), max_size=12))
def test_a_stream_is_forwarded_unchanged_and_understood_the_same_from_any_split(raw: bytes, cuts: list[int]) -> None:
    whole, out = feed(raw, [])
    assert out == raw
    parts, out = feed(raw, cuts)
    assert out == raw and seen(parts) == seen(whole)
    singly, out = feed(raw, list(range(len(raw))))
    assert out == raw and seen(singly) == seen(whole) and singly.events <= whole.events
    assert not whole.holds_partial


@given(streams, st.sampled_from(ERRORS), streams, st.lists(st.integers(0, 2000), max_size=12))
def test_an_error_event_is_the_last_thing_forwarded(before: bytes, error: bytes, after: bytes, cuts: list[int]) -> None:
    raw = before + error + b"\n\n"
    for split in (cuts, [], list(range(len(raw) + len(after))), [len(before)]):
        meter, out = feed(raw + after, split)
        assert (out, meter.failed) == (raw, True)
        assert meter.error_event == error + b"\n\n"
        assert meter.feed(DONE + b"\n\n") == b""


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_any_bytes_pass_whole_or_up_to_an_error(pieces: list[bytes]) -> None:
    meter = Meter()
    out = b"".join(meter.feed(piece) for piece in pieces)
    assert b"".join(pieces).startswith(out)
    assert meter.failed or out == b"".join(pieces)


def test_tokens_are_the_engines_count_or_else_the_events_with_content() -> None:
    meter = Meter()
    for event in (ROLE, TOKEN, TOKEN, TOKEN):
        meter.feed(event + b"\n\n")
    assert (meter.tokens, meter.events, meter.completion) == (3, 3, -1)
    meter.feed(USAGE + b"\n\n" + DONE + b"\n\n")
    assert (meter.tokens, meter.prompt, meter.cached) == (3, 7, 4)


def test_a_usage_told_in_two_parts_is_put_together() -> None:
    meter = Meter()
    meter.feed(EVENTS[10] + b"\n\n" + EVENTS[11] + b"\n\n" + EVENTS[12] + b"\n\n")
    assert (meter.prompt, meter.completion) == (9, 5)


def test_a_word_about_errors_inside_content_is_no_error() -> None:
    meter = Meter()
    said = b'data: {"choices":[{"delta":{"content":"{\\"error\\": {}} event: error\\ndata: {\\"error\\""}}]}\n\n'
    assert meter.feed(TOKEN + b"\n\n") and meter.feed(said) == said and not meter.failed


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (b": c\n\n", Kind.COMMENT), (b":\n: two\n\n", Kind.COMMENT), (b"\n\n", Kind.COMMENT), (ROLE, Kind.OTHER),
        (TOKEN, Kind.CONTENT), (DONE, Kind.OTHER), (USAGE, Kind.OTHER), (STOP, Kind.OTHER), (b"id: 1\n\n", Kind.OTHER),
        (EVENTS[9], Kind.CONTENT), (EVENTS[10], Kind.OTHER), (EVENTS[11], Kind.CONTENT), (EVENTS[13], Kind.CONTENT),
        (b'data: {"text_output":"a"}', Kind.CONTENT), (b'data: {"token":{"id":5,"text":""}}', Kind.CONTENT),
        (b'data: {"choices":[{"delta":{"reasoning_content":"a"}}]}', Kind.CONTENT), *((e, Kind.ERROR) for e in ERRORS),
    ],
)  # fmt: skip
def test_an_event_is_known_by_its_marks(event: bytes, kind: Kind) -> None:
    assert kind_of(event) is kind


def test_an_error_events_own_status_is_read() -> None:
    assert [status_of(event) for event in (ERROR, ERRORS[4], ERRORS[1])] == [503, 400, 500]


def test_a_plain_answers_usage_is_read_from_its_end() -> None:
    meter = Meter()
    meter.read_plain(b'..."usage": {"prompt_tokens": 1}, "x": {}, "usage":{"prompt_tokens":5,"completion_tokens":6}}')
    assert (meter.prompt, meter.completion, meter.cached) == (5, 6, -1)


def test_memory_of_an_endless_event_is_bounded() -> None:
    meter = Meter()
    for _ in range(100):
        meter.feed(b"x" * 10_000)
    assert len(meter._partial) <= 256 * 1024 + 10_000


def test_events_in_no_dialect_we_know_are_the_answer_itself() -> None:
    for event in (b'data: {"output":"x"}\n\n', b"data: hello\n\n", b'event: part\ndata: {"label":1}\n\n'):
        assert kind_of(event) is Kind.CONTENT
    for event in (b"data: [DONE]\n\n", b"data:\n\n", b"event: ping\n\n", b'event: ping\ndata: {"type":"ping"}\n\n',
                  b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n', b'data: {"text_output":""}\n\n',
                  b'data: {"content":"","stop":true}\n\n'):  # fmt: skip
        assert kind_of(event) is Kind.OTHER


FINISHES = [
    (STOP, "stop"),
    (b'data: {"choices":[{"index":0,"text":"","finish_reason": "length","stop_reason":null}]}', "length"),
    (b'data: {"choices":[{"delta":{},"finish_reason":"stop","stop_reason":"END"}]}', "stop"),
    (b'data: {"choices":[{"delta":{},"finish_reason":"tool_calls"}]}', "tool_calls"),
    (b'event: message_delta\ndata: {"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}}', "end_turn"),
    (b'event: response.completed\ndata: {"type":"response.completed","response":{"status":"completed"}}', "completed"),
    (b'event: response.incomplete\ndata: {"type":"response.incomplete","response":{"output":[{"status":"completed"}]}}',
     "incomplete"),
    (b'data: {"token":{"text":""},"generated_text":"x","details":{"finish_reason":"eos_token"}}', "eos_token"),
]  # fmt: skip


@pytest.mark.parametrize(("event", "finish"), FINISHES)
@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 2000), max_size=12),
       after=st.lists(st.sampled_from([USAGE, DONE, b": ping"]), max_size=4))  # fmt: skip
def test_why_a_stream_ended_is_known_from_any_split(
    event: bytes, finish: str, cuts: list[int], after: list[bytes]
) -> None:
    said = b'data: {"choices":[{"delta":{"content":"\\"finish_reason\\":\\"no\\""},"finish_reason":null}]}'
    raw = b"".join(one + b"\n\n" for one in (ROLE, TOKEN, said, event, *after))
    for split in (cuts, [], list(range(len(raw)))):
        meter, out = feed(raw, split)
        assert (meter.finish, out) == (finish, raw)


def test_an_answer_that_has_not_said_why_it_ended_has_no_finish() -> None:
    meter = Meter()
    assert meter.finish == ""
    meter.feed(ROLE + b"\n\n" + TOKEN + b"\n\n")
    assert meter.finish == ""


@pytest.mark.parametrize(
    ("tail", "finish"),
    [
        (b'..."finish_reason":"stop","stop_reason":7}],"usage":{"prompt_tokens":5}}', "stop"),
        (b'..."stop_reason":"max_tokens","stop_sequence":null,"usage":{"input_tokens":5}}', "max_tokens"),
        (b'..."status":"in_progress"}],"status":"incomplete","usage":null}', "incomplete"),
        (b'{"object":"list","data":[]}', ""), (b"", ""),
    ],
)  # fmt: skip
def test_why_a_plain_answer_ended_is_read_from_its_end(tail: bytes, finish: str) -> None:
    meter = Meter()
    meter.read_plain(tail)
    assert meter.finish == finish
