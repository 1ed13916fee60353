"""Sticky until saturated: the warm endpoint, as long as its lead is bearable."""

import random

import pytest

from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.types import UNKNOWN, Decision, Endpoint, Outcome, Request
from policies.picking import check
from policies.picking.sticky_until_saturated import StickyUntilSaturated

SYSTEM = random.Random(1).randbytes(8000)


def make_request(number: int, prefix: bytes = SYSTEM, tokens: float = 2000.0) -> Request:
    return Request(f"r{number}", "m", 0.0, prefix + b"question %d" % number, tokens, 100.0)


def make_fleet(count: int = 4) -> Fleet:
    fleet = Fleet("pool", Rule(), random.Random(1))
    fleet.update([Endpoint(f"e{i}", f"http://h:{i}", "pool", "vllm") for i in range(count)], 0.0, fresh=True)
    return fleet


def pick(policy, fleet, request) -> Decision:
    decision = policy.pick(request, fleet.snapshot(0.0))
    decision.taken()
    return decision


def test_a_warm_endpoint_is_chosen_though_it_is_busier():
    policy, fleet = StickyUntilSaturated(), make_fleet()
    home = pick(policy, fleet, make_request(0)).row
    for _ in range(20):
        fleet.reserve(Decision(home, ""), make_request(1), 0.0)
    decision = pick(policy, fleet, make_request(2))
    assert decision.row == home
    assert decision.reason.startswith("warm, 40000 prompt tokens ahead")
    assert decision.cached_tokens > 1700.0


def test_beyond_its_lead_the_least_tokens_decide_and_a_second_endpoint_becomes_warm():
    policy, fleet = StickyUntilSaturated(max_lead_tokens=10_000), make_fleet()
    home = pick(policy, fleet, make_request(0)).row
    for _ in range(6):
        fleet.reserve(Decision(home, ""), make_request(1), 0.0)
    decision = pick(policy, fleet, make_request(2))
    assert decision.row != home
    assert decision.reason.startswith("the warm one leads by 12000 prompt tokens; 0 tokens left to do there")
    second = decision.row
    assert pick(policy, fleet, make_request(3)).row == second


def test_prompts_that_were_prefilled_no_longer_count_against_it():
    policy, fleet = StickyUntilSaturated(max_lead_tokens=10_000), make_fleet()
    home = pick(policy, fleet, make_request(0)).row
    held = [fleet.reserve(Decision(home, ""), make_request(1), 0.0) for _ in range(6)]
    for reservation in held:
        reservation.first_token(1.0)
    assert pick(policy, fleet, make_request(2)).row == home


def test_a_burst_with_one_prefix_sticks_from_its_second_request_on():
    policy, fleet = StickyUntilSaturated(), make_fleet()
    rows = []
    for i in range(100):
        decision = pick(policy, fleet, make_request(i))
        fleet.reserve(decision, make_request(i), 0.0)
        rows.append(decision.row)
    assert len(set(rows)) == 1


def test_less_of_a_prompt_than_the_threshold_is_not_warm():
    policy, fleet = StickyUntilSaturated(threshold=0.8), make_fleet()
    home = pick(policy, fleet, make_request(0)).row
    fleet.reserve(Decision(home, ""), make_request(1), 0.0)
    longer = make_request(2, SYSTEM + random.Random(2).randbytes(8000), 4000.0)
    decision = pick(policy, fleet, longer)
    assert decision.row != home and decision.reason.startswith("no endpoint is warm")
    lower = StickyUntilSaturated(threshold=0.4)
    home = pick(lower, fleet, make_request(0)).row
    assert pick(lower, fleet, longer).row == home


def test_an_engine_that_never_has_what_is_expected_is_not_waited_for():
    policy, fleet = StickyUntilSaturated(), make_fleet()
    rows = []
    for i in range(300):
        request = make_request(i)
        decision = pick(policy, fleet, request)
        reservation = fleet.reserve(decision, request, 0.0)
        reservation.settle()
        policy.observe(
            Outcome(request, reservation.endpoint, decision.row, 200, "complete", 1.0, 0.1, 2000.0, 0.0, 9.0)
        )
        rows.append(decision.row)
    assert len(set(rows[-100:])) == 4
    assert pick(policy, fleet, make_request(999)).reason.startswith("no endpoint is warm")


def test_usage_that_does_not_tell_what_was_cached_changes_nothing():
    policy, fleet = StickyUntilSaturated(), make_fleet()
    rows = set()
    for i in range(100):
        request = make_request(i)
        decision = pick(policy, fleet, request)
        reservation = fleet.reserve(decision, request, 0.0)
        reservation.settle()
        policy.observe(
            Outcome(request, reservation.endpoint, decision.row, 200, "complete", 1.0, 0.1, 2000.0, UNKNOWN, 9.0)
        )
        rows.add(decision.row)
    assert len(rows) == 1


@pytest.mark.parametrize("options", [{"threshold": 0}, {"threshold": 80}, {"max_lead_tokens": -1}, {"max_blocks": 0}])
def test_options_are_checked(options):
    message = check("sticky_until_saturated", options)
    assert message is not None and next(iter(options)) in message
