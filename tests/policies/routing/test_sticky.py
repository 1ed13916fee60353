"""Dealing by identity: by weight, and a change moves users only into or out of the arm that changed."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.routes import Sticky
from policies.routing.split import weights_of
from policies.routing.sticky import Dealer, user_of
from tests.policies.routing.asking import arms, asked

USERS = [f"user-{number}" for number in range(4000)]


def dealt(dealer: Dealer, weights: tuple[float, ...], users: list[str] = USERS) -> list[int]:
    return [dealer.arm(weights, dealer.number(user)) for user in users]


@given(st.lists(st.floats(0.0, 10.0), min_size=2, max_size=4), st.integers(0, 3), st.floats(0.0, 30.0), st.text())
def test_a_weight_moves_users_only_into_or_out_of_its_own_arm(
    weights: list[float], which: int, weight: float, salt: str
) -> None:
    row = which % len(weights)
    dealer = Dealer("m", salt, (str(arm) for arm in range(len(weights))))
    weights[(row + 1) % len(weights)] += 0.5  # somebody has one
    before = tuple(weights)
    after = (*before[:row], weight, *before[row + 1 :])
    for old, new in zip(dealt(dealer, before, USERS[:200]), dealt(dealer, after, USERS[:200]), strict=True):
        assert old == new or (new == row if weight > before[row] else old == row)


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6), st.integers(2, 4))
def test_a_ramp_moves_users_only_in_its_own_direction(steps: list[float], count: int) -> None:
    made = arms(*range(1, count + 1))
    dealer = Dealer("m", "", (arm.name for arm in made))
    rounds = [(share, dealt(dealer, weights_of(made, "b", share), USERS[:200])) for share in steps]
    for (before, old), (after, new) in pairwise(rounds):
        for was, now in zip(old, new, strict=True):
            assert was == now or (now == 1 if after > before else was == 1)


def test_arms_get_users_by_weight() -> None:
    counts = Counter(dealt(Dealer("m", "s", "abc"), (70.0, 25.0, 5.0)))
    for row, share in enumerate((0.70, 0.25, 0.05)):
        spread = (share * (1 - share) / len(USERS)) ** 0.5
        assert abs(counts[row] / len(USERS) - share) < 3.3 * spread


def test_the_order_and_number_of_arms_do_not_matter_to_those_who_stay() -> None:
    one, two, three = (Dealer("m", "s", names) for names in ("ab", "ba", "abc"))
    first = dealt(one, (2.0, 1.0))
    assert first == [1 - row for row in dealt(two, (1.0, 2.0))]
    for old, new in zip(first, dealt(three, (2.0, 1.0, 0.5)), strict=True):
        assert new in (old, 2)


def test_another_salt_or_model_deals_everybody_anew() -> None:
    first = dealt(Dealer("m", "", "ab"), (1.0, 1.0))
    for other in (Dealer("m", "2", "ab"), Dealer("m2", "", "ab")):
        same = sum(a == b for a, b in zip(first, dealt(other, (1.0, 1.0)), strict=True))
        assert 0.45 < same / len(USERS) < 0.55


def test_users_dealt_by_one_split_are_dealt_evenly_by_another() -> None:
    canaries = [user for user, row in zip(USERS, dealt(Dealer("m", "1", "ab"), (4.0, 1.0)), strict=True) if row]
    again = dealt(Dealer("m", "2", "ab"), (4.0, 1.0), canaries)
    assert 0.12 < sum(again) / len(canaries) < 0.28


def test_numbers_are_even_and_never_one() -> None:
    numbers = sorted(Dealer("m", "", "a").number(user) for user in USERS)
    assert max(abs(number - (at + 0.5) / len(USERS)) for at, number in enumerate(numbers)) < 0.03
    assert all(0.0 <= number < 1.0 for number in numbers)


@pytest.mark.parametrize(
    ("sticky", "headers", "fields"),
    [
        (Sticky("header", "x-who"), {"x-who": "me"}, {}),
        (Sticky("key"), {}, {"key": "me"}),
        (Sticky("session"), {}, {"session": "me"}),
        (Sticky("user"), {}, {"user": "me"}),
    ],
)
def test_identities_come_from_where_the_rule_says(
    sticky: Sticky, headers: dict[str, str], fields: dict[str, str]
) -> None:
    user = user_of(sticky, asked(headers, **fields))
    assert len(user) == 16 and user == user_of(Sticky("user", salt="other"), asked(user="me")), "a hash without salt"
    assert user_of(sticky, asked(key="", session="", user="")) == ""


def test_identities_of_any_characters_and_length_are_read() -> None:
    long = user_of(Sticky("user"), asked(user="\ud800" * 5000))
    assert long == user_of(Sticky("user"), asked(user="\ud800" * 1024)) != user_of(Sticky("user"), asked(user="é"))
