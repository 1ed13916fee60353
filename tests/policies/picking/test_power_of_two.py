"""Power of two: two draws and a memory."""

import math
import random

import numpy as np

from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.types import Decision, Endpoint, Request
from policies.picking.power_of_two import PowerOfTwo
from tests.bench.herd import make_burst, spread

REQUEST = Request("r", "m", 0.0)


def make_fleet(count: int) -> Fleet:
    fleet = Fleet("pool", Rule(), random.Random(1))
    fleet.update([Endpoint(f"e{i}", f"http://h:{i}", "pool", "vllm") for i in range(count)], 0.0, fresh=True)
    return fleet


def compared(decision: Decision) -> int:
    assert decision.scores is not None
    return int((~np.isnan(decision.scores)).sum())


def test_two_different_endpoints_are_compared_and_with_memory_a_third():
    fleet = make_fleet(50)
    plain = PowerOfTwo(memory=False)
    assert {compared(plain.pick(REQUEST, fleet.snapshot(0.0))) for _ in range(200)} == {2}
    policy = PowerOfTwo()
    assert compared(policy.pick(REQUEST, fleet.snapshot(0.0))) == 2
    assert {compared(policy.pick(REQUEST, fleet.snapshot(0.0))) for _ in range(200)} <= {2, 3}


def test_of_two_endpoints_the_less_loaded_is_always_chosen():
    policy, fleet = PowerOfTwo(memory=False), make_fleet(2)
    fleet.reserve(Decision(0, ""), REQUEST, 0.0)
    assert {policy.pick(REQUEST, fleet.snapshot(0.0)).row for _ in range(50)} == {1}


def test_equal_counts_are_decided_by_tokens():
    policy, fleet = PowerOfTwo(), make_fleet(2)
    fleet.reserve(Decision(0, ""), Request("a", "m", 0.0, prompt_tokens=5000.0), 0.0)
    fleet.reserve(Decision(1, ""), REQUEST, 0.0)
    assert {policy.pick(REQUEST, fleet.snapshot(0.0)).row for _ in range(50)} == {1}


def test_the_busiest_endpoint_is_never_chosen_but_every_other_is():
    policy, fleet = PowerOfTwo(memory=False), make_fleet(8)
    for _ in range(10):
        fleet.reserve(Decision(3, ""), REQUEST, 0.0)
    chosen = {policy.pick(REQUEST, fleet.snapshot(0.0)).row for _ in range(500)}
    assert chosen == {0, 1, 2, 4, 5, 6, 7}


def test_a_remembered_endpoint_that_may_not_be_chosen_is_not():
    policy, fleet = PowerOfTwo(), make_fleet(8)
    for _ in range(100):
        policy.pick(REQUEST, fleet.snapshot(0.0))
        kept = f"e{policy._kept}"
        assert fleet.endpoint(policy.pick(REQUEST, fleet.snapshot(0.0, [kept])).row).id != kept


def test_the_bar_for_a_burst_holds_over_200_seeds():
    worst = sorted(spread("power_of_two", seed, make_burst(0)) for seed in range(200))
    assert worst[math.ceil(0.99 * 200) - 1] <= 1.07
    assert worst[-1] <= 1.07
