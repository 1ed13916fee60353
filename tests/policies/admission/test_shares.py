"""Who had how much lately, and who must give way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission.shares import GREEDY, LEFT, MEMORY, Shares


def after(parts: dict[str, float], seconds: float = 30.0) -> Shares:
    """Each tenant was charged so much per second, for so long."""
    shares = Shares()
    for tick in range(int(seconds * 10)):
        for tenant, rate in parts.items():
            shares.charge(tenant, rate / 10.0, tick / 10.0)
    return shares


def test_a_tenant_alone_exceeds_nothing() -> None:
    alone = after({"a": 1000.0})
    assert not alone.exceeds("a", 0.5, 30.0) and not alone.is_shared
    assert not Shares().exceeds("a", 0.5, 0.0)


def test_tenants_with_equal_parts_do_not_exceed_their_share() -> None:
    shares = after({name: 100.0 + number for number, name in enumerate("abcdefghij")})
    assert not any(shares.exceeds(name, GREEDY, 30.0) for name in "abcdefghij") and shares.is_shared


def test_who_has_several_times_an_equal_share_exceeds_it_and_nobody_else_does() -> None:
    shares = after({"greedy": 1000.0, **dict.fromkeys("abcdefghi", 100.0)})
    assert shares.exceeds("greedy", GREEDY, 30.0)
    assert not any(shares.exceeds(name, LEFT, 30.0) for name in ("a", "new"))
    assert after({"greedy": 1000.0, "modest": 100.0}).exceeds("greedy", GREEDY, 30.0)


def test_nearly_all_the_traffic_is_not_held_back_for_a_few_requests_of_others() -> None:
    assert not after({"big": 1000.0, "small": 30.0}).exceeds("big", LEFT, 30.0)


def test_what_was_charged_fades() -> None:
    shares = after({"greedy": 1000.0, **dict.fromkeys("abc", 100.0)})
    assert shares.exceeds("greedy", GREEDY, 30.0)
    for tick in range(int(5.0 * MEMORY) * 10):
        for name in ("greedy", "a", "b", "c"):
            shares.charge(name, 10.0, 30.0 + tick / 10.0)
    assert not shares.exceeds("greedy", GREEDY, 30.0 + 5.0 * MEMORY)
    assert shares.table()["a"] == pytest.approx(0.25, abs=0.06)


def test_thousands_of_tenants_that_came_once_are_forgotten() -> None:
    shares = Shares()
    for number in range(20_000):
        shares.charge(f"t{number}", 10.0, number / 100.0)
        shares.exceeds("t0", GREEDY, number / 100.0)
    assert len(shares._used) < 9000


@given(charges=st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.1, 1e5), st.floats(0.0, 2000.0)), max_size=40))
def test_the_parts_make_up_the_whole_and_who_exceeds_much_exceeds_little(
    charges: list[tuple[str, float, float]],
) -> None:
    shares, now = Shares(), 0.0
    for tenant, tokens, passed in charges:
        now += passed
        shares.charge(tenant, tokens, now)
        assert shares.exceeds(tenant, LEFT, now) or not shares.exceeds(tenant, GREEDY, now)
    if charges:
        assert sum(shares.table().values()) == pytest.approx(1.0)
