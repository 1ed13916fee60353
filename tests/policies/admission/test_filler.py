"""Filler goes where it does no more harm than is allowed, and leaves when somebody comes whom it would delay."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.types import Decision, Load
from policies.admission.filler import FEW
from policies.admission.strain import Strain
from tests.policies.admission.filled import Pool


def strain(pool: Pool) -> Strain:
    predictor = pool.fleet.predictor
    assert predictor is not None
    return Strain(pool.fleet, predictor, pool.filler._ledger, len(pool.fleet.ours), pool.now)


def bound(pool: Pool) -> float:
    predictor = pool.fleet.predictor
    assert predictor is not None
    return pool.filler._bounds.iteration(predictor)


def test_an_idle_fleet_takes_it_everywhere() -> None:
    assert Pool().open() == list(range(8))


def test_where_nobody_is_expected_a_few_prompts_are_sent_ahead_and_no_more() -> None:
    pool = Pool(1)
    sent = 0
    while pool.open() and sent < 100:
        pool.send(0, started=False)
        sent += 1
    assert 2 <= sent <= 20


def test_where_somebody_is_one_prompt_is_worked_off_at_a_time() -> None:
    pool = Pool(2)
    pool.send(0, filler=False)
    pool.now += 5.0
    pool.send(0, started=False)
    assert 0 not in pool.open()


def test_an_engine_that_says_that_many_wait_gets_no_more() -> None:
    pool = Pool(2)
    pool.fill(30)
    pool.scraped(0, 20.0)
    pool.scraped(1, 0.0)
    assert pool.open() == [1]


def test_a_full_cache_takes_none() -> None:
    pool = Pool(1)
    pool.fill(190)
    assert pool.open() == []


def test_a_batch_may_become_large_where_nobody_is_expected_but_on_the_endpoint_that_stands_by() -> None:
    pool = Pool(16)
    pool.end(pool.send(0, filler=False))
    pool.now += 100.0
    pool.fill(120)
    assert len(pool.open()) == 15


def test_nothing_opens_while_the_others_alone_are_at_the_edge_of_their_promise() -> None:
    pool = Pool(2)
    for _ in range(250):
        for row in range(2):
            pool.send(row, filler=False)
    pool.now += 4.0
    assert strain(pool).alone()[:2].min() > 0.02
    assert pool.open() == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 120)), min_size=1, max_size=8),
    st.floats(0.0, 30.0),
    st.booleans(),
)
def test_where_it_may_go_the_others_keep_their_pace(there: list[tuple[int, int]], later: float, promised: bool) -> None:
    pool = Pool(len(there))
    for row, (others, filler) in enumerate(there):
        for _ in range(others):
            pool.send(row, filler=False, slo=promised)
        for _ in range(filler):
            pool.send(row)
    pool.now += later
    rows = pool.open()
    seen = strain(pool)
    after, alone = seen.pace(1.0, 2150.0), seen.alone()
    for row in rows:
        if there[row][0]:
            limit = 0.025 if promised else alone.item(row) * 1.05
            assert after.item(row) <= limit + 1e-9


def test_filler_that_was_aborted_too_often_goes_only_where_it_need_never_leave() -> None:
    pool = Pool(2)
    pool.fill(120)
    assert pool.open(aborted=2) == [0, 1]
    assert pool.open(aborted=3) == []


def test_nobody_is_aborted_while_nobody_comes() -> None:
    pool = Pool()
    pool.fill(150)
    assert pool.victims() == []


def test_when_somebody_comes_filler_leaves_until_an_iteration_is_short_enough() -> None:
    pool = Pool()
    pool.fill(150)
    for place in range(16):
        pool.send(place % 8, filler=False)
    for victim in pool.victims():
        pool.drop(victim)
    assert (strain(pool).filler <= 1.3 * bound(pool)).all()
    assert strain(pool).filler.min() > 0.5 * bound(pool)  # and no more than that
    assert pool.victims() == []


def test_those_with_the_least_progress_leave_first() -> None:
    pool = Pool(1)
    running = [pool.send(0) for _ in range(150)]
    for place, each in enumerate(running):
        each.progress(float(place), pool.now)
    pool.now += 60.0
    pool.send(0, filler=False)
    victims = pool.victims()
    assert victims == running[: len(victims)]
    assert 50 < len(victims) < 120


def test_who_ends_in_a_moment_is_let_end() -> None:
    young, old = Pool(1), Pool(1)
    for pool, written in ((young, 10.0), (old, 250.0)):
        for place in range(120):
            pool.send(0).progress(written if place % 2 else 10.0, 0.0)
        pool.now = 60.0
        pool.send(0, filler=False)
    assert len(old.victims()) < len(young.victims()) - 20


def test_nobody_is_aborted_more_often_than_is_allowed() -> None:
    pool = Pool()
    pool.fill(150, aborted=3)
    pool.send(0, filler=False)
    assert pool.victims() == []


def test_what_may_still_wait_at_an_engine_leaves_at_once_when_somebody_comes() -> None:
    pool = Pool(1)
    sent = []
    while pool.open():
        sent.append(pool.send(0, started=False))
    pool.send(0, filler=False, started=False)
    assert pool.victims() == sent


def test_what_it_said_may_go_was_gone_when_it_has_ended() -> None:
    pool = Pool()
    for reservation in [pool.send(row) for row in range(8) for _ in range(3)]:
        pool.drop(reservation)
    assert pool.filler.counts() == {}
    assert not pool.filler._ledger.requests.any()
    assert not pool.filler._ledger.context.any()


def test_looks_for_victims_come_no_faster_than_they_can_matter() -> None:
    pool = Pool()
    pool.fill(150)
    pool.send(0, filler=False)
    assert pool.victims()
    assert pool.filler.victims(pool.fleet, pool.now + 0.001) == []


def test_a_lower_slowdown_lets_less_go() -> None:
    costs = []
    for slowdown in (0.01, 0.2):
        pool = Pool(4, slowdown=slowdown)
        for place in range(400):
            pool.now += 0.01
            pool.end(pool.send(place % 4, filler=False))
        sent = 0
        while rows := pool.open():
            pool.send(rows[0])
            sent += 1
        costs.append(sent)
    assert costs[0] < costs[1]


def test_without_a_predictor_a_few_go_where_nobody_else_is() -> None:
    pool = Pool(2, predictor=False)
    pool.send(1, filler=False)
    for _ in range(int(FEW)):
        assert pool.open() == [0]
        pool.send(0)
    assert pool.open() == []
    assert pool.victims() == []


def test_the_part_of_an_iteration_that_is_filler_is_what_it_adds() -> None:
    pool = Pool(1)
    for _ in range(10):
        pool.send(0, filler=False)
    without = strain(pool).iteration.item(0)
    for _ in range(20):
        pool.send(0)
    seen = strain(pool)
    assert seen.iteration.item(0) - seen.filler.item(0) == pytest.approx(without)
    assert seen.others.item(0) == 10.0
    assert np.all(seen.rho_filler <= seen.rho)


def test_one_that_waits_at_the_gateway_is_expected_too_and_filler_leaves_for_it() -> None:
    pool = Pool()
    pool.fill(150)
    pool.filler.came(pool.ask(filler=False), pool.now)
    assert pool.victims()


def test_a_prediction_for_others_can_be_had_as_it_will_be_without_filler() -> None:
    pool = Pool(1)
    pool.fill(150)
    pool.send(0, started=False)
    predictor, request = pool.fleet.predictor, pool.ask(filler=False)
    assert predictor is not None
    forecast = predictor.forecast(predictor.predict(request, pool.snapshot()), 0)
    cleared = pool.filler.cleared(Decision(0, "test", forecast=forecast), pool.fleet, pool.now).forecast
    assert cleared is not None
    assert forecast.tpot_base > 0.02 > 0.01 > cleared.tpot_base
    assert cleared.ttft_high < forecast.ttft_high
    assert pool.filler.there(0) == 151.0


@pytest.mark.parametrize("predictor", [True, False])
def test_a_request_of_others_that_has_gone_does_not_keep_filler_off(predictor: bool) -> None:
    pool = Pool(1, predictor=predictor)
    for second, running in enumerate([1.0] * 20 + [0.0] * 6):  # an average of what was seen, so a third of it is left
        pool.now = float(second)
        pool.fleet.observe(0, Load(at=pool.now, running=running, waiting=0.0), 0.0)
        if second == 19:
            assert predictor or not pool.open(), "somebody is there"
    assert pool.fleet.others.item(0) > 0.0 and pool.open() == [0]
    assert not pool.filler.victims(pool.fleet, pool.now)
