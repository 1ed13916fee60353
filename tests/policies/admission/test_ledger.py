"""Who of the filler is where, what it reads, and what of it may still wait."""

import numpy as np
import pytest

from policies.admission.ledger import Ledger
from tests.policies.admission.filled import Pool


def test_what_has_ended_is_in_no_count() -> None:
    pool, ledger = Pool(2), Ledger()
    one, two = pool.send(0), pool.send(0)
    for each in (one, two):
        ledger.add(each, 0, 0.04, 0.06, False, 0.0)
    assert ledger.requests[0] == 2.0
    assert ledger.context[0] == 4000.0
    assert ledger.remove(one)
    assert not ledger.remove(one)
    assert ledger.remove(two)
    assert ledger.requests[0] == ledger.context[0] == 0.0


def test_of_what_has_ended_nothing_is_kept_where_engines_never_say_what_waits() -> None:
    pool, ledger = Pool(1), Ledger()
    for _ in range(50):
        one, two = pool.send(0), pool.send(0)
        for each in (one, two):
            ledger.add(each, 0, 0.04, 0.06, True, 0.0)
        assert ledger.remove(one)
        assert ledger.rows_ahead() == [0]
        assert ledger.remove(two)
        assert ledger.rows_ahead() == []


def test_what_was_written_is_context_once_it_is_counted() -> None:
    pool, ledger = Pool(1), Ledger()
    one = pool.send(0)
    ledger.add(one, 0, 0.04, 0.06, False, 0.0)
    one.progress(100.0, 1.0)
    ledger.recount()
    assert ledger.context[0] == 2100.0


def test_prefill_fades_as_the_predictors_does() -> None:
    pool, ledger = Pool(1), Ledger()
    ledger.add(pool.send(0), 0, 0.5, 0.6, False, 0.0)
    assert ledger.recent(4.0)[0] == pytest.approx(0.5 / np.e)
    assert ledger.recent(400.0)[0] == pytest.approx(0.0, abs=1e-9)


def test_a_backlog_is_what_an_engine_said_and_was_sent_since_less_the_time_that_passed() -> None:
    pool, ledger = Pool(1), Ledger()
    pool.fill(20)
    pool.scraped(0, 4.0)
    said = pool.now
    assert ledger.backlog(pool.fleet, said, 0.1)[0] == pytest.approx(0.4)
    ledger.add(pool.send(0), 0, 0.04, 0.1, True, said)
    assert ledger.backlog(pool.fleet, said + 0.2, 0.1)[0] == pytest.approx(0.3)
    assert np.isnan(ledger.backlog(pool.fleet, said + 60.0, 0.1)[0])


def test_only_those_that_may_still_wait_are_told_and_only_once() -> None:
    pool, ledger = Pool(1), Ledger()
    sent = [pool.send(0) for _ in range(5)]
    for each in sent:
        ledger.add(each, 1, 0.04, 0.1, True, 0.0)
    pool.now = 1.0
    pool.scraped(0, 2.0)
    ledger.backlog(pool.fleet, 1.0, 0.1)
    assert ledger.rows_ahead() == [0]
    assert ledger.waiting(0) == [(sent[3], 1), (sent[4], 1)]
    assert ledger.waiting(0) == []


def test_of_plain_answers_progress_is_guessed_from_how_long_others_took() -> None:
    pool = Pool(1)
    pool.end(pool.send(0), ttft=0.0, pace=0.02, tokens=300.0)
    old = pool.send(0)
    pool.now = 2.0
    new = pool.send(0)
    pool.now = 3.0
    ledger = pool.filler._ledger
    assert [each for each, _, _ in ledger.youngest(0, 3.0)] == [new, old]
