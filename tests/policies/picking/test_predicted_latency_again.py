"""Prompts that are warm somewhere: what it costs others to prefill them again elsewhere, and how that decides."""

from __future__ import annotations

import pytest

from gateway.core.fleet import Fleet
from gateway.core.types import Decision, Request
from policies.picking.predicted_latency import PredictedLatency
from policies.picking.weighing import TTFT_SHARE
from tests.support.picking import make_request
from tests.support.predicting import ask, make_pool, predictor_of, send

SLO = {"ttft_slo": 0.5, "tpot_slo": 0.02}


def pick(policy: PredictedLatency, fleet: Fleet, request: Request, now: float = 0.0) -> Decision:
    """One choice, and the request goes there unless it waits."""
    decision = policy.pick(request, fleet.snapshot(now))
    if not decision.wait:
        decision.taken()
    return decision


def arrive(policy: PredictedLatency, fleet: Fleet, rate: float, until: float) -> None:
    """Requests that share nothing come at this rate."""
    for i in range(1, int(rate * until) + 1):
        pick(policy, fleet, ask(10.0)._replace(arrived=i / rate), i / rate)


def test_work_that_is_done_again_counts_for_all_who_come_meanwhile() -> None:
    """So many a second for each endpoint, until it is idle again, each as late as the work takes."""
    fleet, policy = make_pool(2), PredictedLatency(harm=0.5)
    arrive(policy, fleet, 20.0, 30.0)
    first = make_request(0, **SLO)
    warm = pick(policy, fleet, first, 30.0)
    fleet.reserve(warm, first, 30.0).settle(30.0)
    request = make_request(1, **SLO)
    decision = pick(policy, fleet, request, 31.0)
    cached = decision.terms[5]
    p = predictor_of(fleet).predict(request, fleet.snapshot(31.0), cached)
    lost, cold = p.work * (cached.max() - cached) / (2000.0 - cached), 1 - warm.row
    expected = 0.5 * TTFT_SHARE / 0.5 * lost * 10.0 * p.ttft / (1.0 - p.rho)
    assert decision.terms[6] == pytest.approx(expected, rel=0.03) and decision.terms[6, warm.row] == 0.0
    assert decision.terms[6, cold] > 0.02
    without = PredictedLatency(harm=0.0)
    arrive(without, fleet, 20.0, 30.0)
    pick(without, fleet, first, 30.0)
    assert pick(without, fleet, request, 31.0).terms[6].tolist() == [0.0, 0.0]


def test_under_load_a_conversation_stays_where_it_is_warm_though_another_would_begin_sooner() -> None:
    rows = {}
    for rate in (0.1, 80.0):
        fleet, policy = make_pool(2), PredictedLatency()
        arrive(policy, fleet, rate, 60.0)
        first = make_request(0, ttft_slo=1.0, tpot_slo=0.05)
        warm = pick(policy, fleet, first, 70.0)
        fleet.reserve(warm, first, 70.0).first_token(70.1)
        send(fleet, warm.row, ask(6000.0), 80.0, forecast=False)
        request = make_request(1, ttft_slo=1.0, tpot_slo=0.05)
        decision = pick(policy, fleet, request, 80.0)
        assert decision.terms[0, warm.row] > 1.5 * decision.terms[0, 1 - warm.row]
        rows[rate] = decision.row == warm.row
    assert rows == {0.1: False, 80.0: True}


def test_the_fallback_stays_where_it_is_warm_the_sooner_the_more_wait_elsewhere() -> None:
    rows = []
    for waiting in (1, 6):
        fleet, policy = make_pool(2), PredictedLatency()
        predictor_of(fleet).learnt.ttft.calibrated = False
        warm = pick(policy, fleet, make_request(0)).row
        for _ in range(waiting):
            send(fleet, 1 - warm, ask(100.0, 1.0), 0.0, forecast=False)
        for _ in range(waiting + 5):
            send(fleet, warm, ask(1000.0, 1.0), 0.0, forecast=False)
        rows.append(pick(policy, fleet, make_request(1)).row == warm)
    assert rows == [False, True]
