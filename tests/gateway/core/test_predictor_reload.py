"""A predictor that begins in the middle of a pool's life: a reload named another profile, requests are in flight."""

from __future__ import annotations

import pytest

from gateway.core.fleet import Fleet
from gateway.core.predictor import Predictor
from gateway.core.types import Load
from tests.support.predicting import PLAIN, ask, finish, forecast_for, make_pool, predictor_of, send


def replace_predictor(fleet: Fleet) -> Predictor:
    """What a reload does."""
    fleet.predictor = Predictor(PLAIN)
    fleet.predictor.take_over(fleet)
    return fleet.predictor


def test_a_stream_of_a_large_pool_goes_on_before_anybody_asks_the_new_one() -> None:
    fleet = make_pool(12, size=16)
    waiting, running = send(fleet, 10, ask(), 1.0), send(fleet, 11, ask(), 1.0)
    running.first_token(1.1)
    books = replace_predictor(fleet).books
    waiting.first_token(1.2)
    running.progress(16.0, 1.2)
    assert books.context[10] == 1000.0 and books.context[11] == 1016.0
    finish(waiting, 2.0)
    finish(running, 2.0)
    assert not books.context.any() and not books.decoding.any() and not books.waiting.any()


def test_what_the_fleet_knows_is_known_at_once() -> None:
    fleet = make_pool(2)
    fleet.observe(1, Load(1.0, waiting=0.0, running=5.0, kv_capacity=9_000.0), 0.0)
    fleet.observe(0, Load(1.0, waiting=0.0, running=0.0), 0.0)
    running = [send(fleet, 0, ask(), 1.0) for _ in range(3)]
    running[0].first_token(1.1)
    books = replace_predictor(fleet).books
    assert (books.decoding[0], books.waiting[0], books.others[1]) == (1.0, 2.0, 5.0)
    assert predictor_of(fleet).predict(ask(1_000.0), fleet.snapshot(1.2)).waits is None
    assert predictor_of(fleet).predict(ask(9_000.0), fleet.snapshot(1.2)).waits is not None


@pytest.mark.parametrize("heard_of", [False, True], ids=["silent till its end", "with tokens after the reload"])
def test_contexts_that_the_old_one_counted_are_not_taken_from_the_new_one(heard_of: bool) -> None:
    fleet = make_pool(2)
    old = [send(fleet, 0, ask(60_000.0), 1.0) for _ in range(8)]
    for reservation in old:
        reservation.first_token(2.0)
    predictor = replace_predictor(fleet)
    new = send(fleet, 0, ask(10.0), 2.1)
    new.first_token(2.2)
    for reservation in old:
        if heard_of:
            reservation.progress(16.0, 2.5)
        finish(reservation, 3.0, 40.0)
    assert predictor.books.context[0] == pytest.approx(10.0)
    forecast = forecast_for(fleet, 0, ask(100.0), 3.1)
    assert forecast.ttft > 0.0 and forecast.tpot > 0.0
    finish(new, 3.2)


def test_a_stream_that_began_before_teaches_no_pace() -> None:
    fleet = make_pool(2)
    old = send(fleet, 0, ask(), 1.0)
    old.first_token(1.1)
    predictor = replace_predictor(fleet)
    old.progress(16.0, 1.5)
    finish(old, 3.0)
    assert predictor.learnt.tpot.samples == 0 and predictor.learnt.window.count == 0
