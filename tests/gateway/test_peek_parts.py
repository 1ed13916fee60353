"""All of a prompt is counted and hashed: what stands before the messages, and what a ranking is asked about."""

import json
from typing import Any

import pytest

from gateway.core.errors import BadRequest
from gateway.core.prefixes import hash_blocks
from gateway.peek import peek


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def raw(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() for value in values)


TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"query": {"type": "string"}}}}]
SYSTEM = "You are an agent. " * 20
BLOCKS = [{"type": "text", "text": SYSTEM}]
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"messages": MESSAGES, "system": SYSTEM, "tools": TOOLS}, (TOOLS, SYSTEM, MESSAGES)),
        ({"tools": TOOLS, "messages": MESSAGES}, (TOOLS, MESSAGES)),
        ({"messages": MESSAGES, "system": BLOCKS}, (BLOCKS, MESSAGES)),
        ({"input": "hi", "instructions": SYSTEM, "tools": TOOLS}, (TOOLS, SYSTEM, "hi")),
        ({"query": "q", "documents": ["a", "b"]}, ("q", ["a", "b"])),
        ({"text_2": ["a", "b"], "text_1": "q"}, ("q", ["a", "b"])),
        ({"queries": ["q"], "documents": ["a"]}, (["q"], ["a"])),
        ({"queries": ["q"], "items": ["a"]}, (["q"], ["a"])),
        ({"data_1": "q", "data_2": ["a"]}, ("q", ["a"])),
    ],
)  # fmt: skip
def test_a_prompt_is_all_its_parts_in_the_order_of_a_template(fields: dict[str, Any], parts: tuple[Any, ...]) -> None:
    assert peek(body(**fields)).text == raw(*parts)


def test_what_the_endpoint_of_such_a_body_does_not_read_is_no_part_of_the_prompt() -> None:
    assert peek(body(prompt=["a", "b"], tools=TOOLS, system=SYSTEM, query="q")).text == raw(["a", "b"])
    assert peek(body(messages=MESSAGES, documents=["a"], instructions=SYSTEM)).text == raw(MESSAGES)
    assert peek(body(messages=MESSAGES, tools=None, system=None)).text == raw(MESSAGES)
    assert peek(body(documents=["a"], query=None)).text == raw(["a"])


def test_who_shares_messages_alone_shares_no_prefix_and_who_shares_the_system_prompt_does() -> None:
    one, other = (peek(body(system=f"{who} {SYSTEM}", messages=MESSAGES)).text for who in ("a", "b"))
    assert hash_blocks(one)[0] != hash_blocks(other)[0]
    other = peek(body(system=f"a {SYSTEM}", messages=[{"role": "user", "content": "something else"}])).text
    assert hash_blocks(one)[:2] == hash_blocks(other)[:2]


@pytest.mark.parametrize(
    "text",
    [
        b'{"tools":[1],"messages":[],"tools":[2]}',
        b'{"system":"%b","messages":[],"system":"%b"}' % (b"a" * 100, b"a" * 100),
        b'{"system":"%b","messages":[],"syst\\u0065m":"b"}' % (b"a" * 100),
        b'{"input":"","instructions":"a","instructions":"b"}',
        b'{"query":"q","documents":["%b"],"documents":["%b"]}' % (b"a" * 100, b"b" * 100),
        b'{"text_1":"q","text_2":"a","text_1":"r"}',
    ],
)
def test_a_part_that_is_repeated_is_refused(text: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        peek(text)
    assert caught.value.code == "repeated_key"


def test_names_inside_tools_and_documents_are_their_authors_business_at_any_length() -> None:
    many = [
        {"name": f"f{n}", "parameters": {"query": {"items": {}}, "user": 1, "system": "\u00e9" * 1000}}
        for n in range(60)
    ]
    assert len(body(tools=many)) > 256 << 10
    assert peek(body(tools=many, messages=MESSAGES)).model == "m"
    assert peek(body(query="q" * 100, documents=many)).model == "m"
    schema = {"properties": {"a": {"items": {}}, "b": {"items": {}, "text": "a" * (256 << 10)}}}
    assert peek(body(response_format=schema, messages=MESSAGES)).model == "m"
