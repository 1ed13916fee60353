"""Finding a policy by name: what an operator reads when it does not work."""

import pytest

from policies.picking import POLICIES, check, create
from policies.picking.base import Policy
from policies.picking.least_tokens import LeastTokens


class Mine(Policy):
    """An operator's own."""

    def __init__(self, size: int = 3):
        self.size = size

    def pick(self, request, snapshot):
        raise NotImplementedError


def test_a_misspelt_policy_is_answered_with_the_near_ones():
    with pytest.raises(ValueError, match="no policy 'least_token'; did you mean least_tokens"):
        create("least_token", {})


def test_an_unknown_policy_is_answered_with_the_list():
    message = check("zzz", {})
    assert message is not None
    assert all(name in message for name in POLICIES)


def test_a_policy_that_is_planned_is_not_in_this_version(monkeypatch):
    monkeypatch.setattr("policies.picking.PLANNED", ("some_day",))
    message = check("some_day", {})
    assert message is not None and "not in this version" in message


def test_a_misspelt_option_is_answered_with_the_near_one():
    assert check("least_tokens", {"ties": 3}) == "pick: least_tokens has no option 'ties'; did you mean tie?"


def test_an_option_for_a_policy_that_has_none():
    assert check("round_robin", {"x": 1}) == "pick: round_robin has no option 'x'; it has none"


@pytest.mark.parametrize("value", ["3", True, -1, float("nan"), float("inf"), None, []])
def test_a_value_of_the_wrong_kind_names_the_option(value):
    message = check("least_tokens", {"tie": value})
    assert message is not None and message.startswith("pick: least_tokens: tie must be a number of at least 0")


def test_options_reach_the_policy():
    policy = create("least_tokens", {"tie": 50})
    assert isinstance(policy, LeastTokens) and policy.tie == 50.0


def test_a_class_of_ones_own_is_loaded_by_module_and_name():
    policy = create(f"{__name__}:Mine", {"size": 4})
    assert type(policy).__name__ == "Mine" and policy.size == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no.such.module:Thing", "cannot import 'no.such.module'"),
        ("policies.picking.base:Nothing", "no policy class 'Nothing'"),
        ("policies.picking.options:number", "no policy class 'number'"),
        ("policies.picking.base:Policy", "no `pick` method"),
        (":Policy", "cannot import ''"),
    ],
)
def test_what_is_wrong_with_a_class_of_ones_own_is_said(name, words):
    message = check(name, {})
    assert message is not None and words in message
