"""Editing an answer: the model's name and injected usage change, not a byte else, from any split."""

import json

from hypothesis import given
from hypothesis import strategies as st

from gateway.edit import Editor

UP, CLIENT = "org/real-ü", 'a"lias'
CHUNK = json.dumps({"id": "x", "model": UP, "choices": [{"delta": {"content": f'say "model": "{UP}"'}}]}).encode()
EVENTS = [
    b"data: " + CHUNK,
    b'data: {"model":"org/real-\xc3\xbc","choices":[{"text":"hi"}]}',
    b": comment",
    b'event: message_start\ndata: {"type":"message_start","message":{"model" : "org/real-\\u00fc","usage":{"a":1}}}',
    b'event: response.created\ndata: {"type":"response.created","response":{"model":"org/real-\\u00fc"}}',
    b'data: {"model":"other","choices":[{"text":"x"}]}',
    b"data: [DONE]",
]
USAGE = b'data: {"model":"org/real-\\u00fc","choices" : [ ],"usage":{"prompt_tokens":3}}'


def run(raw: bytes, cuts: list[int], *, drop: bool = False, name: str | None = UP) -> bytes:
    editor = Editor(name, CLIENT, drop)
    out, at = b"", 0
    for cut in [*sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]:
        out += editor.stream(raw[at:cut])
        at = cut
    return out + editor.rest()


def expected(event: bytes) -> bytes:
    ours = json.dumps(CLIENT).encode()
    for spelt in (b'"model":"org/real-\xc3\xbc"', b'"model":"org/real-\\u00fc"', b'"model" : "org/real-\\u00fc"',
                  b'"model": "org/real-\\u00fc"'):  # fmt: skip
        event = event.replace(spelt, spelt.partition(b'"o')[0] + ours)
    return event


@given(
    st.lists(st.sampled_from(EVENTS), max_size=6),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.lists(st.integers(0, 2000), max_size=12),
    st.booleans(),
)
def test_only_the_models_name_changes_from_any_split(
    events: list[bytes], end: bytes, cuts: list[int], tail: bool
) -> None:
    spelt = [event.replace(b"\n", end) for event in events]
    raw = b"".join(event + end + end for event in spelt)
    want = b"".join(expected(event) + end + end for event in spelt)
    if tail:  # a stream that ends inside an event
        raw, want = raw + EVENTS[0], want + expected(EVENTS[0])
    assert run(raw, cuts) == want == run(raw, list(range(len(raw))))


def test_what_content_says_about_a_model_is_not_a_models_name() -> None:
    out = run(EVENTS[0] + b"\n\n", [])
    assert json.loads(out[6:])["choices"] == json.loads(CHUNK)["choices"]


@given(st.lists(st.integers(0, 2000), max_size=12))
def test_usage_that_only_we_asked_for_is_taken_out_again(cuts: list[int]) -> None:
    raw = EVENTS[0] + b"\n\n" + USAGE + b"\n\n" + EVENTS[6] + b"\n\n"
    assert run(raw, cuts, drop=True, name=None) == EVENTS[0] + b"\n\n" + EVENTS[6] + b"\n\n"
    assert USAGE.replace(b'"org/real-\\u00fc"', json.dumps(CLIENT).encode()) in run(raw, cuts)
    with_choices = b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":3}}\n\n'
    assert run(with_choices, cuts, drop=True, name=None) == with_choices


def test_an_editor_with_nothing_to_change_changes_nothing() -> None:
    assert run(EVENTS[0] + b"\n\n", [], name=CLIENT) == EVENTS[0] + b"\n\n"
    assert not Editor(None, CLIENT, True).changes_plain and Editor(UP, CLIENT, False).changes_plain


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_any_bytes_pass(pieces: list[bytes]) -> None:
    editor = Editor("never-there", CLIENT, False)
    assert b"".join(map(editor.stream, pieces)) + editor.rest() == b"".join(pieces)


def test_memory_of_an_endless_event_is_bounded() -> None:
    editor = Editor(UP, CLIENT, True)
    out = sum(len(editor.stream(b"x" * (1 << 20))) for _ in range(40))
    assert out >= 8 << 20
