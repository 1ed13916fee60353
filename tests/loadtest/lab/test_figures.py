"""Figures of runs that were made by hand, so that every figure can be told beforehand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from loadtest.lab.arrivals import draw
from loadtest.lab.figures import WINDOW, Slowed, figures, shifted, slowed, windows
from loadtest.lab.record import Run, blank
from loadtest.lab.scenario import Scenario


def run_of(count: int, rate: float = 100.0) -> Run:
    """`count` requests, `1 / rate` apart, all answered at once by eight engines in turn."""
    scenario = Scenario("made", requests=count, warm_up=0.0, cool_down=0.0)
    run = blank(scenario, "none", rate, 1, draw(scenario, rate, 1))
    run.arrived = np.arange(count) / rate
    run.ttft, run.tpot, run.e2e = np.full(count, 0.1), np.full(count, 0.01), np.full(count, 1.0)
    run.held, run.engine, run.cached = np.zeros(count), np.arange(count) % 8, np.zeros(count, np.int64)
    run.complete = True
    return run


def test_attainment_counts_both_promises_and_leaves_out_the_infeasible() -> None:
    run = run_of(1000)
    run.ttft[:100] = 0.6
    run.tpot[100:150] = 0.03
    run.feasible[:50] = False
    assert figures(run)["attainment"] == pytest.approx(850 / 950)
    assert figures(run)["feasible"] == 0.95


def test_percentiles_hits_and_refusals() -> None:
    run = run_of(1000)
    run.ttft = np.linspace(0.0, 1.0, 1000)
    run.engine[:10] = -1
    run.cached = run.prompt // 2
    found = figures(run)
    assert found["ttft_p50"] == pytest.approx(0.5) and found["ttft_p95"] == pytest.approx(0.95)
    assert found["refused"] == 0.01 and found["hit"] == pytest.approx(0.5, rel=0.01)


def predicted(run: Run, factor: float) -> None:
    for row, actual in ((0, run.ttft - run.held), (3, run.tpot)):
        run.predicted[row], run.predicted[row + 1], run.predicted[row + 2] = factor * actual, 0.9 * actual, 1.2 * actual


def test_the_predictor_is_judged_on_streams_from_the_dispatch_on() -> None:
    run = run_of(1000)
    run.held = np.full(1000, 0.04)
    predicted(run, 1.1)
    run.predicted[:, :100] *= 2.0
    run.stream[600:700] = False
    run.predicted[:, 600:700] *= 9.0
    run.predicted[1, 700:800] = run.ttft[700:800]  # low above what happened
    found = figures(run)
    assert found["ttft_mape_500"] == pytest.approx(0.1) and found["tpot_mape"] == pytest.approx(0.1)
    assert found["ttft_mape_100"] == pytest.approx(1.2)
    assert found["ttft_coverage"] == pytest.approx(0.75) and found["tpot_coverage"] == 1.0


def test_without_predictions_there_is_no_error() -> None:
    found = figures(run_of(100))
    assert all(math.isnan(found[name]) for name in ("ttft_mape", "ttft_coverage", "tpot_mape"))


def test_a_shift_is_told_by_the_errors_around_it() -> None:
    run = run_of(4000)
    predicted(run, 1.1)
    run.predicted[0, 2000:2300] = 1.5 * run.ttft[2000:2300]
    run.predicted[0, 2300:2600] = 1.2 * run.ttft[2300:2600]
    found = shifted(run, 2000)
    assert found["shift_before"] == pytest.approx(0.1) and found["shift_during"] == pytest.approx(0.5)
    assert found["shift_ratio"] == pytest.approx(2.0)


SLOW = Slowed(engine=7, engines=8, since=10.0, until=30.0)


def test_a_slow_engine_that_gets_half_of_the_others_traffic() -> None:
    run = run_of(6000)
    during = (run.arrived >= 10) & (run.arrived < 30)
    turn = np.cumsum(during & (run.engine == 7))
    run.engine[during & (run.engine == 7) & (turn % 2 == 0)] = 0
    run.ttft[(run.arrived >= 10) & (run.arrived < 20)] = 0.4
    found = slowed(run, SLOW)
    # Its 6.25 % beside seven that share the rest.
    assert found["less_traffic"] == pytest.approx(1 - 0.0625 / (0.9375 / 7), rel=0.02)
    assert found["slow_ttft_p95"] == pytest.approx(0.1) and found["first_ttft_p95"] == pytest.approx(0.4)
    assert found["restored"] == pytest.approx(1.0, rel=0.01)


def test_a_share_that_swings_is_seen_beside_others_that_do_not() -> None:
    run, random = run_of(6000), np.random.default_rng(1)
    run.engine = random.integers(0, 8, 6000)
    calm = slowed(run, SLOW)["oscillation"]
    to_others = (run.engine == 7) & ((run.arrived // 5) % 2 == 0)
    run.engine[to_others] = random.integers(0, 7, int(to_others.sum()))
    assert calm < 2.5 < slowed(run, SLOW)["oscillation"]


def test_a_slow_engine_without_an_end_is_never_restored() -> None:
    assert math.isnan(slowed(run_of(3000), replace(SLOW, until=math.inf))["restored"])


def test_windows_hold_every_request_once() -> None:
    run = run_of(1000)
    seen = windows(run, 3)
    assert sum(seen.requests) == 1000 and sum(seen.sent) == 125
    assert seen.traffic(2) == pytest.approx([0.125] * 2, rel=0.02)
    assert len(seen.ttft_p95) == math.ceil(10.0 / WINDOW) and seen.ttft_p95[0] == pytest.approx(0.1)
