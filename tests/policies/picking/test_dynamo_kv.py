"""Dynamo's KV cost: blocks to prefill and blocks in use."""

from collections import Counter

import numpy as np
import pytest

from gateway.core.types import Load, Outcome, Request
from policies.picking import check
from policies.picking.dynamo_kv import DynamoKv
from tests.support.picking import load, make_fleet, make_request, pick, serve


def take(policy, fleet, request):
    decision = pick(policy, fleet, request)
    return decision, fleet.reserve(decision, request, 0.0)


def end(policy, reservation, request):
    reservation.settle(0.0)
    policy.observe(Outcome(request, reservation.endpoint, reservation.row, 200, "complete", 1.0, 0.1))


def plain(number: int, tokens: float, output: float = 160.0) -> Request:
    return Request(f"p{number}", "m", 0.0, b"", tokens, output)


def test_the_cost_is_blocks_to_prefill_plus_blocks_in_use():
    policy, fleet = DynamoKv(), make_fleet(1)
    _, reservation = take(policy, fleet, plain(0, 1600.0))
    waiting = pick(policy, fleet, plain(1, 320.0)).scores
    np.testing.assert_allclose(waiting, [(1600.0 + 320.0) / 16 + (1600.0 + 320.0) / 16])
    policy, fleet = DynamoKv(), make_fleet(1)
    _, reservation = take(policy, fleet, plain(0, 1600.0))
    reservation.first_token(0.0)
    reservation.progress(80.0, 0.0)
    started = pick(policy, fleet, plain(1, 320.0)).scores
    np.testing.assert_allclose(started, [320.0 / 16 + (1600.0 + 80.0 + 320.0) / 16])


def test_a_long_prompt_that_is_decoding_counts_and_is_gone_when_it_ends():
    policy, fleet = DynamoKv(), make_fleet(2)
    request = plain(0, 8000.0)
    decision, reservation = take(policy, fleet, request)
    reservation.first_token(0.0)
    load(fleet, 1 - decision.row, 1, 100.0)
    assert pick(policy, fleet, plain(1, 100.0)).row != decision.row
    end(policy, reservation, request)
    assert pick(policy, fleet, plain(2, 100.0)).row == decision.row


def test_a_cached_prefix_is_credited_and_a_higher_weight_makes_it_stickier():
    policy, fleet = DynamoKv(overlap_weight=4.0), make_fleet(2)
    home = serve(policy, fleet, make_request(0)).row
    held = [take(policy, fleet, make_request(i))[1] for i in range(1, 4)]
    assert {reservation.row for reservation in held} == {home}
    policy, fleet = DynamoKv(), make_fleet(2)
    serve(policy, fleet, make_request(0))
    assert len({take(policy, fleet, make_request(i))[0].row for i in range(1, 4)}) == 2


def test_requests_of_others_hold_a_mean_request_each():
    policy, fleet = DynamoKv(), make_fleet(2)
    fleet.observe(0, Load(0.0, waiting=0.0, running=10.0), 0.0)
    fleet.observe(1, Load(0.0, waiting=0.0, running=2.0), 0.0)
    scores = pick(policy, fleet, plain(0, 160.0)).scores
    np.testing.assert_allclose(scores[0] - scores[1], 8 * fleet.mean_tokens / 16)


def test_one_that_is_picked_again_before_it_was_taken_counts_once():
    policy, fleet = DynamoKv(), make_fleet(1)
    for _ in range(5):
        pick(policy, fleet, plain(0, 1600.0))
    assert policy._held._booked[0] == 1760.0


def test_outcomes_of_before_it_was_made_change_nothing():
    first, policy, fleet = DynamoKv(), DynamoKv(), make_fleet(40)
    request = plain(0, 1600.0)
    _, reservation = take(first, fleet, request)
    end(policy, reservation, request)
    policy.leave(39)
    assert not policy._held._booked.any()


def test_with_a_temperature_cheaper_endpoints_are_likelier_and_all_are_possible():
    policy, fleet = DynamoKv(temperature=0.5), make_fleet(3)
    for row, requests in ((1, 1), (2, 2)):
        load(fleet, row, requests, 1600.0)
    fixed = fleet.snapshot(0.0)
    counts = Counter(policy._draw(np.array([0.0, 50.0, 100.0]), fixed) for _ in range(4000))
    assert counts[0] > 2 * counts[1] > 2 * counts[2] > 100
    assert {pick(DynamoKv(), fleet, plain(i, 100.0)).row for i in range(20)} == {0}


@pytest.mark.parametrize(
    "options", [{"overlap_weight": -1}, {"temperature": -0.1}, {"block": 0}, {"block": 1.5}, {"max_blocks": 1}]
)
def test_options_are_checked(options):
    message = check("dynamo_kv", options)
    assert message is not None and next(iter(options)) in message
