"""When a request waits at the gateway to be sent later, and how the burstiness of arrivals is measured."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from gateway.core.fleet import Fleet
from gateway.core.types import Decision
from policies.picking.predicted_latency import (
    BURSTY,
    LONGEST_WAIT,
    SHORTEST_WAIT,
    Gaps,
    PredictedLatency,
)
from tests.support.picking import make_request
from tests.support.predicting import ask, crowd, make_pool, send

SLO = {"ttft_slo": 0.5, "tpot_slo": 0.02}


def pick(policy: PredictedLatency, fleet: Fleet, request=None, now: float = 0.0) -> Decision:
    """One choice, and the request goes there unless it waits."""
    decision = policy.pick(request or ask(**SLO), fleet.snapshot(now))
    if not decision.wait:
        decision.taken()
    return decision


# --- waiting ---------------------------------------------------------------------------------------------------------


def busy_pool(rows: int = 2, busy: int = 2) -> Fleet:
    """So many of these have a prompt to work off."""
    fleet = make_pool(rows)
    for row in range(busy):
        send(fleet, row, ask(3000.0), 9.99, forecast=False)
    return fleet


def wait(policy: PredictedLatency, fleet: Fleet, arrived: float = 10.0, now: float = 10.0, slo: float = 2.0) -> float:
    return pick(policy, fleet, ask(300.0, ttft_slo=slo, tpot_slo=0.05)._replace(arrived=arrived), now).wait


def test_where_all_have_prompts_to_work_off_a_request_may_wait() -> None:
    assert 0.0 < wait(PredictedLatency(late_binding="always"), busy_pool()) <= LONGEST_WAIT
    assert wait(PredictedLatency(late_binding="always"), busy_pool(busy=1)) == 0.0
    assert wait(PredictedLatency(late_binding="never"), busy_pool()) == 0.0


def test_decoding_alone_is_no_reason_to_wait() -> None:
    fleet = make_pool(2)
    crowd(fleet, 0, 9)
    crowd(fleet, 1, 9)
    assert wait(PredictedLatency(late_binding="always"), fleet) == 0.0


@pytest.mark.parametrize("slo", [0.2, 0.3, 0.6, 0.9, 30.0])
def test_it_waits_at_most_half_of_what_its_promise_leaves(slo: float) -> None:
    fleet, policy = busy_pool(), PredictedLatency(late_binding="always")
    for waited in (0.0, 0.05, 0.1, 0.2):
        decision = pick(policy, fleet, ask(300.0, ttft_slo=slo, tpot_slo=0.05)._replace(arrived=10.0 - waited), 10.0)
        half = (slo - waited - decision.terms[0].min()) / 2.0
        expected = min(half, LONGEST_WAIT) if half > SHORTEST_WAIT else 0.0
        assert decision.wait == pytest.approx(expected, abs=1e-9)


def test_a_request_that_is_late_already_does_not_wait() -> None:
    assert wait(PredictedLatency(late_binding="always"), busy_pool(), arrived=7.0) == 0.0


def test_by_itself_it_waits_only_while_arrivals_come_in_bursts() -> None:
    for bursts, waits in ((True, True), (False, False)):
        policy, idle = PredictedLatency(), make_pool(2)
        assert wait(policy, busy_pool(), arrived=0.0) == 0.0  # nothing is known of the arrivals
        now = 0.1
        for i in range(200):
            now += (1.0 if i % 10 == 0 else 0.001) if bursts else 0.1
            assert wait(policy, idle, now, now) == 0.0
        fleet = busy_pool()
        fleet.predictor.predict(ask(1.0), fleet.snapshot(now))
        assert (wait(policy, fleet, now, now, slo=90.0) > 0.0) is waits


def test_a_request_that_waits_makes_no_cache_warm() -> None:
    """It is asked for again: were its prompt entered now, it would find itself there."""
    fleet, policy = busy_pool(), PredictedLatency(late_binding="always")
    request = make_request(0, ttft_slo=30.0, tpot_slo=0.05)._replace(arrived=10.0)
    assert pick(policy, fleet, request, 10.0).wait > 0.0
    again = pick(policy, fleet, request, 10.1)
    assert again.terms[5].tolist() == [0.0, 0.0]
    assert pick(policy, busy_pool(busy=1), request, 10.1).wait == 0.0
    assert pick(policy, fleet, request, 10.1).terms[5].max() > 1700.0


def test_who_may_not_wait_any_longer_makes_the_cache_warm_where_it_goes() -> None:
    fleet, policy = busy_pool(), PredictedLatency(late_binding="always")
    request = make_request(0, ttft_slo=30.0, tpot_slo=0.05)._replace(arrived=10.0)
    assert pick(policy, fleet, request, 10.0).wait > 0.0
    last = pick(policy, fleet, request._replace(may_wait=False), 10.5)
    assert last.wait == 0.0
    assert pick(policy, fleet, request, 10.6).terms[5, last.row] > 1700.0


def test_a_request_that_may_not_wait_any_more_is_sent_and_makes_a_cache_warm() -> None:
    fleet, policy = busy_pool(), PredictedLatency(late_binding="always")
    request = make_request(0, ttft_slo=30.0, tpot_slo=0.05)._replace(arrived=10.0)
    assert pick(policy, fleet, request, 10.0).wait > 0.0
    assert pick(policy, fleet, request._replace(may_wait=False), 10.5).wait == 0.0
    assert pick(policy, fleet, request, 10.5).terms[5].max() > 1700.0


# --- gaps ------------------------------------------------------------------------------------------------------------


def variation(gaps: Sequence[float]) -> float:
    seen, now = Gaps(), 100.0
    for gap in gaps:
        now += gap
        seen.see(now)
    return seen.variation


def test_the_variation_of_gaps_is_measured() -> None:
    random = Random(3)
    assert variation([0.01] * 500) == pytest.approx(0.0, abs=1e-6)
    assert variation([random.expovariate(200.0) for _ in range(4000)]) == pytest.approx(1.0, abs=0.1)
    bursts = [random.expovariate(1000.0) if random.random() < 0.9 else random.expovariate(20.0) for _ in range(4000)]
    assert variation(bursts) > BURSTY


def test_a_few_arrivals_say_nothing_and_count_as_ordinary() -> None:
    assert Gaps().variation == variation([]) == variation([5.0]) == variation([0.001, 1.0] * 5) == 1.0


def test_rare_arrivals_never_say_anything() -> None:
    assert variation([0.001, 30.0] * 200) == 1.0


def test_what_was_a_while_ago_is_forgotten() -> None:
    bursts, even = [0.2 if i % 20 == 0 else 0.001 for i in range(2000)], [0.02] * 3000
    assert variation(bursts) > BURSTY
    assert variation([*bursts, *even]) < 0.5


def test_a_request_that_is_looked_at_again_is_no_arrival() -> None:
    once, twice, now = Gaps(), Gaps(), 0.0
    random = Random(4)
    for _ in range(100):
        before, now = now, now + random.expovariate(50.0)
        once.see(now)
        for arrived in (now, now, before):
            twice.see(arrived)
    assert once.variation == twice.variation != 1.0
