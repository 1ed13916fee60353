"""The predictor's books of what engines do: whatever happens in whatever order, they balance and end at zero."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.books import ENDED, PAUSE, RECENT, RENEW, Books
from gateway.core.fleet import Fleet
from gateway.core.reservation import Reservation
from gateway.core.types import UNKNOWN, Load
from tests.support.predicting import PLAIN, ask, endpoint, finish, make_pool, predictor_of, send

EMPTY = ("queue", "pairs", "context", "extra", "running", "due", "decoding", "waiting")


class AnyOrder(RuleBasedStateMachine):
    """What proxies, engines and reloads do to a pool, in any order."""

    @initialize(count=st.integers(1, 4))
    def start(self, count: int) -> None:
        self.now, self.open = 5.0, []
        self.fleet: Fleet = make_pool(count, size=1)
        self.predictor = predictor_of(self.fleet)
        self.wanted = set(range(count))

    def one(self, number: int) -> Reservation:
        return self.open[number % len(self.open)]

    @rule(seconds=st.sampled_from([0.0005, 0.004, 0.02, 0.3, 5.0, 130.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(prompt=st.sampled_from([1.0, 90.0, 700.0, 2048.0, 2049.5, 20_000.0]),
          share=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
          stream=st.booleans(), where=st.integers(0, 9), forecast=st.booleans())  # fmt: skip
    def dispatch(self, prompt: float, share: float, stream: bool, where: int, forecast: bool) -> None:
        rows = [row for row, _ in self.fleet.members() if not self.fleet.is_leaving(row)]
        if rows:
            row, request = rows[where % len(rows)], ask(prompt, stream=stream)
            self.open.append(send(self.fleet, row, request, self.now, prompt * share, forecast=forecast))

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 99))
    def first_token(self, number: int) -> None:
        reservation = self.one(number)
        self.predictor.beat(reservation.row, self.now)
        reservation.first_token(self.now)

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 99), more=st.sampled_from([-3.0, 1.0, 16.0, 300.0]))
    def progress(self, number: int, more: float) -> None:
        reservation = self.one(number)
        self.predictor.beat(reservation.row, self.now)
        reservation.progress(reservation.written + more, self.now)

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 99), tokens=st.sampled_from([UNKNOWN, 0.0, 1.0, 5.0, 200.0]),
          ended=st.sampled_from(["complete", "client_gone", "upstream_failed"]), told=st.booleans())  # fmt: skip
    def end(self, number: int, tokens: float, ended: str, told: bool) -> None:
        reservation = self.open.pop(number % len(self.open))
        if told:
            finish(reservation, self.now, tokens, ended=ended)
        reservation.settle(self.now)  # a second time changes nothing

    @rule(row=st.integers(0, 6))
    def beat(self, row: int) -> None:
        self.predictor.beat(row, self.now)

    @precondition(lambda self: len(self.fleet._row_of) > len(self.fleet._leaving))
    @rule()
    def plain_answers_start(self) -> None:
        prediction = self.predictor.predict(ask(500.0), self.fleet.snapshot(self.now))
        for name in ("ttft", "tpot", "tpot_now", "work"):
            assert np.isfinite(getattr(prediction, name)).all() and (getattr(prediction, name) > 0.0).all(), name
        assert (prediction.rho >= 0.0).all() and (prediction.rest >= 0.0).all()

    @rule(wanted=st.sets(st.integers(0, 6), min_size=0, max_size=5))
    def update(self, wanted: set[int]) -> None:
        self.fleet.update([endpoint(i) for i in sorted(wanted)], self.now, fresh=True)

    @rule(waiting=st.sampled_from([0.0, 9.0, 1e12, UNKNOWN, math.inf]), where=st.integers(0, 9))
    def scrape(self, waiting: float, where: int) -> None:
        members = [row for row, _ in self.fleet.members()]
        if members:
            self.fleet.observe(members[where % len(members)], Load(self.now, waiting, 1.0, kv_capacity=1e5), 0.0)

    @invariant()
    def it_balances(self) -> None:
        books, fleet = self.predictor.books, self.fleet
        assert np.isfinite(books.table).all()
        for row in range(min(len(fleet.ours), books.table.shape[1])):
            here = [r for r in self.open if r.row == row]
            waiting = [r for r in here if not r.started]
            line = books.lines.get(row)
            assert [*line.waiting] == waiting if line is not None else not here
            for name in ("queue", "pairs", "extra", "running"):
                assert getattr(books, name)[row] >= -1e-6, name
            prefill = sum(r.uncached for r in waiting)
            assert books.queue[row] + books.running[row] <= prefill + 1e-6
            assert (books.decoding[row], books.waiting[row]) == (len(here) - len(waiting), len(waiting))
            assert books.context[row] == pytest.approx(sum(r.held for r in here if r.started), rel=1e-9, abs=1e-6)
            assert (line is not None and line.busy) or books.queue[row] == books.running[row] == 0.0
            assert not waiting or line.busy or books.queue[row] == 0.0
            if not here:
                assert all(getattr(books, name)[row] == 0.0 for name in EMPTY)
            runs = books.decoding[row] > 0.0 or books.running[row] > 0.0
            assert (books.ends[row] > ENDED) == runs

    def teardown(self) -> None:
        if not hasattr(self, "open"):
            return
        for i, reservation in enumerate(self.open):
            finish(reservation, self.now + i, ended="complete" if i % 2 else "client_gone")
        self.open = []
        self.it_balances()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=80, stateful_step_count=60, deadline=None, derandomize=True)


# --- the order in which an engine takes prompts ----------------------------------------------------------------------


def boundary(fleet: Fleet, now: float) -> tuple[float, float]:
    """A token of some stream came: tokens in the iteration that begins, and those that wait."""
    predictor_of(fleet).beat(0, now)
    return float(predictor_of(fleet).books.running[0]), float(predictor_of(fleet).books.queue[0])


def test_a_long_prompt_is_worked_off_a_budget_at_a_time() -> None:
    fleet = make_pool(1)
    send(fleet, 0, ask(5000.0), 1.0)
    books = predictor_of(fleet).books
    assert (books.running[0], books.queue[0]) == (2048.0, 2952.0)
    assert books.lines[0].beat == pytest.approx(1.01)  # the way there takes 10 ms
    assert books.extra[0] == pytest.approx(0.001 + 0.008 + 1548 * 4e-5 + 1e-9 * 1.25e7 * 2048 / 5000)
    assert boundary(fleet, 1.1) == (2048.0, 904.0)
    assert boundary(fleet, 1.2) == (904.0, 0.0)
    assert books.due[0] == 1.0
    assert boundary(fleet, 1.3) == (0.0, 0.0)
    assert books.extra[0] == books.pairs[0] == books.due[0] == 0.0 and not books.lines[0].busy


def test_decodes_take_a_part_of_the_budget_and_prompts_keep_the_least() -> None:
    fleet = make_pool(1)
    for _ in range(48):
        send(fleet, 0, ask(1.0), 1.0, forecast=False).first_token(1.5)
    boundary(fleet, 2.0)
    send(fleet, 0, ask(5000.0), 2.001)
    assert boundary(fleet, 2.1) == (2000.0, 3000.0)
    for _ in range(2400):
        send(fleet, 0, ask(1.0), 2.1, forecast=False).assume_started(2.1)
    assert boundary(fleet, 2.2)[0] == 64.0


def test_a_prompt_that_was_on_its_way_at_a_boundary_is_taken_at_the_next_one() -> None:
    fleet = make_pool(1)
    send(fleet, 0, ask(500.0), 1.0).settle(1.05)
    running = send(fleet, 0, ask(300.0), 2.0)
    books = predictor_of(fleet).books
    assert books.running[0] == 300.0  # nothing ran: it begins an iteration itself
    send(fleet, 0, ask(700.0), 2.095)
    assert boundary(fleet, 2.1) == (0.0, 700.0)
    running.first_token(2.1)
    assert boundary(fleet, 2.2) == (700.0, 0.0)


def test_sounds_of_one_boundary_are_one() -> None:
    fleet = make_pool(1)
    send(fleet, 0, ask(9000.0), 1.0)
    pause = PAUSE * PLAIN.base
    assert boundary(fleet, 1.5) == (2048.0, 9000.0 - 2 * 2048.0)
    assert boundary(fleet, 1.5 + 0.9 * pause) == (2048.0, 9000.0 - 2 * 2048.0)
    assert boundary(fleet, 1.5 + 1.1 * pause) == (2048.0, 9000.0 - 3 * 2048.0)


def test_a_first_token_takes_its_own_prompt_out_and_leaves_the_others() -> None:
    fleet = make_pool(1)
    first, second = send(fleet, 0, ask(1000.0), 1.0), send(fleet, 0, ask(3000.0), 1.001)
    boundary(fleet, 1.1)
    books = predictor_of(fleet).books
    first.first_token(1.1)
    assert (books.running[0], books.queue[0]) == (2048.0, 952.0)
    assert books.pairs[0] == pytest.approx(4.5e6 * 952 / 3000, rel=1e-6)
    second.first_token(1.3)
    assert (books.running[0], books.queue[0], books.pairs[0], books.extra[0]) == (0.0, 0.0, 0.0, 0.0)
    assert books.context[0] == 4000.0


def test_what_is_in_flight_bounds_what_the_books_think_is_left() -> None:
    """An engine that is further than the books: of two equal prompts the second one was done first."""
    fleet = make_pool(1)
    send(fleet, 0, ask(4000.0), 1.0)
    second = send(fleet, 0, ask(4000.0), 1.0)
    books = predictor_of(fleet).books
    assert books.queue[0] + books.running[0] == 8000.0
    pairs = books.pairs[0]
    second.first_token(1.1)
    assert books.queue[0] + books.running[0] == 4000.0
    assert 0.0 < books.pairs[0] < pairs


def test_a_prompt_that_is_given_up_waits_no_more() -> None:
    fleet = make_pool(1)
    kept, given_up = send(fleet, 0, ask(3000.0), 1.0), send(fleet, 0, ask(5000.0), 1.0)
    given_up.settle(1.02)
    books = predictor_of(fleet).books
    assert books.queue[0] + books.running[0] == 3000.0 and [*books.lines[0].waiting] == [kept]
    kept.settle(1.03)
    assert all(getattr(books, name)[0] == 0.0 for name in EMPTY)


# --- sums ------------------------------------------------------------------------------------------------------------


def recent(books: Books, now: float) -> float:
    fade = books.fade(now)  # first: it may move the zero
    return float(books.recent[0]) * fade


def test_prefill_sent_lately_fades_and_adds_up() -> None:
    books, reservation = Books(), send(make_pool(1), 0, ask(), 0.0)
    for now, seconds in ((10.0, 0.4), (12.0, 0.2)):
        books.send(reservation, 0.0, seconds, now)
    assert recent(books, 12.0) == pytest.approx(0.2 + 0.4 * math.exp(-2.0 / RECENT))
    assert recent(books, 20.0) == pytest.approx(0.2 * math.exp(-8.0 / RECENT) + 0.4 * math.exp(-10.0 / RECENT))


@pytest.mark.parametrize("looks", [False, True])
def test_moving_the_zero_of_fading_sums_changes_no_sum(looks: bool) -> None:
    books, reservation, at = Books(), send(make_pool(1), 0, ask(), 0.0), RENEW - 1.0
    books.fade(0.0)
    books.send(reservation, 0.0, 0.4, at)
    if looks:
        books.fade(at + 2.0)
    books.send(reservation, 0.0, 0.2, at + 2.0)
    assert recent(books, at + 2.0) == pytest.approx(0.2 + 0.4 * math.exp(-2.0 / RECENT))
    assert recent(books, at + 1e7) < 1e-9
    books.send(reservation, 0.0, 0.3, at + 2e7)
    assert recent(books, at + 2e7) == pytest.approx(0.3)


def test_more_rows_keep_what_there_is() -> None:
    books = Books(2)
    books.queue[1], books.context[0] = 7.0, 9.0
    books.reach(5)
    books.reach(3)
    assert books.queue.tolist() == [0.0, 7.0, 0.0, 0.0, 0.0] and books.context[0] == 9.0
    assert books.ends.tolist() == [ENDED] * 5
    books.queue[4] = 3.0
    assert books.table[:, 4].max() >= 3.0  # names are views
    books.forget(1)
    books.forget(99)
    assert books.queue.tolist() == [0.0, 0.0, 0.0, 0.0, 3.0]
