"""The rule on windows: what it sees, when it acts, and what is the best that can be made of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loadtest.lab.flagger import METRICS, Windows, best, rolled_back, tune, windows


def test_a_window_has_the_p99_of_first_tokens_and_the_shares_of_what_failed() -> None:
    at = np.array([10.0, 20.0, 30.0, 40.0, 70.0, 130.0])
    first = np.array([1.0, 2.0, np.nan, 4.0, 5.0, 9.0])
    failed, truncated = np.array([0, 0, 1, 0, 0, 0.0]), np.array([0, 1, 0, 0, 0, 0.0])
    found = windows(at, first, failed, truncated, 0.0, 130.0)
    assert found["p99"] == pytest.approx([np.percentile([1.0, 2.0, 4.0], 99.0), 5.0])
    assert found["errors"] == [0.25, 0.0] and found["truncated"] == [0.25, 0.0] and found["failures"] == [0.5, 0.0]


def test_a_window_without_traffic_has_no_values() -> None:
    nothing = np.array([])
    assert all(math.isnan(found[0]) for found in windows(*[nothing] * 4, 0.0, 60.0).values())


def test_it_acts_when_so_many_checks_have_failed_in_all() -> None:
    run = {"p99": [0.1, 0.3, 0.1, 0.3, 0.1, 0.3]}
    assert rolled_back(run, 1, {"p99": 0.2}) == 120.0
    assert rolled_back(run, 3, {"p99": 0.2}) == 360.0
    assert rolled_back(run, 4, {"p99": 0.2}) == math.inf
    assert rolled_back(run, 1, {"p99": 0.3}) == math.inf  # at most


def test_a_check_fails_when_any_metric_does() -> None:
    run = {"p99": [0.1, 0.3, 0.1], "failures": [0.5, 0.0, 0.0]}
    assert rolled_back(run, 2, {"p99": 0.2, "failures": 0.4}) == 120.0
    assert rolled_back(run, 2, {"p99": 0.2, "failures": 0.6}) == math.inf


def test_no_values_are_a_failed_check() -> None:
    assert rolled_back({"p99": [math.nan, 0.1, math.nan]}, 2, {"p99": 0.2}) == 180.0


def runs(*values: list[float]) -> list[Windows]:
    return [dict.fromkeys(METRICS, one) for one in values]


def test_a_threshold_is_as_low_as_the_false_alarms_allow() -> None:
    equal = runs([1.0, 5.0], [2.0, 3.0], [1.0, 1.0], [4.0, 4.0])
    none = tune(equal, ["p99"], 1, 0)
    assert (none.most, none.alarms) == ({"p99": 5.0}, 0.0)
    one = tune(equal, ["p99"], 1, 1)
    assert (one.most, one.alarms) == ({"p99": 4.0}, 0.25)
    twice = tune(equal, ["p99"], 2, 0)
    assert twice.most == {"p99": 4.0}
    everything = tune(equal, ["p99"], 1, 4)
    assert everything.most == {"p99": 1.0} and everything.alarms == 0.75


def test_two_metrics_share_the_false_alarms() -> None:
    equal = [{"p99": [1.0, 1.0, 9.0], "failures": [0.0, 0.0, 0.0]}, {"p99": [1.0] * 3, "failures": [0.0, 0.0, 0.5]}]
    assert tune(equal, ["p99", "failures"], 1, 0).most == {"p99": 9.0, "failures": 0.5}
    both = tune(equal, ["p99", "failures"], 1, 2)
    assert both.most == {"p99": 1.0, "failures": 0.0} and both.alarms == 1.0


def test_the_best_rule_is_the_one_that_finds_the_harm_soonest() -> None:
    equal = [{"p99": [1.0, 9.0, 1.0], "errors": [0.1, 0.1, 0.1]} for _ in range(4)]
    harmed = [{"p99": [5.0, 5.0, 5.0], "errors": [0.1, 0.2, 0.2]} for _ in range(3)]
    rule, times = best(equal, harmed, 0, [["p99"], ["errors"]])
    assert times == [120.0] * 3 and rule.alarms == 0.0
