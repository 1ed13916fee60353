"""References in a value: what replaces them, and what is said when something is missing."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.expand import expand
from gateway.config.problems import Fault

ENV = {"A": "a", "EMPTY": "", "NESTED": "${A}"}


@pytest.mark.parametrize(
    ("text", "result"),
    [("x", "x"), ("${A}", "a"), ("<${A}${A}>", "<aa>"), ("${B:-b c}", "b c"), ("${A:-b}", "a"), ("${EMPTY:-b}", "b"),
     ("${B:-}", ""), ("${EMPTY}", ""), ("$A $ $$ {A}", "$A $ $$ {A}"), ("$${A}", "${A}"), ("${NESTED}", "${A}"),
     ("${B:-http://h:1/-x}", "http://h:1/-x")],
)  # fmt: skip
def test_references_are_replaced_once(text: str, result: str) -> None:
    assert expand(text, ENV, "/") == result


@pytest.mark.parametrize(
    ("text", "message"),
    [("${B}", "environment variable is not set: `B`"), ("${A", "`${` is never closed: `${A`"),
     ("${}", "not a variable: `${}`"), ("${A-b}", "not a variable: `${A-b}`"), ("${1}", "not a variable: `${1}`"),
     ("${file:none}", "file `/none`: cannot be read"), ("${file:\0}", "file `/"), ("${file:\ud800}", "file `/"),
     ("${file:dev}", "file `/dev`: cannot be read")],
)  # fmt: skip
def test_what_cannot_be_replaced_is_refused(text: str, message: str) -> None:
    with pytest.raises(Fault) as caught:
        expand(text, ENV, "/")
    assert caught.value.message.startswith(message)


def test_a_file_is_read_beside_the_configuration_without_its_last_line_end(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"hunter2\r\n")
    (tmp_path / "latin").write_bytes(b"\xff")
    assert expand("<${file:secret}>", {}, str(tmp_path)) == "<hunter2>"
    assert expand(f"${{file:{tmp_path}/secret}}", {}, "/") == "hunter2"
    with pytest.raises(Fault, match="not UTF-8"):
        expand("${file:latin}", {}, str(tmp_path))


@given(st.text(max_size=30) | st.text(alphabet="${}:-A", max_size=20))
def test_any_text_is_expanded_or_refused(text: str) -> None:
    with contextlib.suppress(Fault):
        expand(text, ENV, "/nowhere")
