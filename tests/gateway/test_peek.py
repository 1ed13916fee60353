"""What is read of a JSON body, what is refused, and that rewriting touches nothing else."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import BadRequest
from gateway.peek import DEPTH, peek, rewrite


def refused(body: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        peek(body)
    assert caught.value.status == 400
    return caught.value


def test_the_fields_that_matter_are_read_and_the_prompt_stays_bytes() -> None:
    seen = peek(
        b'{"model":"m", "stream":true,"max_tokens":5, "messages": [ {"content":"h\xc3\xa9"} ],"user":"u","x":{"a":[1]}}'
    )
    assert (seen.model, seen.stream, seen.limit, seen.user) == ("m", True, 5, "u")
    assert seen.text == b'[ {"content":"h\xc3\xa9"} ]'
    assert peek(b'{"prompt":"a","max_completion_tokens":7,"max_tokens":9}').limit == 7
    assert peek(b'{"input":["a","b"],"max_output_tokens":3}').text == b'["a","b"]'
    assert peek(b'{"model":null,"stream":null}').model is None and peek(b"{}").text == b""


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"nul", b"{", b'{"model":"m"}x', b'{"model":"m"}{}', b'{"model":"m",}', b"{'model':1}", b'{"a":NaN}',
        b'{"a":Infinity}', b'{"a":01}', b'{"a":1.}', b'{"a":+1}', b'{"a":"\t"}', b'{"a":"\\x"}', b'{"a":"\\u12g4"}',
        b'{"a":tru}', b'{"model":"\xff"}', b'{"a":"\xc3\x28"}', b'{"a":"\xed\xa0\x80"}', b"\xef\xbb\xbf{}", b"\x00{}",
        b'{"a":[1,2}', b'{"a":/*x*/1}', b'{"a" "b"}', b'{"model":"m"}\x00', "{\"model\":\"m\"}".encode("utf-16"),
    ],
)  # fmt: skip
def test_what_is_not_utf8_json_is_refused(body: bytes) -> None:
    assert refused(body).code == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b'"a"', b"1", b"null"])
def test_a_body_must_be_an_object(body: bytes) -> None:
    refused(body)


@pytest.mark.parametrize(("body", "param"), [(b'{"model":1}', "model"), (b'{"stream":"yes"}', "stream"),
                                             (b'{"max_tokens":"5"}', "max_tokens")])  # fmt: skip
def test_a_wrong_type_names_the_field(body: bytes, param: str) -> None:
    assert refused(body).param == param


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"model":"a","model":"b"}', "model"),
        (b'{"model":"a","mod\\u0065l":"b"}', "model"),
        (b'{"\\u006dodel":"a","model":"b"}', "model"),
        (b'{"stream":false,"messages":[],"stream":true}', "stream"),
        (b'{"messages":[{"content":"%b"}],"messages":[{"content":"%b"}]}' % (b"a" * 100, b"a" * 100), "messages"),
        (b'{"messages":[{"content":"%b"}],"x":1,"messages":[]}' % (b"a" * 100), "messages"),
        (b'{"prompt":"%b","prompt":"%b"}' % (b"a" * 100, b"b" * 100), "prompt"),
        (b'{"model" :"a", "x":[{"model":1}], "model"\n:"b"}', "model"),
    ],
)
def test_a_repeated_key_that_is_read_is_refused_however_it_is_spelt(body: bytes, key: str) -> None:
    error = refused(body)
    assert (error.code, error.param) == ("repeated_key", key)


def test_keys_that_repeat_elsewhere_are_the_clients_own_business() -> None:
    inner = b'{"model":"m","tools":[{"model":1,"user":2},{"model":1,"user":3}],"messages":[{"model":1}],"x":1,"x":2}'
    assert peek(inner).model == "m"
    said = json.dumps({"model": "m", "messages": [{"content": '"model": "model": \\u0041 ' * 20}]}).encode()
    assert peek(said).model == "m"
    assert peek(b'{"model":"m","note":"\\u0041"}').model == "m"


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return ('{"model":"m","x":' + opening * (depth - 1) + "1" + closing * (depth - 1) + "}").encode()


def test_nesting_is_bounded_and_brackets_in_strings_do_not_count() -> None:
    assert peek(nested(DEPTH)).model == "m"
    refused(nested(DEPTH + 1))
    refused(nested(100_000))
    refused(nested(DEPTH + 1, '{"a":', "}"))
    for text in ("[" * 500, '\\"[' * 500, "\\\\" * 3 + "{" * 500, '"' + "[{" * 500):
        assert peek(json.dumps({"model": "m", "messages": [{"content": text}]}).encode()).model == "m"


def test_huge_numbers_and_many_keys_are_cheap_and_no_error_of_ours() -> None:
    assert peek(b'{"model":"m","x":' + b"9" * 5000 + b"}").model == "m"
    assert peek(b'{"model":"m",' + b",".join(b'"k%d":1' % n for n in range(50_000)) + b"}").model == "m"
    for value in (b"9" * 5000, b"1e400", b"-1", b"1.5"):
        with contextlib.suppress(BadRequest):
            peek(b'{"max_tokens":' + value + b"}")


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused_as_a_bad_request(body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        peek(body)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8,
)  # fmt: skip
_objects = st.dictionaries(st.text(max_size=6) | st.sampled_from(["model", "messages", "x"]), _values, max_size=6)


@given(_objects, st.integers(0, 400), st.binary(max_size=2), st.booleans())
def test_what_pythons_json_refuses_is_refused_here(value: dict[str, Any], at: int, change: bytes, ascii: bool) -> None:
    body = json.dumps({**value, "model": "m"}, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
    at %= len(body) + 1
    body = body[:at] + change + body[at + len(change) :]

    def no_constant(name: str) -> None:
        raise ValueError(name)

    try:
        read = json.loads(body.decode("utf-8"), parse_constant=no_constant)
        is_good = isinstance(read, dict)
    except (ValueError, RecursionError):
        is_good = False
    try:
        seen = peek(body)
    except BadRequest:
        return
    assert is_good
    assert seen.model == read.get("model")


@given(_objects, st.text(max_size=10), st.sampled_from([(",", ":"), (", ", " : "), (",\n  ", ":\t")]))
def test_rewriting_keeps_every_other_values_bytes(
    value: dict[str, Any], name: str, separators: tuple[str, str]
) -> None:
    value = {"a": 1.10, "model": "before", **value}
    value["model"] = "before"
    raw = '{"number": 1.10e+05 ,' + json.dumps(value, separators=separators)[1:]
    after = rewrite(raw.encode("utf-8", "surrogatepass"), {"model": name})
    assert json.loads(after) == {"number": 1.10e5, **value, "model": name}
    assert b"1.10e+05" in after
    for other, part in value.items():
        if other != "model":
            assert json.dumps(part, separators=separators).encode() in after


def test_rewriting_adds_what_was_not_there() -> None:
    assert json.loads(rewrite(b'{"a":1}', {"b": {"c": True}})) == {"a": 1, "b": {"c": True}}


@given(st.text(alphabet='{}[]":,\\udc8 0a1\n', max_size=40))
def test_whatever_is_read_can_be_rewritten(body: str) -> None:
    try:
        peek(body.encode())
    except BadRequest:
        return
    assert json.loads(rewrite(body.encode(), {"model": "x"}))["model"] == "x"


def test_a_key_that_is_half_a_character_is_refused() -> None:
    refused(b'{"model":"m","\\ud800":1}')


def test_a_repeated_key_does_not_hide_behind_bytes_that_look_like_the_prompt() -> None:
    between = b":[" + b"0," * 40 + b"0],"  # also what lies between the string "a" and the string "model"
    body = b'{"a"%b"model":"other","model":"m","prompt":"%b"}' % (between, between)
    assert refused(body).code == "repeated_key"
    assert refused(body.replace(b'"a"', b'"prompt:"')).code == "repeated_key"


def test_many_shallow_brackets_are_no_depth() -> None:
    assert peek(b'{"model":"m","a":[%b[]]}' % (b'[{"x":"]]}["}],' * 100_000)).model == "m"


def test_what_may_be_parsed_in_full_is_bounded():
    nested = b'"x":{"model":1},' * 20_000
    with pytest.raises(BadRequest) as refused:
        peek(b'{"model":"m",' + nested + b'"stream":false}')
    assert refused.value.code == "repeated_key"
    long_prompt = b'"messages":["' + b"x" * 1_000_000 + b'"]'
    assert peek(b'{"model":"m",' + long_prompt + b',"tools":[{"model":1},{"model":2}]}').model == "m"


def test_a_key_repeated_around_a_long_prompt_is_found():
    with pytest.raises(BadRequest):
        peek(b'{"model":"m","messages":["' + b"x" * 1000 + b'"],"model":"other"}')


@pytest.mark.parametrize("field", [b'"n":129', b'"best_of":1000000000'])
def test_how_many_answers_are_asked_for_is_read(field):
    assert peek(b'{"model":"m",' + field + b"}").answers > 128
