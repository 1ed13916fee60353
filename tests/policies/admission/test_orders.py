"""What every order promises, over the whole registry, and what each promises by itself."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission import ORDERS, create
from policies.admission.base import Waiting, cost
from policies.admission.shares import Shares
from tests.support.waiting import ask, waits

TENANTS = "abc"
STEPS = st.lists(
    st.tuples(st.sampled_from(["push", "pop", "back", "leave", "serve"]), st.integers(0, 2), st.integers(1, 400),
              st.floats(0.0, 20.0)),
    max_size=80,
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(ORDERS))
@given(steps=STEPS)
def test_nobody_is_lost_and_nobody_is_served_twice(name: str, steps: list[tuple[str, int, int, float]]) -> None:
    shares = Shares()
    order = create(name, shares)
    inside: dict[str, Waiting] = {}
    for number, (step, tenant, tokens, until) in enumerate(steps):
        if step == "push":
            one = waits(str(number), TENANTS[tenant], float(number), until, prompt=float(tokens))
            leads = order.leads(one)
            order.push(one)
            inside[one.item] = one
            assert not leads or order.peek() is one
        elif step in ("pop", "back", "serve"):
            first = order.peek()
            found = order.pop()
            assert found is first and (found is not None) == bool(inside)
            if found is not None and step == "back":
                order.push_front(found)
                assert order.peek() is found
            elif found is not None:
                del inside[found.item]
                if step == "serve":
                    shares.charge(found.request.tenant, found.cost, float(number))
        elif inside:
            gone = inside.pop(sorted(inside)[tokens % len(inside)])
            order.remove(gone)
        assert len(order) == len(inside)
        probe = waits("probe", TENANTS[tenant], float(number), until)
        assert -1e-6 <= order.ahead(probe) <= sum(one.cost for one in inside.values()) + 1e-6
    left = []
    while (found := order.pop()) is not None:
        left.append(found.item)
    assert sorted(left) == sorted(inside) and len(order) == 0


@pytest.mark.parametrize("name", sorted(ORDERS))
def test_requests_that_are_all_alike_go_in_the_order_in_which_they_came(name: str) -> None:
    order = create(name, Shares())
    for number in range(10):
        order.push(waits(str(number), since=float(number), until=100.0 + number))
    assert [order.pop().item for _ in range(10)] == [str(number) for number in range(10)]


def test_a_name_that_is_no_order_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match="did you mean fair"):
        create("fare", Shares())
    with pytest.raises(ValueError, match="there are deadline, fair, fifo"):
        create("xyz", Shares())


def test_deadline_serves_the_least_slack_first() -> None:
    order = create("deadline", Shares())
    for name, until in (("calm", 9.0), ("urgent", 1.0), ("soon", 2.0)):
        order.push(waits(name, until=until))
    assert order.leads(waits("now", until=0.5)) and not order.leads(waits("later", until=1.5))
    assert order.ahead(waits("later", until=1.5)) == cost(ask())
    assert [order.pop().item for _ in range(3)] == ["urgent", "soon", "calm"]


def test_a_long_deadline_queue_stays_as_small_as_those_who_wait() -> None:
    order = create("deadline", Shares())
    all_of_them = [waits(str(number), until=float(number)) for number in range(5000)]
    for one in all_of_them:
        order.push(one)
    for one in all_of_them[1:]:
        order.remove(one)
    assert len(order) == 1 and len(order._heap) < 200  # type: ignore[attr-defined]
    assert order.pop() is all_of_them[0]


@given(
    sizes=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 1000)), min_size=30, max_size=120),
    served=st.integers(1, 100),
)
def test_fair_gives_tenants_that_wait_equal_parts_within_one_request(sizes: list[tuple[int, int]], served: int) -> None:
    shares = Shares()
    order = create("fair", shares)
    for number, (tenant, tokens) in enumerate(sizes):
        order.push(waits(str(number), TENANTS[tenant], prompt=float(tokens), output=0.0))
    got = dict.fromkeys(TENANTS, 0.0)
    waiting = {name: sum(TENANTS[tenant] == name for tenant, _ in sizes) for name in TENANTS}
    for _ in range(min(served, len(sizes))):
        one = order.pop()
        assert one is not None
        tenant = one.request.tenant
        # It had no more than anybody else who waits: so none is ever further ahead than one request of its own.
        assert all(got[tenant] <= got[name] + 1e-6 for name in TENANTS if waiting[name])
        got[tenant] += one.cost
        waiting[tenant] -= 1
        shares.charge(tenant, one.cost, 0.0)


def test_fair_counts_what_went_without_waiting() -> None:
    shares = Shares()
    order = create("fair", shares)
    shares.charge("greedy", 5000.0, 0.0)
    order.push(waits("first", "greedy"))
    assert order.leads(waits("second", "modest"))
    order.push(waits("second", "modest"))
    assert not order.leads(waits("third", "greedy"))
    assert order.ahead(waits("third", "greedy")) == pytest.approx(2 * cost(ask()))
    assert order.ahead(waits("third", "modest")) == pytest.approx(cost(ask()))
    assert [order.pop().item for _ in range(2)] == ["second", "first"]


def test_fair_serves_the_earlier_promise_of_one_tenant_first_and_not_the_longer_prompt() -> None:
    order = create("fair", Shares())
    order.push(waits("calm", until=4.9, ttft_slo=5.0))
    order.push(waits("long", until=0.5, ttft_slo=1.0, prompt=9000.0))
    order.push(waits("short", until=0.9, ttft_slo=0.9))
    assert [order.pop().item for _ in range(3)] == ["short", "long", "calm"]


def test_fair_forgets_slowly_and_survives_that_its_figures_are_made_anew() -> None:
    shares = Shares()
    order = create("fair", shares)
    for tenant, tokens in (("a", 100.0), ("b", 1000.0)):
        shares.charge(tenant, tokens, 0.0)
        order.push(waits(tenant, tenant))
    shares.charge("a", 5.0, 1000.0)  # a new era: what was is nearly forgotten
    order.push(waits("c", "c"))
    assert [order.pop().item for _ in range(3)][2] == "a"
    assert shares.used("b") < 1e-6 and math.isclose(shares.tokens(shares.used("a"), 1000.0), 5.0, rel_tol=1e-3)
