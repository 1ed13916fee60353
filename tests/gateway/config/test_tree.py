"""Text to nodes: what is refused before anything is made of it, and where."""

import contextlib
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import tree
from gateway.config.problems import MOST_PROBLEMS, ConfigError, Mark, Problem
from gateway.config.tree import Mapping, Node, Scalar, Sequence, parse_tree, read_bytes


def parse(text: str | bytes) -> Node:
    return parse_tree(text.encode() if isinstance(text, str) else text, "f.yaml", ignore)


def ignore(mark: Mark, message: str, hint: str) -> None:
    """A report that nobody reads."""


def refused(text: str | bytes) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return list(caught.value.problems)


@pytest.fixture(params=["C", "Python"], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds with libyaml and without it."""
    if request.param == "Python":
        monkeypatch.setattr(tree, "_LOADER", yaml.SafeLoader)


def test_every_node_knows_its_place() -> None:
    root = parse("a: 1\nb:\n  - x\n  - {c: d}\n")
    assert isinstance(root, Mapping)
    key, value = root.entries["b"]
    assert (key.mark, value.mark) == (Mark(2, 1), Mark(3, 3))
    assert isinstance(value, Sequence)
    assert value.items[0] == Scalar(Mark(3, 5), "x")
    assert value.items[1].mark == Mark(4, 5)


def test_scalars_stay_text_and_quotes_are_remembered() -> None:
    root = parse("[no, 1:30, 010, '5', \"\", null, ~]")
    assert isinstance(root, Sequence)
    assert [item.text for item in root.items if isinstance(item, Scalar)] == ["no", "1:30", "010", "5", "", "null", "~"]
    assert [item.is_null for item in root.items if isinstance(item, Scalar)] == [False] * 5 + [True] * 2


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("", 1, 1, "empty file"),
        ("# only this\n", 1, 1, "empty file"),
        ("---\n", 1, 1, "empty file"),
        ("a: 1\n---\nb: 2\n", 2, 1, "second document"),
        ("a: &x 1\n", 1, 4, "anchor or alias: `&x`"),
        ("a: 1\nb: *x\n", 2, 4, "anchor or alias: `*x`"),
        ("a: {<<: {b: 1}}\n", 1, 5, "anchor or alias: the merge key `<<` is refused"),
        ("a: !!str 1\n", 1, 4, "tag: `tag:yaml.org,2002:str` is refused"),
        ("a: !x [1]\n", 1, 4, "tag: `!x` is refused"),
        ("%YAML 1.1\n---\na: 1\n", 1, 1, "directive: `%` lines are refused"),
        ("a:\n\tb: 1\n", 2, 1, "tab in indentation"),
        ("a: 'b\nc: d\n", 1, 4, "unclosed quote"),
        ("a: \"b\nc: d\n", 1, 4, "unclosed quote"),
        ("a: 1\nb: \x07\n", 2, 4, "control character U+0007"),
        (b"a: 1\nb: \xff\n", 2, 4, "not UTF-8: byte 0xff"),
        ("a: 1\n".encode("utf-16"), 1, 1, "not UTF-8: byte 0xff"),
        ("a: " + "[" * 200, 1, 53, "too deep"),
        ("- " * 200, 1, 101, "too deep"),
        ("[a" + ",a" * tree.MOST_NODES + "]", 1, 100000, "too large"),
    ],
)
def test_what_a_configuration_does_not_need_is_refused(text: str | bytes, line: int, column: int, message: str) -> None:
    first = refused(text)[0]
    assert (first.line, first.column, first.message) == (line, column, message)


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: b: c", 1), ("a: ]", 1), ("a: @b", 1), ("- a\nb: c", 2), ("*", 1), ("&", 1), ("a: [1 2\nb: 1\n", 1),
     ("a: 1\nb: [1,\nc: 2\nd: {e: 1}\n", 2), ("a: 1\nb: {c: 1\nd: 2\n", 2)],
)  # fmt: skip
def test_bad_syntax_is_told_at_the_line_of_its_cause(text: str, line: int) -> None:
    (fault,) = refused(text)
    assert fault.line == line
    assert fault.message.startswith(("not YAML: ", "anchor or alias"))


def test_a_file_may_begin_with_a_byte_order_mark_and_have_windows_lines() -> None:
    root = parse(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert isinstance(root, Mapping)
    assert [key.mark for key, _ in root.entries.values()] == [Mark(1, 1), Mark(2, 1)]


def test_a_repeated_key_is_reported_and_left_out() -> None:
    seen: list[tuple[Mark, str, str]] = []
    root = parse_tree(b"a: 1\nb: 2\n'a': 3\n", "f.yaml", lambda *told: seen.append(told))
    assert seen == [(Mark(3, 1), "key repeated: `a`", "it is already on line 1")]
    assert isinstance(root, Mapping)
    assert isinstance(root.entries["a"][1], Scalar)
    assert root.entries["a"][1].text == "1"


def test_a_key_that_is_no_text_is_reported_and_left_out() -> None:
    seen: list[str] = []
    root = parse_tree(b"{a: 1}: 2\n[b]: 3\nc: 4\n", "f.yaml", lambda _, message, __: seen.append(message))
    assert seen == ["a key is not plain text"] * 2
    assert isinstance(root, Mapping)
    assert list(root.entries) == ["c"]


def test_all_anchors_and_tags_are_told_at_once() -> None:
    assert [problem.line for problem in refused("a: &x 1\nb: *x\nc: !y 2\n")] == [1, 2, 3]


@pytest.mark.parametrize("text", ["[" + "*a, " * 50_000 + "]", "{" + "&a b: !c d, " * 10_000 + "}"])
def test_a_bomb_ends_the_reading_early(text: str) -> None:
    assert len(refused(text)) == MOST_PROBLEMS


@given(st.text(max_size=200) | st.text(alphabet="ab:-[]{},&*!|>'\"%#? \n\t", max_size=80))
def test_no_text_makes_reading_raise_anything_else(text: str) -> None:
    try:
        parse(text.encode("utf-8", "surrogatepass"))
    except ConfigError as error:
        assert error.problems[0].line >= 1
        assert error.problems[0].column >= 1


@given(st.binary(max_size=100))
def test_no_bytes_make_reading_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        parse(data)


def test_only_a_regular_file_of_bounded_size_is_read(tmp_path: Path) -> None:
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    large.write_bytes(b"#" * ((1 << 20) + 1))
    for path, message in [(pipe, "not a regular file"), (tmp_path, "Is a directory"), (large, "too large"),
                          (tmp_path / "none", "No such file"), (Path("/dev/zero"), "not a regular file")]:  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            read_bytes(str(path))
    with pytest.raises(ConfigError, match="null"):
        read_bytes("a\0b")
