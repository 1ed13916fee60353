"""Rewriting a model's name touches nothing else. The properties are the evidence's, here over fewer examples."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.edit import Editor
from gateway.peek import offset_in, peek, rewrite
from tests.evidence.rewrites import PROPERTIES, Property
from tests.support.rewriting import CLIENT, UP, streams

NAME = json.dumps(CLIENT).encode()


@pytest.mark.parametrize("one", PROPERTIES, ids=lambda one: one.name)
def test_nothing_but_the_name_changes(one: Property) -> None:
    assert one.tried(50)[0] >= 50


def test_a_body_of_many_megabytes_keeps_every_byte() -> None:
    filler = b'{"model":"a","x":[{"model":"a"}]},' * 100_000
    body = b'{"messages":[%b{}], "model"\t: "a","tools":[%b{}]}' % (filler, filler)
    assert rewrite(body, {"model": "b"}) == body.replace(b'\t: "a"', b'\t: "b"')
    assert Editor("a", CLIENT, False).plain(body) == body.replace(b'\t: "a"', b"\t: " + NAME)


def test_a_value_that_was_not_decoded_from_a_body_has_no_place_in_it() -> None:
    seen = peek(b'{"messages":[1]}')
    with pytest.raises(ValueError, match="not decoded"):
        offset_in(b"{}", seen.messages)


def test_members_that_repeat_and_are_not_ours_stay_as_they_are() -> None:
    body = b'{"x":1, "x" : {"model":1},"model":"a" ,"x":2}'
    assert rewrite(body, {"model": "b"}) == body.replace(b'"a"', b'"b"')


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"type":"response.created","response":{"id":"r","model":%b}}',
        b'event: message_start\ndata: {"type":"message_start","message":{"content":[],"model": %b}}',
        b'data: {"model_name":%b,"model_version":"1","text_output":"x"}',
        b'id: 1\ndata: {"id":"c",\ndata: "model"\ndata::%b,\ndata:"choices":[]}\n: done',
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_each_dialect_has_the_name_in_its_own_place(event: bytes, end: bytes) -> None:
    event = event.replace(b"\n", end) + end + end
    if b"data::" in event:
        event = event.replace(b"data::", b"data: :")
    editor = Editor(UP, CLIENT, False)
    assert editor.stream(event % json.dumps(UP).encode()) + editor.rest() == event % NAME


@pytest.mark.parametrize(
    "data",
    [
        b'{"type":"response.output_item.done","item":{"arguments":{"model":%b}}}',
        b'{"type":"content_block_start","message":{"model":%b}}',
        b'{"choices":[{"message":{"model":%b}}],"x \\"model":%b}',
        b'{"response":{"model":%b}}',
        b'{"model":"other","choices":[{"model":%b}]}',
        b'{"model":{"model":%b}}',
        b'{"type":"response.created","response":[{"model":%b}]}',
    ],
)
def test_what_content_calls_a_model_stays(data: bytes) -> None:
    name = json.dumps(UP).encode()
    event = b"data: " + data.replace(b"%b", name) + b"\n\n"
    editor = Editor(UP, CLIENT, False)
    assert editor.stream(event) + editor.rest() == event
    assert editor.plain(event[6:]) == event[6:]


def test_events_that_begin_alike_are_still_read_to_their_own_end() -> None:
    name = json.dumps(UP).encode()
    first = b'data: {"id":"1","model":%b,"choices":[{"delta":{"model":%b}}]}\n\n' % (name, name)
    wanted = b'data: {"id":"1","model":%b,"choices":[{"delta":{"model":%b}}]}\n\n' % (NAME, name)
    nested = b'data: {"id":"1","x":{"model":%b}}\n\n' % name
    editor = Editor(UP, CLIENT, True)
    usage = b'data: {"id":"1","model":%b,"choices":[],"usage":{"prompt_tokens":1}}\n\n' % name
    assert [editor.stream(event) for event in (first, nested, first, usage, first)] == [
        wanted, nested, wanted, b"", wanted]  # fmt: skip


def test_usage_in_an_answer_that_has_more_is_no_event_of_ours() -> None:
    for data in (b'{"choices":[{"choices":[]}],"usage":{"a":1}}', b'{"choices":[],"usage":null}',
                 b'{"x":{"choices":[]},"usage":{}}', b'{"choices":[],"usage":{}'):  # fmt: skip
        event = b"data: " + data + b"\n\n"
        assert Editor(None, CLIENT, True).stream(event) == event


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(streams(), st.integers(0, 5000), st.binary(min_size=1, max_size=3), st.booleans())
def test_what_cannot_be_read_passes(stream: tuple[bytes, bytes, list[int]], at: int, damage: bytes, drop: bool) -> None:
    raw = stream[0]
    at %= len(raw) + 1
    raw = raw[:at] + damage + raw[at + len(damage) :]
    editor = Editor(UP, CLIENT, drop)
    editor.stream(raw[:at])
    editor.stream(raw[at:])
    editor.rest()
    editor.plain(raw)


@pytest.mark.parametrize("value", [b"[" * 5000 + b"]" * 5000, b"1" * 5000, b"1e999999", b'"\\ud800"', b'"\xff"', b"-"])
def test_odd_values_in_an_answer_pass(value: bytes) -> None:
    for body in (b'{"model":%b}' % value, b'{"x":%b,"model":"%b"}' % (value, b"other")):
        assert Editor(UP, CLIENT, True).plain(body) == body
        assert Editor(UP, CLIENT, True).stream(b"data: %b\n\n" % body) == b"data: %b\n\n" % body
    usage = b'data: {"choices":[],"x":%b,"usage":{"a":1}}\n\n' % (b"[" * 5000 + b"]" * 5000)
    assert Editor(None, CLIENT, True).stream(usage) in (usage, b"")
