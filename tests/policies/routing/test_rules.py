"""The router: first match, shadows, forced arms, canaries, costs, reloads, records drawn again, and its words."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.routes import Arm, Mirror, Route, Text, When
from gateway.core.types import UNKNOWN
from policies.routing import Count, Drawn, NoRoute, UnknownArm, Way
from tests.policies.routing.asking import arms, asked, canary, router, split

TEAM = When(header={"x-team": Text(exact=("research",))})


def to(pool: str, **other: object) -> Route:
    return Route((Arm("", pool),), **other)  # type: ignore[arg-type]


def test_one_pool_is_the_same_way_each_time() -> None:
    made = router(replace(to("P"), fallback=("Q", "P"), fallback_after=2.0, mirror=Mirror("S", 0.1)))
    way = made.route(asked())
    assert way == Way("", ("P", "Q"), 2.0, None, "routes[0]", Mirror("S", 0.1), way.drawn) and way.drawn != way.drawn
    assert made.route(asked()) is way and made.counts == {"routes[0]": Count(2, 0)}


def test_the_first_rule_that_fits_is_used() -> None:
    made = router(to("A", when=TEAM, name="team"), to("B", when=When(stream=True)), to("C"))
    assert made.route(asked({"x-team": "research"}, stream=True)).rule == "team"
    assert made.route(asked({"x-team": "sales"}, stream=True)).rule == "routes[1]"
    assert made.route(asked()).pools == ("C",)
    assert made.headers == {"x-team"}


def test_where_no_rule_fits_the_error_says_which_were_tried() -> None:
    made = router(to("A", when=TEAM, name="team"), to("S", shadow=True), to("B", when=When(stream=True)))
    with pytest.raises(NoRoute, match=r"no rule of the model 'm' fits this request; tried: team, routes\[2\]"):
        made.route(asked())


def test_a_rule_in_shadow_is_counted_and_not_used() -> None:
    made = router(to("A", shadow=True, when=TEAM), to("B", shadow=True), to("C"), to("D", shadow=True))
    assert made.route(asked()).shadowed == ("routes[1]",)
    way = made.route(asked({"x-team": "research"}))
    assert (way.pools, way.rule, way.shadowed) == (("C",), "routes[2]", ("routes[0]", "routes[1]"))
    assert made.counts == {"routes[0]": (0, 1), "routes[1]": (0, 2), "routes[2]": (2, 0), "routes[3]": (0, 0)}


def test_arms_have_their_own_names_and_fallbacks_or_the_rules() -> None:
    made = router(Route((Arm("a", "A", as_="m-v2", fallback=("X",)), Arm("b", "B")), fallback=("Y",)))
    assert made.route(asked(), "a")[:4] == ("a", ("A", "X"), 0.5, "m-v2")
    assert made.route(asked(), "b")[:4] == ("b", ("B", "Y"), 0.5, None)


def test_a_forced_arm_is_used_whatever_its_weight_and_nothing_is_drawn() -> None:
    made = router(canary(99, 0, by="session"))
    way = made.route(asked(), "b")
    assert (way.arm, way.forced, way.user) == ("b", True, "") and way.drawn != way.drawn
    with pytest.raises(UnknownArm, match=r"the rule routes\[0\] has no arm 'c'; its arms are a, b"):
        made.route(asked(), "c")
    with pytest.raises(UnknownArm, match="it has no arms"):
        router(to("A")).route(asked(), "a")
    assert made.counts["routes[0]"] == Count(1, 0)


def test_the_cheapest_pool_comes_first_and_equals_stay_in_order() -> None:
    one = Route((Arm("", "A", fallback=("B", "C", "D")),), cheapest=True)
    assert router(one, costs={"A": 3.0, "B": 2.0, "D": 2.0}).route(asked()).pools == ("C", "B", "D", "A")
    assert router(replace(one, cheapest=False), costs={"A": 3.0}).route(asked()).pools == ("A", "B", "C", "D")


def test_a_canarys_share_is_asked_for_at_each_draw() -> None:
    share: dict[str, float | None] = {"next": None}
    made = router(canary(3, 1, 1, arm="c", name="next"), shares=lambda rule: share[rule])

    def counts(of: int = 1000) -> Counter[str]:
        return Counter(made.route(asked()).arm for _ in range(of))

    assert counts() == pytest.approx({"a": 750, "b": 250}, abs=10)
    share["next"] = 0.2
    assert counts() == pytest.approx({"a": 600, "b": 200, "c": 200}, abs=10)
    share["next"] = 1.0
    assert counts() == {"c": 1000}
    share["next"] = 0.0
    assert counts()["c"] == 0


def test_a_user_is_drawn_by_identity_and_a_request_without_one_by_the_sequence() -> None:
    made = router(split(1, 1, by="header"))
    ways = {made.route(asked({"x-who": "me"})) for _ in range(50)}
    assert len(ways) == 1 and len(ways.pop().user) == 16
    strangers = [made.route(asked()) for _ in range(50)]
    assert Counter(way.arm for way in strangers) == pytest.approx({"a": 25, "b": 25}, abs=2)
    assert {way.user for way in strangers} == {""} and len({way.drawn for way in strangers}) == 50
    assert not made.headers, "who it was is nothing to remember"


def test_each_router_begins_elsewhere_and_goes_on_where_the_last_one_stood() -> None:
    first = router(split(1, 1, name="s"), to("A"))
    drawn = [first.route(asked()).drawn for _ in range(20)]
    assert router(split(1, 1, name="s"), seed=0.7).route(asked()).drawn != drawn[0]
    assert router(split(1, 1, name="other")).route(asked()).drawn != drawn[0]
    again = router(split(1, 1, name="s"), to("B"))
    again.resume(first)
    assert again.counts == {"s": (20, 0), "routes[1]": (0, 0)}
    edited = router(split(1, 3, name="s"))
    edited.resume(first)
    expected = first.route(asked()).drawn
    assert again.route(asked()).drawn == edited.route(asked()).drawn == expected not in drawn
    assert edited.counts == {"s": (1, 0)}, "another rule, which has been used once"


@given(st.lists(st.floats(0.1, 9.0), min_size=2, max_size=4), st.booleans(), st.text(min_size=1), st.floats(0.0, 1.0))
def test_what_is_recorded_of_a_draw_is_enough_to_draw_again(
    weights: list[float], is_sticky: bool, who: str, share: float
) -> None:
    route = canary(*weights, by="user" if is_sticky else None)
    made, other = (router(route, seed=seed, shares=lambda rule: share) for seed in (0.1, 0.2))
    way = made.route(asked(user=who))
    assert other.route(asked(user=""), drawn=Drawn(way.drawn, way.user)) == way


def test_a_recorded_user_is_dealt_anew_where_the_salt_is_another_and_not_where_stickiness_is_gone() -> None:
    old, salted, plain = router(split(1, 1, by="user")), router(split(1, 1, by="user", salt="2")), router(split(1, 1))
    ways = [old.route(asked(user=str(number))) for number in range(200)]
    replayed = [salted.route(asked(user=""), drawn=Drawn(way.drawn, way.user)) for way in ways]
    assert replayed == [salted.route(asked(user=str(number))) for number in range(200)]
    assert {plain.route(asked(), drawn=Drawn(0.2, way.user)).arm for way in ways} == {"a"}


def test_an_explanation_says_of_each_rule_whether_it_fits_and_of_the_arm_where_it_came_from() -> None:
    rules = (to("A", when=TEAM, name="team"), to("S", shadow=True), canary(3, 0, by="header", name="next"), to("B"))
    made = router(*rules, shares=lambda rule: 0.25)
    before = made.counts
    way = made.route(asked({"x-who": "me"}))
    assert made.why(asked({"x-who": "me"})) == [
        'rule team: does not fit: header x-team must be "research", and is absent',
        "rule routes[1] (in shadow): fits, and would have been used",
        "rule next: fits",
        f"  split: a 0.75, b 0.25 (canary); {way.drawn:.6f} drawn by the x-who: arm {way.arm}",
        f"  to {way.pools[0]}",
        "rule routes[3]: not reached",
    ]
    made.why(asked())
    assert made.counts != before and made.counts["next"] == Count(1, 0)


def test_an_explanation_of_what_was_forced_recorded_or_not_drawn() -> None:
    made = router(Route(arms(1, 1), fallback=("F",)), to("Z"))
    assert made.why(asked())[1] == "  split: a 0.5, b 0.5; the next number of the sequence decides"
    assert made.why(asked(), "b") == [
        "rule routes[0]: fits", "  arm b: forced by the request", "  to B, then F (when full, after 0.5 s)",
        "rule routes[1]: not reached"]  # fmt: skip
    assert made.why(asked(), drawn=Drawn(0.75))[1:3] == [
        "  split: a 0.5, b 0.5; 0.750000 drawn from the sequence: arm b",
        "  to B, then F (when full, after 0.5 s)",
    ]
    assert "has no arm 'x'" in made.why(asked(), "x")[1]
    assert made.why(asked(), drawn=Drawn(UNKNOWN)) == made.why(asked())
    assert router(to("A", when=TEAM)).why(asked())[-1] == "no rule fits"
    assert router(Route((Arm("", "A", as_="v2"),))).why(asked())[-1] == "  to A, as v2"
