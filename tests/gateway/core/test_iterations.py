"""What is concluded from the sounds of an engine: when a prompt is done, when it was left behind, when it is late."""

from __future__ import annotations

import pytest

from gateway.core.books import PAUSE
from gateway.core.fleet import Fleet
from tests.support.predicting import PLAIN, ask, crowd, make_pool, predictor_of, send


def found(fleet: Fleet) -> tuple[float, float]:
    """Tokens in the running iteration, and those that wait."""
    books = predictor_of(fleet).books
    return float(books.running[0]), float(books.queue[0])


def boundary(fleet: Fleet, now: float) -> tuple[float, float]:
    """The same when a token of some stream has come."""
    predictor_of(fleet).beat(0, now)
    return found(fleet)


def waiting(fleet: Fleet, now: float) -> tuple[float, float]:
    """The same as somebody who asks for a prediction finds it."""
    predictor_of(fleet).predict(ask(1.0), fleet.snapshot(now))
    return found(fleet)


def test_a_prompt_whose_token_does_not_come_with_the_boundary_was_not_in_that_iteration() -> None:
    """It reached the engine late, or what was heard were late sounds of the boundary before."""
    fleet, pause = make_pool(1), PAUSE * PLAIN.base
    crowd(fleet, 0, 2)
    short, long = send(fleet, 0, ask(600.0), 1.0), send(fleet, 0, ask(1900.0), 1.001)
    books = predictor_of(fleet).books
    assert boundary(fleet, 1.02) == (2046.0, 454.0)
    assert boundary(fleet, 1.03) == (454.0, 0.0)
    assert waiting(fleet, 1.03 + 0.9 * pause) == (454.0, 0.0)  # it may come yet
    pairs = books.pairs[0] + books.lines[0].running_pairs
    assert waiting(fleet, 1.03 + 1.1 * pause) == (1054.0, 0.0)  # the long one was done in part
    assert books.lines[0].beat == 1.03 and books.due[0] == 1.0
    assert books.pairs[0] + books.lines[0].running_pairs == pytest.approx(pairs + 600.0 * 300.0)
    short.first_token(1.2)
    assert (books.running[0], books.queue[0]) == (1054.0, 0.0)
    long.first_token(1.3)
    assert books.running[0] == books.queue[0] == books.pairs[0] == books.extra[0] == books.due[0] == 0.0


def test_nobody_need_ask_for_a_prompt_to_be_found_left_behind() -> None:
    fleet = make_pool(1)
    crowd(fleet, 0, 2)
    send(fleet, 0, ask(600.0), 1.0)
    assert [boundary(fleet, 1.1 + i / 10.0) for i in range(4)] == [(600.0, 0.0), (0.0, 0.0), (600.0, 0.0), (0.0, 0.0)]


def test_an_iteration_that_ought_to_have_brought_a_first_token_takes_longer_the_later_it_is() -> None:
    fleet = make_pool(2)
    send(fleet, 0, ask(1000.0), 1.0)
    rests = [float(predictor_of(fleet).predict(ask(1.0), fleet.snapshot(now)).rest[0]) for now in (1.02, 1.1, 1.5, 3.0)]
    ends = 1.01 + 0.029 + 0.0005 + 0.01  # on its way, its tokens, its pairs, the iteration
    assert rests[0] == pytest.approx(ends - 1.02 - 0.01)
    assert rests[2:] == pytest.approx([1.5 + 0.01 - ends, 3.0 + 0.01 - ends])
    assert rests[0] < rests[1] < rests[2]


def test_a_long_prompt_on_a_silent_engine_is_not_late_before_its_last_part_runs() -> None:
    fleet = make_pool(1)
    send(fleet, 0, ask(9000.0), 1.0)
    assert predictor_of(fleet).books.due[0] == 0.0
    assert float(predictor_of(fleet).predict(ask(1.0), fleet.snapshot(9.0)).rest[0]) < 0.02


def test_an_endpoint_that_has_gone_in_between_is_not_looked_at_again() -> None:
    fleet = make_pool(1)
    crowd(fleet, 0, 2)
    send(fleet, 0, ask(600.0), 1.0)
    boundary(fleet, 1.02)
    boundary(fleet, 1.1)
    predictor_of(fleet).forget(0)
    assert waiting(fleet, 2.0) == (0.0, 0.0)
