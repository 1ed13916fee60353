"""A captured record: both layouts, what is cut, chosen, redacted or left out of the bodies."""

import json
from base64 import b64decode, b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.captures.record import Part, line
from gateway.config.types import Capture
from gateway.records import RequestRecord

JSON = "application/json"
RECORD = RequestRecord(
    "r1", 1_700_000_000.25, 200, "complete", path="/v1/chat/completions", model="m", pool="p", tenant="acme",
    endpoint="e", stream=True, ttft=0.2, duration=1.0, completion_tokens=3.0,
)  # fmt: skip


def made(request: Part, answer: Part | None = None, **rule: Any) -> Any:
    said = line(Capture("f", **rule), RECORD, "stop", request, answer or part(b"{}"))
    assert said.endswith(b"\n") and said.count(b"\n") == 1 and said.isascii()
    return json.loads(said)


def part(data: bytes, kind: str = JSON, cut: int | None = None) -> Part:
    return Part(kind, data[:cut], len(data), cut is not None and cut < len(data))


def test_the_own_layout_has_the_record_and_both_bodies_as_json() -> None:
    utf8 = "application/json; charset=utf-8"
    found = made(part(b'{"model": "m",\n "messages": []}'), part(b'{"choices": [1.50]}', utf8))
    assert found == {
        "v": 1, "request_id": "r1", "at": "2023-11-14T22:13:20.250Z", "model": "m", "pool": "p", "arm": "",
        "class": "interactive", "tenant": "acme", "endpoint": "e", "path": "/v1/chat/completions", "status": 200,
        "ended": "complete", "finish": "stop", "stream": True, "ttft": 0.2, "duration": 1.0, "prompt_tokens": None,
        "completion_tokens": 3.0,
        "request": {"type": JSON, "bytes": 31, "data": {"model": "m", "messages": []}},
        "answer": {"type": utf8, "bytes": 19, "data": {"choices": [1.5]}},
    }  # fmt: skip


def test_sagemakers_layout_is_the_documented_one() -> None:
    found = made(part(b'{"inputs": [1, 2]}'), part(b"0.5,0.5\n", "text/csv"), layout="sagemaker")
    assert len(found["eventMetadata"].pop("eventId")) == 36
    assert found == {
        "captureData": {
            "endpointInput": {
                "observedContentType": JSON, "mode": "INPUT", "data": '{"inputs":[1,2]}', "encoding": "JSON",
            },
            "endpointOutput": {
                "observedContentType": "text/csv", "mode": "OUTPUT", "data": "0.5,0.5\n", "encoding": "CSV",
            },
        },
        "eventMetadata": {"inferenceId": "r1", "inferenceTime": "2023-11-14T22:13:20Z"},
        "eventVersion": "0",
    }  # fmt: skip
    stream = made(part(b"{}"), part(b"data: [DONE]\n\n", "text/event-stream"), layout="sagemaker")["captureData"]
    assert b64decode(stream["endpointOutput"]["data"]) == b"data: [DONE]\n\n"
    assert stream["endpointOutput"]["encoding"] == "BASE64"


def test_secrets_go_from_every_string_unless_they_are_asked_for() -> None:
    body = b'{"messages": [{"content": "I am ada\\u0040example.com"}], "user": "10.1.2.3"}'
    assert made(part(body))["request"]["data"] == {"messages": [{"content": "I am [email]"}], "user": "[ip]"}
    kept = made(part(body), redact=False)["request"]["data"]
    assert kept == {"messages": [{"content": "I am ada@example.com"}], "user": "10.1.2.3"}
    assert made(part(b"call +49 30 1234567", "text/plain"))["request"]["data"] == "call [phone]"


def test_a_body_that_was_cut_says_so_and_what_is_left_of_it_is_json_without_secrets() -> None:
    body = b'{"model": "m", "messages": [{"content": "my address is ada@example.com and the rest'
    found = made(part(body + b" of a long text" * 100, cut=len(body)))["request"]
    assert found["truncated"] is True and found["bytes"] == len(body) + 1500
    assert found["data"] == {"model": "m", "messages": [{"content": "my address is [email] and the rest"}]}


def test_of_both_bodies_only_the_fields_are_kept_and_nothing_of_what_has_none() -> None:
    rule = {"fields": ("model", "usage", "choices.message.role")}
    answer = b'{"choices": [{"message": {"role": "a", "content": "b"}}], "usage": {"x": 1}}'
    found = made(part(b'{"model": "m", "messages": [1]}'), part(answer), **rule)
    assert found["request"]["data"] == {"model": "m"}
    assert found["answer"]["data"] == {"choices": [{"message": {"role": "a"}}], "usage": {"x": 1}}
    for bad in (part(b"not json"), part(b"text", "text/plain"), part(b"\xff", "audio/wav"), part(b"NaN"), part(b'"s"')):
        found = made(bad, **rule)["request"]
        assert found["data"] in (None, {}) and (found["data"] == {} or found["left_out"])


def test_a_stream_is_its_events_as_they_came_but_for_what_is_secret() -> None:
    events = b'data: {"choices":[{"delta":{"content":"sk-q7Zk2mX9w"}}]}\n\n' \
             b'data: {"choices":[{"delta":{"content":"L4pT8vB3nR6 ok"}}]}\n\ndata: [DONE]\n\n'  # fmt: skip
    found = made(part(b"{}"), part(events, "text/event-stream"))["answer"]
    assert found["data"] == (
        'data: {"choices":[{"delta":{"content":"[secret]"}}]}\n\n'
        'data: {"choices":[{"delta":{"content":" ok"}}]}\n\ndata: [DONE]\n\n'
    )
    assert made(part(b"{}"), part(events, "text/event-stream"), redact=False)["answer"]["data"] == events.decode()
    cut = made(part(b"{}"), part(events, "text/event-stream", cut=80))["answer"]
    assert cut["truncated"] and cut["data"].count("\n\n") == 1


def test_bytes_that_cannot_be_searched_are_kept_only_where_nothing_is_to_be_redacted() -> None:
    audio = part(b"\xff\x00RIFF", "audio/wav")
    assert made(audio)["request"] == {"type": "audio/wav", "bytes": 6, "data": None, "left_out": "it is not text"}
    found = made(audio, redact=False)["request"]
    assert (found["data"], found["encoding"]) == (b64encode(b"\xff\x00RIFF").decode(), "base64")


def test_json_is_read_as_json_also_where_nobody_says_so() -> None:
    for kind in ("", "application/x-www-form-urlencoded"):
        assert made(part(b' {"user": "ada@example.com"}', kind))["request"]["data"] == {"user": "[email]"}
        assert made(part(b"{not json", kind))["request"]["left_out"] == "it is not text"
    for kind in ("text/plain", "text/event-stream", "application/jsonl"):
        assert made(part(b'{"user": "ada\\u0040example.com"}', kind))["request"]["data"] == {"user": "[email]"}


ODD = [b"1e400", b'{"a": 1e400}', b'{"a": NaN}', b'"\\ud800"', b"\xff\xfe", b"{", b"[" * 2000]


@pytest.mark.parametrize("body", ODD)
def test_odd_json_is_kept_as_text_or_as_it_is(body: bytes) -> None:
    for rule in ({}, {"redact": False}, {"layout": "sagemaker"}, {"layout": "sagemaker", "redact": False}):
        made(part(body), part(b"data: " + body + b"\n\n", "text/event-stream"), **rule)


kinds = st.sampled_from([JSON, "text/event-stream", "text/plain", "application/octet-stream", "", "x/jsonlines"])
bodies = st.one_of(st.binary(max_size=60), st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
                   st.text('{}[]",:\n data:a1@.', max_size=60).map(str.encode))  # fmt: skip


@settings(deadline=None)
@given(bodies, kinds, st.integers(0, 60), st.sampled_from([(), ("a",), ("a.b",)]), st.booleans(),
       st.sampled_from(["headway", "sagemaker"]))  # fmt: skip
def test_any_body_makes_one_line_of_json(
    body: bytes, kind: str, cut: int, fields: tuple[str, ...], redact: bool, layout: str
) -> None:
    made(part(body, kind), part(body, kind, cut), fields=fields, redact=redact, layout=layout)
