"""Uncached tokens: what has to be computed before the first token."""

import random

import numpy as np

from policies.picking.uncached_tokens import UncachedTokens
from tests.support.picking import load, make_fleet, make_request, pick, serve


def test_the_fewest_tokens_to_prefill_are_chosen_whatever_is_still_to_be_written():
    fleet = make_fleet(2)
    load(fleet, 0, 1, 300.0)
    load(fleet, 1, 20, 300.0, started=True)
    decision = pick(UncachedTokens(), fleet, make_request(0))
    assert decision.row == 1
    np.testing.assert_allclose(decision.scores, [2300.0, 2000.0])


def test_a_warm_endpoint_is_chosen_until_more_waits_there_than_its_cache_saves():
    policy, fleet = UncachedTokens(), make_fleet()
    home = serve(policy, fleet, make_request(0)).row
    load(fleet, home, 1, 1500.0)
    assert pick(policy, fleet, make_request(1)).row == home
    load(fleet, home, 1, 1500.0)
    assert pick(policy, fleet, make_request(2)).row != home


def test_where_nothing_waits_the_fewest_requests_decide():
    fleet = make_fleet(3)
    load(fleet, 0, 2, started=True)
    load(fleet, 2, 1, started=True)
    policy = UncachedTokens()
    fresh = [make_request(i, random.Random(i).randbytes(4000)) for i in range(20)]
    assert {pick(policy, fleet, request).row for request in fresh} == {1}
