"""Which model a name means: exact before alias before the longest pattern."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.names import ModelNames, length, matches, overlap
from gateway.config.types import model_to

MODELS = {
    "llama": model_to("llama", "p", aliases=("gpt-4o",), patterns=("llama-*", "*-chat")),
    "llama-big": model_to("llama-big", "q", patterns=("llama-3*",)),
    "*": model_to("*", "r"),
}
patterns = st.text(alphabet="ab*", min_size=1, max_size=8).filter(lambda text: "*" in text)


@pytest.mark.parametrize(
    ("asked", "name"),
    [("llama", "llama"), ("llama-big", "llama-big"), ("gpt-4o", "llama"), ("llama-2", "llama"),
     ("llama-3.1", "llama-big"), ("x-chat", "llama"), ("llama-", "llama"), ("other", "*"), ("", "*"), ("*", "*")],
)  # fmt: skip
def test_a_name_is_found_in_the_promised_order(asked: str, name: str) -> None:
    found = ModelNames(MODELS).find(asked)
    assert found is not None
    assert found.name == name


def test_an_unknown_name_is_none_and_near_ones_are_told() -> None:
    names = ModelNames({name: model for name, model in MODELS.items() if name != "*"})
    assert names.find("mistral") is None
    assert names.find("*") is None
    assert names.near("lama")[0] == "llama"


@given(patterns, st.text(alphabet="abc", max_size=10))
def test_matching_is_what_a_regular_expression_says(pattern: str, name: str) -> None:
    assert matches(pattern, name) == bool(re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name))


@given(patterns, patterns, st.text(alphabet="ab", max_size=8))
def test_patterns_that_share_a_name_overlap(one: str, other: str, name: str) -> None:
    if matches(one, name) and matches(other, name):
        assert overlap(one, other)


@given(patterns, patterns)
def test_patterns_that_overlap_share_a_name(one: str, other: str) -> None:
    if overlap(one, other):
        first, *middle, last = one.split("*")
        first_other, *middle_other, last_other = other.split("*")
        name = "".join([max(first, first_other, key=len), *middle, *middle_other, max(last, last_other, key=len)])
        assert matches(one, name)
        assert matches(other, name)


def test_a_patterns_length_is_what_it_spells_out() -> None:
    assert length("ab*c*") == 3


def test_a_model_is_sent_on_by_its_own_name_or_the_one_it_has_there() -> None:
    assert model_to("m", "p").upstream_name("alias") == "m"
    assert model_to("m", "p", as_="served").upstream_name("m") == "served"
    assert model_to("*", "p").upstream_name("Any/Thing") == "Any/Thing"
