"""Predicted TTFT: the shortest, and near ones by two choices."""

from collections import Counter

import pytest

from policies.picking import check
from policies.picking.predicted_ttft import PredictedTtft
from tests.support.fake_predictor import FakePredictor
from tests.support.picking import load, make_fleet, make_request, pick, serve


def test_the_shortest_prediction_is_chosen_and_forecast():
    fleet = make_fleet(3, FakePredictor(ttft=[0.3, 0.1, 0.2]))
    load(fleet, 1, 50)
    decision = pick(PredictedTtft(), fleet, make_request(0))
    assert decision.row == 1
    assert decision.forecast is not None and decision.forecast.ttft == 0.1
    assert decision.reason == "first token predicted in 100 ms there, shortest of 3"


def test_of_near_predictions_two_are_drawn_and_the_one_with_fewer_requests_is_chosen():
    fleet = make_fleet(4, FakePredictor(ttft=[0.1, 0.1019, 0.101, 0.11]))
    load(fleet, 0, 5)
    counts = Counter(pick(PredictedTtft(), fleet, make_request(i)).row for i in range(600))
    assert set(counts) == {1, 2} and min(counts.values()) > 200
    assert {pick(PredictedTtft(tie=0.0), fleet, make_request(i)).row for i in range(20)} == {0}


def test_the_predictor_is_told_what_is_cached_where():
    fleet = make_fleet(3, FakePredictor())
    policy = PredictedTtft()
    home = serve(policy, fleet, make_request(0)).row
    decision = serve(policy, fleet, make_request(1))
    assert decision.row == home and decision.cached_tokens > 1700.0
    cached = fleet.predictor.asked[-1]
    assert cached[home] > 1700.0 and cached.sum() == cached[home]


def test_it_says_that_it_predicts():
    assert PredictedTtft.predicts


@pytest.mark.parametrize("options", [{"tie": -1}, {"tie": "a"}, {"max_blocks": 1}])
def test_options_are_checked(options):
    message = check("predicted_ttft", options)
    assert message is not None and next(iter(options)) in message
