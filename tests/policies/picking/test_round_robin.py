"""Round robin: each in turn, whoever comes and goes."""

import random
from collections import Counter

from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.types import Endpoint, Request
from policies.picking.round_robin import RoundRobin

REQUEST = Request("r", "m", 0.0)


def make_fleet(numbers) -> Fleet:
    fleet = Fleet("pool", Rule(), random.Random(1))
    update(fleet, numbers)
    return fleet


def update(fleet: Fleet, numbers) -> list[int]:
    return fleet.update([Endpoint(f"e{i}", f"http://h:{i}", "pool", "vllm") for i in numbers], 0.0, fresh=True)


def pick(policy: RoundRobin, fleet: Fleet, avoid=()) -> str:
    return fleet.endpoint(policy.pick(REQUEST, fleet.snapshot(0.0, avoid)).row).id


def test_every_endpoint_is_served_once_before_any_is_served_twice():
    policy, fleet = RoundRobin(), make_fleet(range(5))
    first = [pick(policy, fleet) for _ in range(5)]
    assert len(set(first)) == 5
    assert [pick(policy, fleet) for _ in range(10)] == first * 2


def test_the_order_differs_between_gateways():
    orders = set()
    for seed in range(20):
        policy, fleet = RoundRobin(), make_fleet(range(4))
        fleet.random.seed(seed)
        orders.add(tuple(pick(policy, fleet) for _ in range(4)))
    assert len(orders) > 5


def test_an_endpoint_that_is_avoided_now_and_then_still_gets_its_share():
    policy, fleet = RoundRobin(), make_fleet(range(4))
    counts = Counter(pick(policy, fleet, ["e1"] if i % 3 == 0 else []) for i in range(1200))
    assert max(counts.values()) - min(counts.values()) <= 2


def test_an_endpoint_back_from_a_long_absence_is_not_flooded():
    policy, fleet = RoundRobin(), make_fleet(range(4))
    for _ in range(1000):
        pick(policy, fleet, ["e2"])
    counts = Counter(pick(policy, fleet) for _ in range(40))
    assert 10 <= counts["e2"] <= 11


def test_a_newcomer_takes_its_turn_and_no_more():
    policy, fleet = RoundRobin(), make_fleet(range(3))
    for _ in range(100):
        pick(policy, fleet)
    for row in update(fleet, [0, 2]):
        policy.leave(row)
    update(fleet, [0, 2, 7])
    counts = Counter(pick(policy, fleet) for _ in range(30))
    assert set(counts) == {"e0", "e2", "e7"}
    assert max(counts.values()) <= 11


def test_its_memory_is_one_number_per_row():
    policy, fleet = RoundRobin(), make_fleet(range(3))
    for i in range(500):
        for row in update(fleet, [i, i + 1, i + 2]):
            policy.leave(row)
        pick(policy, fleet)
    assert len(policy._passes) <= len(fleet.ours)
