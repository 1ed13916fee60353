"""SGLang's cache-aware rule: the longest match, unless the fleet is out of balance."""

import random

import pytest

from policies.picking import check
from policies.picking.sglang_cache_aware import SglangCacheAware
from tests.support.picking import SYSTEM, load, make_fleet, make_request, pick, serve


def test_the_longest_match_is_chosen_though_it_is_busier():
    policy, fleet = SglangCacheAware(), make_fleet()
    home = serve(policy, fleet, make_request(0)).row
    load(fleet, home, 60)
    decision = pick(policy, fleet, make_request(1))
    assert decision.row == home and "of the prompt matches, most" in decision.reason


def test_out_of_balance_by_both_measures_the_fewest_requests_decide():
    policy, fleet = SglangCacheAware(), make_fleet()
    home = serve(policy, fleet, make_request(0)).row
    load(fleet, home, 65)
    decision = pick(policy, fleet, make_request(1))
    assert decision.row != home and decision.reason.startswith("65 requests on one and 0 on another")


def test_out_of_balance_by_one_measure_alone_is_balanced():
    policy, fleet = SglangCacheAware(), make_fleet(2)
    home = serve(policy, fleet, make_request(0)).row
    load(fleet, home, 270)
    load(fleet, 1 - home, 200)  # 70 more, but only 1.35 times as many
    assert pick(policy, fleet, make_request(1)).row == home


def test_a_match_of_no_more_than_the_threshold_is_a_miss_and_goes_to_the_fewest_requests():
    policy, fleet = SglangCacheAware(threshold=0.6), make_fleet()
    home = serve(policy, fleet, make_request(0)).row
    load(fleet, home, 1)
    longer = make_request(1, SYSTEM + random.Random(2).randbytes(8000), 4000.0)
    decision = pick(policy, fleet, longer)
    assert decision.row != home and "at best: fewest requests" in decision.reason


def test_of_equal_matches_the_one_with_fewer_requests_is_chosen():
    policy, fleet = SglangCacheAware(balance_abs=0), make_fleet(3)
    home = serve(policy, fleet, make_request(0)).row
    held = load(fleet, home, 3)
    second = serve(policy, fleet, make_request(1)).row  # out of balance: now two hold it
    for reservation in held:
        reservation.settle(0.0)
    fair = SglangCacheAware()
    fair._caches = policy._caches
    load(fleet, home, 2)
    assert {pick(fair, fleet, make_request(2)).row for _ in range(20)} == {second}


@pytest.mark.parametrize("options", [{"threshold": 2}, {"balance_abs": -1}, {"balance_rel": 0.5}, {"max_blocks": 1}])
def test_options_are_checked(options):
    message = check("sglang_cache_aware", options)
    assert message is not None and next(iter(options)) in message
