"""Who had how much lately, and who must give way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission.shares import MEMORY, Shares


def after(parts: dict[str, float], seconds: float = 30.0) -> Shares:
    """Each tenant was charged so much per second, for so long."""
    shares = Shares()
    for tick in range(int(seconds * 10)):
        for tenant, rate in parts.items():
            shares.charge(tenant, rate / 10.0, tick / 10.0)
    return shares


def test_a_tenant_alone_never_gives_way() -> None:
    assert after({"a": 1000.0}).restraint("a", 30.0) == 0.0
    assert Shares().restraint("a", 0.0) == 0.0


def test_tenants_with_equal_parts_do_not_give_way_to_each_other() -> None:
    shares = after({name: 100.0 + number for number, name in enumerate("abcdefghij")})
    assert all(shares.restraint(name, 30.0) == 0.0 for name in "abcdefghij")


def test_who_has_several_times_an_equal_share_gives_way_and_nobody_else_does() -> None:
    shares = after({"greedy": 1000.0, **dict.fromkeys("abcdefghi", 100.0)})
    assert shares.restraint("greedy", 30.0) == 1.0
    assert shares.restraint("a", 30.0) == 0.0 and shares.restraint("new", 30.0) == 0.0


def test_nearly_all_the_traffic_is_not_held_back_for_a_few_requests_of_others() -> None:
    shares = after({"big": 1000.0, "small": 30.0})
    assert 0.0 <= shares.restraint("big", 30.0) < 0.15


def test_what_was_charged_fades() -> None:
    shares = after({"greedy": 1000.0, **dict.fromkeys("abc", 100.0)})
    assert shares.restraint("greedy", 30.0) > 0.5
    for tick in range(int(4.0 * MEMORY) * 10):
        for name in ("greedy", "a", "b", "c"):
            shares.charge(name, 10.0, 30.0 + tick / 10.0)
    assert shares.restraint("greedy", 30.0 + 4.0 * MEMORY) == 0.0
    assert shares.table()["a"] == pytest.approx(0.25, abs=0.06)


def test_thousands_of_tenants_that_came_once_are_forgotten() -> None:
    shares = Shares()
    for number in range(20_000):
        shares.charge(f"t{number}", 10.0, number / 100.0)
        shares.restraint("t0", number / 100.0)
    assert len(shares._used) < 9000


@given(charges=st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.1, 1e5), st.floats(0.0, 2000.0)), max_size=40))
def test_the_parts_make_up_the_whole_and_restraint_is_a_share(charges: list[tuple[str, float, float]]) -> None:
    shares, now = Shares(), 0.0
    for tenant, tokens, passed in charges:
        now += passed
        shares.charge(tenant, tokens, now)
        assert 0.0 <= shares.restraint(tenant, now) <= 1.0
    if charges:
        assert sum(shares.table().values()) == pytest.approx(1.0)
