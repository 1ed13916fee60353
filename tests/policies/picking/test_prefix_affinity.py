"""Prefix affinity: a cached prefix is worth the tokens that it saves, and no more."""

import random

import pytest

from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.types import UNKNOWN, Decision, Endpoint, Outcome, Request
from policies.picking import check
from policies.picking.prefix_affinity import PrefixAffinity

SYSTEM = random.Random(1).randbytes(8000)


def make_request(number: int, prefix: bytes = SYSTEM, tokens: float = 2000.0) -> Request:
    return Request(f"r{number}", "m", 0.0, prefix + b"question %d" % number, tokens, 100.0)


def make_fleet(count: int = 4) -> Fleet:
    fleet = Fleet("pool", Rule(), random.Random(1))
    fleet.update([Endpoint(f"e{i}", f"http://h:{i}", "pool", "vllm") for i in range(count)], 0.0, fresh=True)
    return fleet


def serve(policy, fleet, request, cached=UNKNOWN, ended="complete") -> Decision:
    """One request from pick to end, alone."""
    decision = policy.pick(request, fleet.snapshot(0.0))
    decision.taken()
    reservation = fleet.reserve(decision, request, 0.0)
    reservation.settle()
    ttft = 0.1 if ended == "complete" else UNKNOWN
    policy.observe(Outcome(request, reservation.endpoint, decision.row, 200, ended, 1.0, ttft,
                           request.prompt_tokens, cached, 10.0))  # fmt: skip
    return decision


def test_a_prefix_goes_where_it_went_before():
    policy, fleet = PrefixAffinity(), make_fleet()
    assert len({serve(policy, fleet, make_request(i)).row for i in range(20)}) == 1


def test_a_conversation_stays_as_it_grows():
    policy, fleet = PrefixAffinity(), make_fleet()
    rows, text = set(), b""
    for turn in range(10):
        text += random.Random(turn).randbytes(1500)
        rows.add(serve(policy, fleet, Request(f"t{turn}", "m", 0.0, text, len(text) / 4, 100.0)).row)
    assert len(rows) == 1


def test_a_burst_with_one_prefix_sticks_until_the_lead_is_worth_more_than_the_cache():
    policy, fleet = PrefixAffinity(), make_fleet(2)
    rows = []
    for i in range(60):
        request = make_request(i)
        decision = policy.pick(request, fleet.snapshot(0.0))
        decision.taken()
        fleet.reserve(decision, request, 0.0)
        rows.append(decision.row)
    first = rows[0]
    assert rows[:5] == [first] * 5
    assert 1 - first in rows[:30]  # and then a second endpoint gets to know the prefix
    assert abs(rows.count(0) - rows.count(1)) <= 24


def test_what_is_cached_is_told_to_the_fleet():
    policy, fleet = PrefixAffinity(), make_fleet()
    first, second = serve(policy, fleet, make_request(1)), serve(policy, fleet, make_request(2))
    assert first.cached_tokens == 0.0
    assert 0.85 * 2000.0 < second.cached_tokens <= 2000.0


def test_another_model_on_the_same_server_shares_nothing():
    policy, fleet = PrefixAffinity(), make_fleet()
    serve(policy, fleet, make_request(1))
    other = Request("x", "adapter", 0.0, SYSTEM, 2000.0, 100.0)
    assert serve(policy, fleet, other).cached_tokens == 0.0


def test_an_engine_without_a_prefix_cache_loses_its_credit():
    policy, fleet = PrefixAffinity(), make_fleet()
    for i in range(100):
        serve(policy, fleet, make_request(i), cached=0.0)
    assert serve(policy, fleet, make_request(101)).cached_tokens < 200.0


def test_a_prompt_that_did_not_arrive_is_not_expected_there():
    policy, fleet = PrefixAffinity(), make_fleet()
    serve(policy, fleet, make_request(1), ended="upstream_failed")
    assert serve(policy, fleet, make_request(2)).cached_tokens == 0.0


def test_an_endpoint_that_left_took_its_cache_with_it():
    policy, fleet = PrefixAffinity(), make_fleet()
    row = serve(policy, fleet, make_request(1)).row
    policy.leave(row)
    assert serve(policy, fleet, make_request(2)).cached_tokens == 0.0


def test_weight_0_is_least_tokens():
    policy, fleet = PrefixAffinity(weight=0), make_fleet()
    rows = set()
    for i in range(50):
        rows.add(serve(policy, fleet, make_request(i)).row)
    assert len(rows) == 4


def test_predictions_of_requests_that_never_end_are_bounded(monkeypatch):
    monkeypatch.setattr("policies.picking.warmth.MOST_PENDING", 50)
    policy, fleet = PrefixAffinity(max_blocks=1000), make_fleet()
    for i in range(300):
        policy.pick(make_request(i), fleet.snapshot(0.0)).taken()
    assert len(policy._caches._pending) == 50


@pytest.mark.parametrize("options", [{"weight": -1}, {"weight": "x"}, {"max_blocks": 10}, {"max_blocks": 1e5}])
def test_options_are_checked(options):
    message = check("prefix_affinity", options)
    assert message is not None and next(iter(options)) in message
