"""Least tokens: work decides, then requests, then chance."""

import random
from collections import Counter

from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.types import Decision, Endpoint, Request
from policies.picking.least_tokens import LeastTokens


def make_request(prompt: float = 100.0, output: float = 100.0) -> Request:
    return Request("r", "m", 0.0, prompt_tokens=prompt, output_tokens=output)


def make_fleet(count: int) -> Fleet:
    fleet = Fleet("pool", Rule(), random.Random(1))
    fleet.update([Endpoint(f"e{i}", f"http://h:{i}", "pool", "vllm") for i in range(count)], 0.0, fresh=True)
    return fleet


def test_one_long_prompt_outweighs_many_short_ones():
    policy, fleet = LeastTokens(), make_fleet(2)
    fleet.reserve(Decision(0, ""), make_request(20_000.0), 0.0)
    rows = []
    for _ in range(50):
        decision = policy.pick(make_request(), fleet.snapshot(0.0))
        fleet.reserve(decision, make_request(), 0.0)
        rows.append(decision.row)
    assert rows == [1] * 50


def test_work_that_was_done_no_longer_counts():
    policy, fleet = LeastTokens(), make_fleet(2)
    long = fleet.reserve(Decision(0, ""), make_request(20_000.0, 100.0), 0.0)
    fleet.reserve(Decision(1, ""), make_request(500.0, 100.0), 0.0)
    assert policy.pick(make_request(), fleet.snapshot(0.0)).row == 1
    long.first_token(1.0)
    assert policy.pick(make_request(), fleet.snapshot(0.0)).row == 0


def test_equal_work_is_decided_by_chance():
    policy, fleet = LeastTokens(), make_fleet(4)
    counts = Counter(policy.pick(make_request(), fleet.snapshot(0.0)).row for _ in range(4000))
    assert all(850 < counts[row] < 1150 for row in range(4))


def test_tie_widens_what_is_equal():
    fleet = make_fleet(2)
    fleet.reserve(Decision(0, ""), make_request(50.0, 50.0), 0.0)
    fleet.reserve(Decision(1, ""), make_request(150.0, 50.0), 0.0)
    wide = LeastTokens(tie=1000)
    assert {wide.pick(make_request(), fleet.snapshot(0.0)).row for _ in range(50)} == {0, 1}
    assert {LeastTokens().pick(make_request(), fleet.snapshot(0.0)).row for _ in range(50)} == {0}


def test_the_scores_are_the_figures_at_the_time_of_the_choice():
    policy, fleet = LeastTokens(), make_fleet(2)
    decision = policy.pick(make_request(), fleet.snapshot(0.0))
    fleet.reserve(decision, make_request(), 0.0)
    assert decision.scores is not None and decision.scores.max() < 1.0  # the request itself is not in them
