"""llm-d's predicted latency: the gate, the blend, the headrooms."""

from collections import Counter

import numpy as np
import pytest

from policies.picking import check
from policies.picking.llmd_predicted import LlmdPredicted, blend
from tests.support.fake_predictor import FakePredictor
from tests.support.picking import load, make_fleet, make_request, pick, serve

FRESH = b"a prefix that nobody holds, longer than the first block of the index " * 4


def chosen(policy, fleet, slos=(0.5, 0.03), times=40):
    """Rows that requests without a cached prefix go to."""
    rows = []
    for _ in range(times):
        number = fleet.random.randrange(10**8)
        request = make_request(number, b"%08d" % number + FRESH, ttft_slo=slos[0], tpot_slo=slos[1])
        rows.append(pick(policy, fleet, request).row)
    return Counter(rows)


def test_the_blend_is_four_parts_ttft_and_one_part_tpot_over_those_considered():
    among = np.array([True, True, True, False])
    scores = blend(np.array([0.1, 0.2, 0.3, 9.0]), np.array([0.03, 0.01, 0.02, 9.0]), among)
    np.testing.assert_allclose(scores, [0.2, 0.4, 0.9, np.inf])
    np.testing.assert_allclose(blend(np.full(4, 0.1), np.full(4, 0.1), among), [0.0, 0.0, 0.0, np.inf])


def test_mode_latency_takes_the_lowest_blend():
    fleet = make_fleet(3, FakePredictor(ttft=[0.1, 0.11, 0.3], tpot=[0.05, 0.01, 0.02]))
    decision = pick(LlmdPredicted(), fleet, make_request(0))
    assert decision.row == 1 and decision.forecast is not None and decision.forecast.tpot == 0.01
    assert decision.reason == "TTFT 110 ms, TPOT 10.0 ms: none is warm, lowest blend of predictions"


def test_only_warm_endpoints_are_considered_but_for_one_request_in_a_hundred():
    fleet = make_fleet(4, FakePredictor())
    policy = LlmdPredicted()
    home = serve(policy, fleet, make_request(0)).row
    fleet.predictor.ttft = np.where(np.arange(4) == home, 3.0, 0.1)
    asked = LlmdPredicted(explore=0.0)
    asked._caches = policy._caches
    assert pick(asked, fleet, make_request(1)).row == home
    exploring = LlmdPredicted(explore=1.0)
    exploring._caches = policy._caches
    assert pick(exploring, fleet, make_request(1)).row != home


def test_a_warm_endpoint_that_is_five_seconds_later_is_left():
    fleet = make_fleet(4, FakePredictor())
    policy = LlmdPredicted(explore=0.0)
    home = serve(policy, fleet, make_request(0)).row
    fleet.predictor.ttft = np.where(np.arange(4) == home, 5.2, 0.1)
    decision = pick(policy, fleet, make_request(1))
    assert decision.row != home and "the warm ones are 5.1 s later" in decision.reason


def test_mode_headroom_takes_the_least_headroom_that_is_some():
    fleet = make_fleet(4, FakePredictor(ttft=[0.1, 0.4, 0.6, 0.3], tpot=[0.01, 0.02, 0.01, 0.04]))
    assert set(chosen(LlmdPredicted("headroom", explore=0.0), fleet)) == {1}
    counts = chosen(LlmdPredicted("headroom", explore=0.1), fleet, times=500)
    assert counts[1] > 400 and sum(counts[row] for row in (2, 3)) > 20 and not counts[0]


def test_without_headroom_idle_endpoints_come_first_and_then_the_least_that_is_missing():
    fleet = make_fleet(3, FakePredictor(ttft=[0.8, 0.6, 0.9], tpot=[0.01, 0.01, 0.01]))
    policy = LlmdPredicted("headroom", explore=0.0)
    load(fleet, 0, 1)
    load(fleet, 1, 1)
    assert set(chosen(policy, fleet)) == {2}
    load(fleet, 2, 1)
    assert set(chosen(policy, fleet)) == {1}


def test_an_slo_that_is_not_given_is_met_everywhere():
    fleet = make_fleet(2, FakePredictor(ttft=[0.1, 0.4], tpot=[9.0, 9.0]))
    policy = LlmdPredicted("headroom", explore=0.0)
    assert set(chosen(policy, fleet, (0.5, np.nan))) == {1}
    assert set(chosen(policy, fleet, (np.nan, np.nan))) == {0, 1}


def test_a_draw_prefers_the_best_but_takes_others_too():
    fleet = make_fleet(3, FakePredictor(ttft=[0.1, 0.2, 0.3], tpot=[0.01, 0.01, 0.01]))
    counts = chosen(LlmdPredicted(draw=True), fleet, times=1000)
    assert counts[0] > counts[1] > counts[2] > 0


@pytest.mark.parametrize(
    "options",
    [{"mode": "least"}, {"mode": 1}, {"affinity": 80}, {"explore": 2}, {"break_after": -1}, {"draw": 1},
     {"max_blocks": 1}],
)  # fmt: skip
def test_options_are_checked(options):
    message = check("llmd_predicted", options)
    assert message is not None and next(iter(options)) in message
