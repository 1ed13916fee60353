"""Bodies as they may be kept: what is selected, what is closed where it was cut, what is found in JSON."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.captures.redacted import Redactor, dumped, mended, selected, shared_out
from gateway.captures.redaction import Span

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


def test_a_string_that_was_cut_behind_a_backslash_is_closed() -> None:
    for text, said in (('["\\\\', "\\"), ('["a\\', "a"), ('["\\\\u00', "\\u00"), ('["\\u00', ""), ('["\\"', '"')):
        assert json.loads(mended(text)) == [said]


def test_json_that_nests_deeply_is_closed_in_as_many_steps_as_it_has() -> None:
    """Closing it anew for each of its tokens takes minutes."""
    assert mended("[" * 400_000) == "[" * 400_000 + "]" * 400_000


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
             "ada@example.com": True}  # fmt: skip
    assert Redactor().value(value) == {
        "messages": [{"role": "user", "content": "my key is [secret]", "n": 3}], "password": "[secret]",
        "Api_Key": "[secret]", "[email]": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "DB_PASSWORD",
        "accessToken",
        "clientSecret",
        "token",
        "Token",
        "x-api-key",
        "secrets",
        "apiKeys",
        "db.password",
        "password2",
        "privateKey",
        "secretAccessKey",
    ],
)
@pytest.mark.parametrize("value", ["x", 83920174, 1.5, ["a", "b"], {"value": "a"}])  # fmt: skip
def test_whatever_goes_by_a_secret_s_name_is_one(name: str, value: Any) -> None:
    assert Redactor().value({name: value}) == {name: "[secret]"}
    assert Redactor().value([{"name": name, "value": value}]) == [{"name": name, "value": "[secret]"}]


@pytest.mark.parametrize(
    "name",
    [
        "max_tokens",
        "prompt_tokens",
        "tokens",
        "completion_tokens",
        "total_tokens",
        "eos_token",
        "next_page_token",
        "secretary",
        "api_tokens",
        "max_completion_tokens",
        "prompt_tokens_details",
        "key",
        "tokenizer",
        "monkey",
    ],
)
def test_names_that_only_sound_like_it_are_none(name: str) -> None:
    for value in (7, "word", ["a", "b"], {"cached_tokens": 3}):
        assert Redactor().value({name: value}) == {name: value}
    assert Redactor().value({"password": None, "secret": True}) == {"password": None, "secret": True}


def test_a_tool_may_have_a_parameter_with_a_secret_s_name() -> None:
    declared = {"type": "object", "properties": {
        "password": {"type": "string", "description": "its own"},
        "token": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
    }}  # fmt: skip
    assert Redactor().value({"parameters": declared}) == {"parameters": declared}
    value = {"properties": {"password": {"type": "string", "default": "hunter2"}, "secret": "x"}}
    assert Redactor().value(value) == {"properties": {"password": "[secret]", "secret": "[secret]"}}


def test_a_card_may_be_a_number() -> None:
    assert Redactor().value([4111111111111111, 4111111111111112, 1700000000000, -3]) == [
        "[card]", 4111111111111112, 1700000000000, -3]  # fmt: skip


def test_what_says_a_text_again_token_by_token_is_left_out() -> None:
    token = {"token": SECRET[:5], "bytes": [115, 107], "top_logprobs": [{"token": SECRET[:5]}]}
    value = {"prompt_token_ids": [1, 2], "usage": {"prompt_tokens": 3}, "prompt_logprobs": [None, {"1": {"rank": 1}}],
             "choices": [{"logprobs": {"content": [token]}, "token_ids": [4], "index": 0}],
             "details": {"tokens": [{"id": 1, "text": "sk", "logprob": -0.5}]}, "prompt": [[1, 2], [3]],
             "outputs": [{"name": "output_ids", "datatype": "INT32", "data": [1, 2]}]}  # fmt: skip
    assert Redactor().value(value) == {
        "usage": {"prompt_tokens": 3}, "choices": [{"index": 0}], "details": {},
        "outputs": [{"name": "output_ids", "datatype": "INT32"}],
    }  # fmt: skip
    asked = {"logprobs": True, "top_logprobs": 5, "prompt": ["a", "b"], "input": [{"id": "1"}], "tokens": 3}
    assert Redactor().value(asked) == asked and Redactor().value({"logprobs": None}) == {"logprobs": None}
    assert Redactor().value({"token": {"id": 7, "text": "a", "logprob": -1}}) == {"token": {"text": "a", "logprob": -1}}


@pytest.mark.parametrize(("inner", "kept"), [
    ('{"password":"hunter2x9"}', '{"password":"[secret]"}'), ('{"password":"x"}', '{"password":"[secret]"}'),
    ('["alice\\u0040x.com"]', '["[email]"]'), ('"{\\"pwd\\": 1}"', '"{\\"pwd\\":\\"[secret]\\"}"'),
    ('\n{"u": "https:\\/\\/bob:pw@host/"}', '{"u":"https://bob:[secret]@host/"}'),
    ('{"a": 1, "max_tokens": [1,  2]}', '{"a": 1, "max_tokens": [1,  2]}'), ("[1] see {there}", "[1] see {there}"),
    (f'[not JSON, {SECRET}', "[not JSON, [secret]"), ("{", "{"), ("[" * 5000, "[" * 5000),
])  # fmt: skip
def test_json_in_strings_of_json_is_read(inner: str, kept: str) -> None:
    assert Redactor().value({"arguments": inner}) == {"arguments": kept}
    again = Redactor().value({"arguments": json.dumps({"body": inner})})
    assert json.loads(again["arguments"]) == {"body": kept}


@pytest.mark.parametrize(("inner", "kept"), [
    ('{"password":"hunt', '{"password":"[secret]"}'), ('[{"pwd": 12, "mor', '[{"pwd":"[secret]"}]'),
    (r'{"body":"{\"password\":\"x', r'{"body":"{\"password\":\"[secret]\"}"}'),
    ('{"a": 1, "b": tr', '{"a": 1, "b": tr'),
    ("[1] ada@example.com {x}", "[1] [email] {x}"), ('"ada@example.com" it', '"[email]" it'), ('"a', '"a'),
    (f"[a](b) {{x}} {SECRET}", "[a](b) {x} [secret]"), (f'["a" b {SECRET}', '["a" b [secret]'),
])  # fmt: skip
def test_json_in_a_string_may_have_been_cut_off(inner: str, kept: str) -> None:
    assert Redactor().value({"arguments": inner}) == {"arguments": kept}


def test_json_too_deep_to_be_read_is_searched_as_text() -> None:
    text = json.dumps({"password": "hunter2x9", "url": "https://bob:pw@host/", "mail": SECRET})
    for _ in range(4):
        text = json.dumps({"body": text})
    said = Redactor().text(text)
    assert "hunter2x9" not in said and "pw@" not in said and SECRET not in said
    for _ in range(5):
        said = json.loads(said)[("body", "password")["password" in json.loads(said)]]
    assert said == "[secret]"


def test_a_secret_in_members_of_a_list_is_found_and_whole_members_stay() -> None:
    def kept(*texts: str) -> Any:
        return Redactor().value({"outputs": [{"name": "text", "datatype": "BYTES", "data": list(texts)}]})[
            "outputs"][0]["data"]  # fmt: skip

    assert kept("it is sk-", SECRET[3:9], SECRET[9:] + " end") == ["it is [secret]", "", " end"]
    assert kept(f"see {SECRET}", "world") == ["see [secret]", "world"]
    assert kept("ada@example.com", "bob@example.com") == ["[email]", "[email]"]
    assert kept("0.1", "0.2", "0.3") == ["0.1", "0.2", "0.3"]
    assert Redactor().value([4, "4111 1111", None, " 1111 1111"]) == [4, "[card]", None, ""]


@given(st.lists(st.text("ab", max_size=4), max_size=12), st.data())
def test_texts_share_what_was_found_in_all_of_them(texts: list[str], data: st.DataObject) -> None:
    joined = "".join(texts)
    edges = sorted(data.draw(st.lists(st.integers(0, len(joined)), unique=True, max_size=6)))
    spans = [Span(start, end, "*") for start, end in zip(edges[::2], edges[1::2], strict=False)]
    parts = list(shared_out(texts, spans))
    hidden = {at for span in spans for at in range(span.start, span.end)}
    left = "".join(one for at, one in enumerate(joined) if at not in hidden)
    assert len(parts) == len(texts) and "".join(parts).replace("*", "") == left
    assert "".join(parts).count("*") == len(spans)


def test_an_address_written_with_escapes_is_found() -> None:
    assert Redactor().value(json.loads('"ada\\u0040example.com"')) == "[email]"


def test_fields_are_members_and_members_of_members() -> None:
    value = {"model": "m", "usage": {"total_tokens": 3, "x": 1}, "choices": [{"index": 0, "message": {"content": "a"}}]}
    assert selected(value, ["model", "usage.total_tokens", "choices.message.content"]) == {
        "model": "m", "usage": {"total_tokens": 3}, "choices": [{"message": {"content": "a"}}],
    }  # fmt: skip
    assert selected(value, ["usage", "nothing"]) == {"usage": {"total_tokens": 3, "x": 1}}
    assert selected([], ["a"]) == [] and selected("text", ["a"]) == {}
