"""Who serves what: endpoints that list other models than the one that is needed are left out, if any lists it."""

from __future__ import annotations

from random import Random

import pytest

from gateway.core.errors import NoEndpoint
from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.offers import MOST, Offers
from gateway.core.types import Endpoint


def fleet(count: int = 3) -> Fleet:
    made = Fleet("p", Rule(), Random(1))
    made.update([Endpoint(f"e{n}", f"http://e{n}", "p", "vllm") for n in range(count)], 0.0, fresh=True)
    return made


def candidates(made: Fleet, needs: str) -> list[int]:
    return [int(row) for row in made.snapshot(1.0, needs=needs).rows]


def test_only_those_that_list_it_and_those_that_have_not_said_are_asked() -> None:
    made = fleet()
    assert candidates(made, "lora-a") == [0, 1, 2], "nobody has told anything yet"
    made.offers.told(0, ("base", "lora-a"))
    made.offers.told(1, ("base",))
    assert candidates(made, "lora-a") == [0, 2]
    assert candidates(made, "base") == [0, 1, 2] and candidates(made, "") == [0, 1, 2]


def test_a_name_that_nobody_lists_leaves_nobody_out() -> None:
    """Many servers list one name and answer to any."""
    made = fleet()
    for row in range(3):
        made.offers.told(row, ("base",))
    assert candidates(made, "gpt-4o") == [0, 1, 2]


def test_what_was_avoided_stays_avoided_and_nobody_left_is_no_endpoint() -> None:
    made = fleet(2)
    made.offers.told(0, ("lora-a",))
    made.offers.told(1, ("base",))
    with pytest.raises(NoEndpoint):
        made.snapshot(1.0, ("e0",), "lora-a")


def test_a_row_that_is_freed_forgets_and_news_count_at_once() -> None:
    made = fleet(2)
    made.offers.told(0, ("a",))
    made.offers.told(1, ("b",))
    assert candidates(made, "a") == [0]
    made.offers.told(1, ("b", "a"))
    assert candidates(made, "a") == [0, 1]
    made.update([Endpoint("e1", "http://e1", "p", "vllm")], 2.0)
    assert made.offers.having("a") == [1]


def test_names_that_clients_invent_do_not_pile_up() -> None:
    offers = Offers()
    offers.told(0, ("a",))
    for number in range(MOST * 2):
        offers.lacking(f"invented-{number}")
    assert len(offers._lacking) <= MOST


def test_how_long_a_prompt_may_be_is_known_when_all_who_may_get_it_have_said() -> None:
    made = fleet(2)
    made.offers.told(0, ("base",))
    made.offers.contexts(0, {"base": 8192})
    assert made.longest("base") is None, "the other one may take more, and gets it until it says otherwise"
    made.offers.told(1, ())
    assert made.longest("base") is None
    made.offers.told(1, ("another",))
    assert made.longest("base") == 8192, "it does not get it"
    made.offers.told(1, ("base", "lora-a"))
    assert made.longest("base") is None
    made.offers.contexts(1, {"base": 131_072})
    assert made.longest("base") == 131_072 and made.longest("lora-a") is None
    for number in range(2 * MOST):
        made.longest(f"invented-{number}")
    assert len(made.offers._longest) <= MOST


def test_what_is_loaded_on_demand_is_served_by_those_that_list_it_and_nobody_else() -> None:
    """Who has just joined has not said what it serves, and has no adapter."""
    made = fleet()
    made.offers.on_demand(frozenset(("lora-a",)))
    made.offers.known(range(3))
    with pytest.raises(NoEndpoint):
        candidates(made, "lora-a")
    made.offers.told(0, ("base", "lora-a"))
    made.offers.told(1, ("base",))
    assert candidates(made, "lora-a") == [0] and candidates(made, "base") == [0, 1, 2]
    made.offers.known(range(3))
    assert made.offers.having("lora-a") == [0], "what is known already stays"
    made.offers.on_demand(frozenset())
    assert candidates(made, "lora-a") == [0, 2]


def test_what_is_distrusted_is_believed_when_it_was_learnt_or_had_gone_in_between() -> None:
    offers = Offers()
    for row in range(3):
        offers.told(row, ("base", "a"))
        offers.distrust(row, "a")
        offers.told(row, ("base", "a"))
    assert offers.having("a") == [] and offers.distrusted(0) == {"a"}
    offers.learn(0, "a")
    offers.told(1, ("base",))
    offers.told(1, ("base", "a"))
    offers.forget(2)
    offers.told(2, ("a",))
    assert offers.having("a") == [0, 1, 2]
