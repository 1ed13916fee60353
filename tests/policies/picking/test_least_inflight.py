"""Least in flight: counts decide, ours and others'."""

import random
from collections import Counter

from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.types import Decision, Endpoint, Load, Request
from policies.picking.least_inflight import LeastInflight

REQUEST = Request("r", "m", 0.0)


def make_fleet(count: int) -> Fleet:
    fleet = Fleet("pool", Rule(), random.Random(1))
    fleet.update([Endpoint(f"e{i}", f"http://h:{i}", "pool", "vllm") for i in range(count)], 0.0, fresh=True)
    return fleet


def test_the_endpoint_with_the_fewest_requests_is_chosen():
    policy, fleet = LeastInflight(), make_fleet(3)
    for row in (0, 0, 1, 2, 2):
        fleet.reserve(Decision(row, ""), REQUEST, 0.0)
    decision = policy.pick(REQUEST, fleet.snapshot(0.0))
    assert decision.row == 1
    assert decision.scores is not None and decision.scores.tolist() == [2.0, 1.0, 2.0]
    assert decision.reason == "1 requests there, fewest of 3"


def test_requests_of_others_count():
    policy, fleet = LeastInflight(), make_fleet(2)
    fleet.reserve(Decision(0, ""), REQUEST, 0.0)
    fleet.observe(0, Load(0.0, waiting=0.0, running=1.0), 1.0)
    fleet.observe(1, Load(0.0, waiting=3.0, running=4.0), 0.0)
    assert policy.pick(REQUEST, fleet.snapshot(0.0)).row == 0


def test_ties_are_broken_evenly():
    policy, fleet = LeastInflight(), make_fleet(4)
    counts = Counter(policy.pick(REQUEST, fleet.snapshot(0.0)).row for _ in range(4000))
    assert set(counts) == {0, 1, 2, 3}
    assert all(850 < count < 1150 for count in counts.values())
