"""LMETRIC: tokens to prefill times requests."""

import numpy as np
import pytest

from policies.picking import check
from policies.picking.lmetric import Lmetric
from tests.support.picking import SYSTEM, load, make_fleet, make_request, pick, serve


def test_the_score_is_the_product_of_tokens_and_requests_with_this_one_in_both():
    fleet = make_fleet(3)
    load(fleet, 0, 3, 500.0)
    load(fleet, 1, 9, 500.0, started=True)
    decision = pick(Lmetric(), fleet, make_request(0))
    np.testing.assert_allclose(decision.scores, [3500.0 * 4, 2000.0 * 10, 2000.0 * 1])
    assert decision.row == 2
    assert decision.reason == "2000 prompt tokens x 1 requests, lowest of 3"


def test_many_decoding_requests_weigh_as_much_as_prompts_that_wait():
    fleet = make_fleet(2)
    load(fleet, 0, 1, 5000.0)  # 7000 x 2
    load(fleet, 1, 7, 100.0, started=True)  # 2000 x 8
    assert pick(Lmetric(), fleet, make_request(0)).row == 0


def test_of_two_idle_endpoints_the_one_with_the_prefix_is_chosen():
    policy, fleet = Lmetric(), make_fleet()
    home = serve(policy, fleet, make_request(0)).row
    decision = serve(policy, fleet, make_request(1))
    assert decision.row == home and decision.cached_tokens > 1700.0


def test_a_warm_endpoint_is_left_when_its_batch_costs_more_than_the_cache_saves():
    policy, fleet = Lmetric(), make_fleet(2)
    home = serve(policy, fleet, make_request(0)).row
    load(fleet, home, 2, started=True)
    assert pick(policy, fleet, make_request(1)).row == home
    load(fleet, home, 60, started=True)
    assert pick(policy, fleet, make_request(2)).row != home


def test_a_prompt_that_is_wholly_cached_still_costs_a_token():
    policy, fleet = Lmetric(), make_fleet(2)
    request = make_request(0, SYSTEM * 4, 1.0)
    serve(policy, fleet, request)
    assert (pick(policy, fleet, request).scores >= 1.0).all()


@pytest.mark.parametrize("options", [{"max_blocks": 0}, {"max_blocks": 1.5}])
def test_options_are_checked(options):
    message = check("lmetric", options)
    assert message is not None and "max_blocks" in message
