"""Kinds of value that conditions are made of: what is bounded, and what they say of themselves to editors."""

from collections.abc import Callable

import pytest

from gateway.config.conditions import KEYS, MOST_TEXTS, TEXTS, parse_hour, show_hour
from gateway.config.kinds import NOTHING, Reader
from gateway.config.problems import Fault, Problem
from gateway.config.tree import parse_tree

Faults = Callable[..., tuple[Problem, ...]]


def reader() -> Reader:
    return Reader("f", {}, "/", {})


@pytest.mark.parametrize(("text", "seconds"), [("00:00", 0), ("06:30", 23_400), ("23:59", 86_340), ("24:00", 86_400)])
def test_a_time_of_day_is_seconds_and_back(text: str, seconds: int) -> None:
    assert parse_hour(text) == seconds
    assert show_hour(seconds) == text


@pytest.mark.parametrize("text", ["24:01", "6:30", "06.30", "0630", "06:60", "-1:00", "noon", ""])
def test_another_spelling_of_a_time_of_day_is_refused(text: str) -> None:
    with pytest.raises(Fault):
        parse_hour(text)


def test_half_a_condition_is_none() -> None:
    """One bad part spoils it: what is left would fit other requests than were meant."""
    seen = reader()
    node = parse_tree(b"[a, {regex: '('}, {prefix: b}]", "f", seen.error)
    assert TEXTS.read(node, ("x",), seen) is NOTHING
    assert len(seen.problems) == 1


def test_texts_of_one_condition_are_bounded() -> None:
    seen = reader()
    many = ", ".join(f"t{number}" for number in range(MOST_TEXTS + 3))
    TEXTS.read(parse_tree(f"[{many}]".encode(), "f", seen.error), ("x",), seen)
    assert {problem.message for problem in seen.problems} == {f"more than {MOST_TEXTS} texts in one condition"}


def test_each_text_keeps_its_place() -> None:
    seen = reader()
    TEXTS.read(parse_tree(b"[a,\n {prefix: b}, c]", "f", seen.error), ("x",), seen)
    assert [seen.value_at("x", "=", text) for text in "abc"] == [(1, 2), (2, 11), (2, 15)]


def test_a_key_is_compared_by_its_hash_and_a_plain_one_is_warned_of() -> None:
    seen = reader()
    found = KEYS.read(parse_tree(b"[test]", "f", seen.error), ("key",), seen)
    assert found.exact == ("sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",)
    assert [warning.message for warning in seen.warnings] == ["a plain key"]


def test_a_zone_is_suggested_by_its_town_or_its_spelling(faults: Faults) -> None:
    when = "{time: {to: '06:00', zone: ZONE}}"
    base = f"pools: {{p: {{endpoints: [http://a]}}}}\nmodels: {{m: {{routes: [{{to: p, when: {when}}}]}}}}\n"
    for zone, meant in (("Berlin", "Europe/Berlin"), ("Amerca/New_York", "America/New_York"),
                        ("europe/paris", "Europe/Paris")):  # fmt: skip
        assert f"did you mean `{meant}`?" in faults(base.replace("ZONE", zone))[0].told
    assert "unknown time zone `../../etc/passwd`" in faults(base.replace("ZONE", "../../etc/passwd"))[0].told
