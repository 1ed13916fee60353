"""Expressions that can run away are refused, the others are read; what is read matches in little time."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.problems import Fault
from gateway.config.regexes import LONGEST, parse_regex


@pytest.mark.parametrize(
    "text",
    ["a", "a+", ".*x.*", "team-(a|b)?", "(?i)Team-[a-z0-9]+", "[a-z0-9.-]+@acme\\.com", "([a-f]{4}-){3}", "a{2,3}",
     "a{,3}", "[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", "a++", "a+?", "dev|stage|prod|qa|test|canary|blue", "[]a]+",
     "(?:ab){2}", "{", "a{1", "\\d+\\.\\d+", "(a+b)?"],
)  # fmt: skip
def test_an_expression_in_which_nothing_can_run_away_is_read(text: str) -> None:
    assert parse_regex(text) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the value is empty"),
        ("a" * (LONGEST + 1), "too long"),
        ("(a+)+", "a repeat inside a repeat"), ("(a*)*b", "a repeat inside a repeat"),
        ("((a?b)c)+", "a repeat inside a repeat"), ("(?:(?:a{3}){2}){3}", "a repeat inside a repeat"),
        ("(a|aa)+", "a choice inside a repeat"), ("((a|b)c){2,}", "a choice inside a repeat"),
        ("a*a*a*b", "3 repeats side by side"), ("a{3,50}a*a+", "3 repeats side by side"),
        ("a?a?a?a?a?a?a?aaaaaaa", "7 choices"), ("a{500}", "a repeat of more than 100"),
        ("a{99999999999999}", "a repeat of more than 100"),
        ("(?=a)b", "look-around"), ("(?<!a)b", "look-around"), ("(?P<n>a+)+", "look-around, names and flags"),
        ("(?x)a", "look-around, names and flags"), ("(?", "look-around"), ("(a)\\1", "back references are refused"),
        ("[[a]", "not a plain set"), ("[a--b]", "not a plain set"), ("[a", "not a regular expression"),
        ("(a", "not a regular expression"), ("a)", "not a regular expression"), ("*a", "not a regular expression"),
        ("a**", "not a regular expression"), ("\\", "not a regular expression"), ("\\q", "not a regular expression"),
    ],
)  # fmt: skip
def test_what_can_run_away_or_is_no_expression_is_refused(text: str, said: str) -> None:
    with pytest.raises(Fault) as caught:
        parse_regex(text)
    assert said in caught.value.message


PIECES = st.sampled_from(["a", "b", ".", "a*", ".*", "a+", "a?", "[ab]+", "(", "(?:", ")", ")*", ")?", "){2}", "|",
                          "a{2}", "a{0,3}", "a{0,90}", "\\w+", "^", "$"])  # fmt: skip


@settings(max_examples=200)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_what_is_read_counts_to_little(text: str) -> None:
    """Not the clock: as many repeats without an end as are allowed, and none inside another."""
    try:
        parse_regex(text)
    except Fault:
        return
    assert len(re.findall(r"[*+]|\{0,90\}", text)) <= 2
    inner = re.sub(r"\(\?:", "(", text)  # `?` that is no repeat
    assert not re.search(r"\([^()]*[*+?|}][^()]*\)\*", inner.replace("{2}", ""))
