"""A burst spreads: 256 equal requests at once on 8 idle endpoints, before any server has said anything."""

import pytest

from policies.picking import POLICIES
from tests.bench.herd import BARS, ENDPOINTS, make_burst, spread


@pytest.mark.parametrize("name", POLICIES)
def test_a_burst_of_equal_requests_stays_within_its_bar(name):
    for seed in range(10):
        assert spread(name, seed, make_burst(seed)) <= BARS.get(name, ENDPOINTS)


def test_one_session_alone_stays_within_the_bound_of_session_hash():
    for seed in range(10):
        assert spread("session_hash", seed, make_burst(seed, same_session=True)) <= BARS["session_hash"]


@pytest.mark.parametrize("name", ["least_inflight", "least_tokens", "round_robin", "prefix_affinity"])
def test_fewer_requests_than_endpoints_go_to_different_ones(name):
    assert spread(name, 1, make_burst(1, requests=5)) == ENDPOINTS / 5
