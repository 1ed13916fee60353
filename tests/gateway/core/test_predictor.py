"""What is predicted and why, what the fleet tells, what is learnt from it, and what is kept over a restart."""

from __future__ import annotations

import json
import math
from random import Random

import numpy as np
import pytest

from gateway.core.fleet import Fleet
from gateway.core.learning import IDLE, QUEUED, SATURATED
from gateway.core.prediction import Prior
from gateway.core.predictor import MANY_SILENT, Predictor
from gateway.core.types import UNKNOWN, Floats, Load
from tests.support.predicting import PLAIN, Engines, ask, endpoint, finish, forecast_for, make_pool, predictor_of, send

FIELDS = ("ttft", "tpot", "tpot_now", "work", "batch", "rho")


# --- what it says ----------------------------------------------------------------------------------------------------


def at_once(fleet: Fleet, now: float, prompt: float = 1000.0, cached: Floats | None = None):
    return predictor_of(fleet).predict(ask(prompt), fleet.snapshot(now), cached)


def test_an_idle_endpoint_is_predicted_as_the_price_list_says() -> None:
    """Overhead 10 ms, an iteration 10 ms, 100 tokens at 10 µs, 400 at 20, 500 at 40, half a million pairs at 1 ns."""
    fleet = make_pool(1)
    predictor = predictor_of(fleet)
    expected = 0.01 + 0.01 + 0.001 + 0.008 + 0.02 + 0.0005
    assert at_once(fleet, 1.0).ttft.tolist() == pytest.approx([expected])
    assert predictor.idle_ttft(1000.0) == pytest.approx(expected)
    assert at_once(fleet, 1.0).tpot_now.tolist() == pytest.approx([0.01])
    assert predictor.idle_tpot() == pytest.approx(0.01 + 1e-5)
    assert at_once(fleet, 1.0).work.tolist() == pytest.approx([0.0295])


@pytest.mark.parametrize("prompt", [1.0, 2048.0, 2049.0, 9000.0])
def test_what_an_idle_endpoint_takes_is_what_is_promised_from(prompt: float) -> None:
    fleet = make_pool(2)
    assert predictor_of(fleet).idle_ttft(prompt) == pytest.approx(at_once(fleet, 1.0, prompt).ttft[0])


def test_tokens_that_are_cached_are_not_worked_off_but_read() -> None:
    fleet = make_pool(3)
    got = at_once(fleet, 1.0, 1000.0, np.array([0.0, 900.0, 5000.0]))
    assert got.ttft[0] > got.ttft[1] > got.ttft[2]
    assert got.work[1] == pytest.approx(100.0 * 1e-5 + 1e-9 * 100.0 * (900.0 + 50.0))
    assert 0.0 < got.work[2] < 2e-5  # one token is always worked off
    assert len(set(got.tpot.tolist())) <= 3 and got.tpot_now.tolist() == pytest.approx([0.01] * 3)


def test_a_prompt_waits_for_those_before_it_and_for_the_running_iteration() -> None:
    fleet = make_pool(2)
    send(fleet, 0, ask(3000.0), 1.0)
    ttft = at_once(fleet, 1.0).ttft
    # The first 2048 tokens run from 1.01 on; 952 and our 1000 are one round after that.
    running = 0.01 + (0.001 + 0.008 + 1548 * 4e-5) + 1e-9 * 4.5e6 * 2048 / 3000
    after = 0.01 + (0.001 + 0.008 + 1452 * 4e-5) + 1e-9 * (4.5e6 * 952 / 3000 + 5e5)
    assert ttft[0] == pytest.approx(0.01 + running + after, rel=1e-6)
    assert ttft[1] == pytest.approx(predictor_of(fleet).idle_ttft(1000.0))


def test_a_later_moment_of_the_running_iteration_is_nearer_to_its_end() -> None:
    fleet = make_pool(1)
    send(fleet, 0, ask(2000.0), 1.0)
    early, late = at_once(fleet, 1.0).ttft[0], at_once(fleet, 1.04).ttft[0]
    assert early - late == pytest.approx(0.04)


def test_prompts_lately_sent_stretch_the_streams_there_and_are_forgotten() -> None:
    fleet = make_pool(2)
    for i in range(10):
        reservation = send(fleet, 0, ask(4000.0), 1.0 + 0.1 * i)
        reservation.settle(2.0)
    rho, tpot = at_once(fleet, 2.0).rho, at_once(fleet, 2.0).tpot_now
    assert 0.2 < rho[0] < 0.5 and rho[1] == 0.0 and tpot[0] > tpot[1]
    assert at_once(fleet, 6.0).rho[0] == pytest.approx(rho[0] / math.e, rel=1e-6)
    assert at_once(fleet, 60.0).rho[0] < 1e-6


def test_what_was_sent_long_ago_is_forgotten_whoever_looks_first() -> None:
    """Sums that fade are kept relative to a moment, which is moved from time to time: also by a dispatch."""
    fleet = make_pool(1)
    send(fleet, 0, ask(4000.0), 90.0, forecast=False).settle(91.0)
    send(fleet, 0, ask(4000.0), 400.0, forecast=False).settle(401.0)
    twice = at_once(fleet, 401.0).rho[0]
    other = make_pool(1)
    send(other, 0, ask(4000.0), 400.0, forecast=False).settle(401.0)
    assert twice == pytest.approx(at_once(other, 401.0).rho[0]) and twice > 0.01


def test_an_endpoint_whose_cache_is_full_makes_a_prompt_wait() -> None:
    fleet = make_pool(3)
    for row, capacity in ((0, UNKNOWN), (1, 10_000.0), (2, math.inf)):  # the first one does not say
        fleet.observe(row, Load(1.0, 0.0, 0.0, kv_capacity=capacity), 0.0)
        for _ in range(2):
            send(fleet, row, ask(4500.0), 1.0, forecast=False).first_token(1.5)
    ttft = at_once(fleet, 2.0).ttft
    assert ttft[0] == pytest.approx(ttft[2])
    # 300 tokens too many of 9000 that are held; the mean answer of 200 tokens gives back all that is held.
    assert ttft[1] - ttft[0] == pytest.approx(300.0 / 9000.0 * 200.0 * at_once(fleet, 2.0).sheet.paced[0, 1], rel=1e-6)
    assert forecast_for(fleet, 1, ask(1000.0), 2.0).regime == SATURATED
    assert forecast_for(fleet, 0, ask(1000.0), 2.0).regime == QUEUED
    assert forecast_for(make_pool(1), 0, ask(1000.0), 2.0).regime == IDLE


def test_requests_of_others_count_while_they_are_believed() -> None:
    fleet, alone = make_pool(2), make_pool(2)
    for pool in (fleet, alone):
        send(pool, 1, ask(4000.0), 1.0)
    fleet.observe(0, Load(1.0, 0.0, 30.0), 0.0)
    fleet.observe(1, Load(1.0, 0.0, 0.0), 0.0)
    got, without = at_once(fleet, 1.0), at_once(alone, 1.0)
    assert got.batch.tolist() == [30.0, 1.0]
    assert (got.tpot_now > without.tpot_now).all()
    assert got.ttft[0] > without.ttft[0] and got.ttft[1] == without.ttft[1]  # what of theirs waits is not guessed
    fleet.forget_stale(9.0)
    got, without = at_once(fleet, 9.0), at_once(alone, 9.0)
    for name in FIELDS:
        assert getattr(got, name).tolist() == getattr(without, name).tolist(), name


def test_an_endpoint_that_joins_is_taken_to_have_the_mean_of_others_at_once() -> None:
    fleet = make_pool(2)
    fleet.observe(0, Load(1.0, 0.0, 4.0), 0.0)
    fleet.observe(1, Load(1.0, 0.0, 8.0), 0.0)
    fleet.update([endpoint(i) for i in range(3)], 1.0, fresh=True)
    assert at_once(fleet, 1.0).batch.tolist() == [4.0, 8.0, 6.0]


def test_another_endpoint_in_the_same_row_begins_with_nothing_of_the_old_one() -> None:
    fleet = make_pool(3, size=2)
    predictor = predictor_of(fleet)
    fleet.observe(1, Load(1.0, 5.0, 30.0, kv_capacity=100.0), 0.0)
    predictor.learnt.paces.resume(1, 2.0, 2.0)
    send(fleet, 1, ask(4000.0), 1.0).settle(1.5)
    fleet.update([endpoint(0), endpoint(2)], 2.0)
    fleet.forget_stale(9.0)
    fleet.update([endpoint(i) for i in (0, 2, 7)], 9.0, fresh=True)
    assert fleet.row_of("e7") == 1
    got = at_once(fleet, 9.0)
    for name in FIELDS:
        values = getattr(got, name)
        assert values.tolist() == pytest.approx([values[0]] * 3), name


def test_one_that_was_only_scraped_leaves_nothing_either() -> None:
    fleet = make_pool(2)
    fleet.observe(1, Load(1.0, 0.0, 0.0, kv_capacity=100.0), 0.0)
    fleet.update([endpoint(0)], 2.0)
    fleet.update([endpoint(0), endpoint(7)], 3.0, fresh=True)
    ttft = at_once(fleet, 9.0).ttft
    assert ttft[0] == pytest.approx(ttft[1])


# --- what it is told -------------------------------------------------------------------------------------------------


def test_a_stream_teaches_its_first_token_and_its_pace() -> None:
    fleet = make_pool(1)
    learnt = predictor_of(fleet).learnt
    reservation = send(fleet, 0, ask(1000.0), 1.0)
    reservation.first_token(1.06)
    assert learnt.ttft.samples == 1 and learnt.ttft.error > 0.1
    assert learnt.window.first[learnt.window.full_first > 0.0][0][2:5] == pytest.approx([0.06, 0.0, 1000.0])
    finish(reservation, 3.06, tokens=101.0, ttft=0.06)
    assert learnt.tpot.samples == 1 and learnt.mean_output == pytest.approx(200.0 - 0.02 * 99.0)
    assert reservation.stretch[:3] == pytest.approx((2.0, 100.0, 1.0))


@pytest.mark.parametrize("kind", ["cut", "plain", "not predicted", "short"])
def test_what_says_nothing_is_not_learnt_from(kind: str) -> None:
    fleet = make_pool(1)
    learnt = predictor_of(fleet).learnt
    reservation = send(fleet, 0, ask(1000.0, stream=kind != "plain"), 1.0, forecast=kind != "not predicted")
    reservation.first_token(1.06)
    assert learnt.ttft.samples == (kind in ("cut", "short"))
    tokens, ended = 3.0 if kind == "short" else 101.0, "client_gone" if kind == "cut" else "complete"
    finish(reservation, 3.06, tokens, ended=ended)
    assert learnt.tpot.samples == 0
    assert int(learnt.window.full_rest.sum()) == (kind == "not predicted")
    if kind == "cut":
        assert learnt.mean_output == 200.0


def test_what_was_beside_a_stream_is_averaged_over_its_time() -> None:
    """Alone for a second, with another for two, alone for one; a prompt that started meanwhile was worked off."""
    fleet = make_pool(1)
    one, other = send(fleet, 0, ask(1000.0), 0.0), send(fleet, 0, ask(500.0), 0.5)
    one.first_token(1.0)
    other.first_token(2.0)
    finish(other, 4.0, ended="client_gone")
    finish(one, 5.0, tokens=201.0, ttft=1.0)
    seconds, steps, decoding, context, first, second, third, pairs, *knees = one.stretch
    assert (seconds, steps) == (4.0, 200.0)
    assert decoding == pytest.approx((1.0 + 2.0 + 2.0 + 1.0) / 4.0)
    assert context == pytest.approx((1000.0 + 1500.0 + 1500.0 + 1000.0) / 4.0)
    assert (first, second, third) == pytest.approx((99.0, 400.0, 1.0))  # one decode was there already
    assert pairs == pytest.approx(500.0**2 / 2.0) and knees == [100.0, 500.0]


def test_what_others_have_there_is_beside_a_stream_too_and_nonsense_is_bounded() -> None:
    for running, there in ((3.0, 2.0), (1e9, 4096.0), (math.inf, 0.0)):
        fleet = make_pool(1)
        reservation = send(fleet, 0, ask(1000.0), 0.0)
        reservation.first_token(1.0)
        fleet.observe(0, Load(1.0, 0.0, running), 1.0)
        finish(reservation, 5.0, tokens=201.0, ttft=1.0)
        assert reservation.stretch[2] == pytest.approx(1.0 + there)
        assert math.isfinite(predictor_of(fleet).learnt.paces.estimates(1)[0].sum())


def test_context_grows_with_what_is_written() -> None:
    fleet = make_pool(1)
    predictor = predictor_of(fleet)
    reservation = send(fleet, 0, ask(1000.0), 0.0)
    reservation.progress(16.0, 0.5)
    assert predictor.books.context[0] == 0.0  # nothing is decoded before the first token
    reservation.first_token(1.0)
    reservation.progress(32.0, 1.5)
    reservation.progress(48.0, 2.0)
    reservation.progress(40.0, 2.1)
    assert predictor.books.context[0] == 1000.0 + 32.0
    reservation.settle(3.0)
    assert predictor.books.context[0] == 0.0


def test_plain_answers_that_ended_long_before_they_were_thought_to_start_are_not_kept() -> None:
    """A client may ask for hours of prefill again and again, and leave at once."""
    fleet = make_pool(2)
    for i in range(3 * MANY_SILENT):
        finish(send(fleet, 0, ask(3e6, stream=False), i * 1e-3), i * 1e-3 + 5e-4, ended="client_gone")
    assert len(predictor_of(fleet)._silent) <= MANY_SILENT
    waiting = send(fleet, 0, ask(100.0, stream=False), 10.0)
    forecast_for(fleet, 1, ask(), 11.0)
    assert waiting.started


def test_a_plain_answer_is_taken_to_have_started_when_it_was_predicted_to() -> None:
    fleet = make_pool(1)
    reservation = send(fleet, 0, ask(1000.0, stream=False), 1.0)
    expected = reservation.forecast.ttft
    at_once(fleet, 1.0 + expected - 0.001)
    assert not reservation.started and fleet.decoding[0] == 0.0
    at_once(fleet, 1.0 + expected + 0.001)
    assert reservation.started and fleet.decoding[0] == 1.0 and predictor_of(fleet).books.context[0] == 1000.0
    assert predictor_of(fleet).learnt.ttft.samples == 0
    reservation.settle(3.0)
    at_once(fleet, 99.0)
    assert fleet.decoding[0] == 0.0


def test_it_says_how_good_it_has_been() -> None:
    fleet = make_pool(3)
    predictor = predictor_of(fleet)
    for row, seconds in ((0, 0.05), (1, 0.05), (2, 0.2)) * 15:
        now = 1.0 + predictor.learnt.ttft.samples
        reservation = send(fleet, row, ask(1000.0), now)
        reservation.first_token(now + seconds)
        reservation.settle(now + seconds + 0.1)
    report = predictor.report()
    assert report.samples == 45 and report.calibrated is predictor.calibrated is True
    assert 0.0 < report.ttft_error < 0.6 and 0.0 <= report.ttft_coverage <= 1.0
    assert report.paces[2] / report.paces[0] > 2.0 and report.paces[0] == report.paces[1]


def test_it_is_calibrated_while_its_first_tokens_are_whatever_becomes_of_paces() -> None:
    predictor = predictor_of(make_pool(1))
    for track, is_good in ((predictor.learnt.tpot, True), (predictor.learnt.ttft, False)):
        for _ in range(60):
            track.learn(0, 3.0, 1.0, 3.0)  # what was said was a third of what came
        assert predictor.calibrated is predictor.report().calibrated is is_good


# --- keeping ---------------------------------------------------------------------------------------------------------


def experienced(slow: str = "e3") -> tuple[Fleet, dict]:
    """A pool of four of which one is slow, and what it keeps, after a trip through JSON."""
    fleet = make_pool(4)
    predictor = predictor_of(fleet)
    engines = Engines(PLAIN, [(2.5, 2.5) if endpoint(i).id == slow else (1.0, 1.0) for i in range(4)], Random(1))
    for row in range(4):
        send(fleet, row, ask(), 0.0).settle(0.1)
    for i in range(300):
        engines.teach(predictor.learnt, i % 4, 0.1 * i)
    return fleet, json.loads(json.dumps(predictor.to_state()))


def test_what_was_learnt_is_taken_up_by_the_endpoints_wherever_their_rows_are_now() -> None:
    fleet, state = experienced()
    again = make_pool(0)
    again.update([endpoint(3), endpoint(9), endpoint(0), endpoint(1)], 0.0, fresh=True)
    predictor_of(again).restore(state)
    was, now = at_once(fleet, 50.0), at_once(again, 50.0)
    assert now.ttft[[0, 2, 3]] == pytest.approx(was.ttft[[3, 0, 1]], rel=1e-9)
    assert now.ttft[0] > 2.0 * now.ttft[2]
    assert now.ttft[1] == pytest.approx(now.ttft[2], rel=0.1)  # nobody knows that one
    assert predictor_of(again).mean_output == predictor_of(fleet).mean_output


def test_what_was_learnt_of_an_endpoint_is_not_lost_while_only_others_answer() -> None:
    _, state = experienced()
    fleet = make_pool(4)
    predictor = predictor_of(fleet)
    predictor.restore(state)
    at_once(fleet, 0.0)
    engines = Engines(PLAIN, [(1.0, 1.0)] * 3, Random(5))
    for i in range(60):
        engines.teach(predictor.learnt, i % 3, 0.1 * i)
    assert predictor.learnt.prices.fits > 2
    ttft = at_once(fleet, 9.0).ttft
    assert ttft[3] > 2.0 * ttft[0] and ttft[:3].tolist() == pytest.approx([ttft[0]] * 3)


def test_what_an_endpoint_shows_now_counts_for_more_than_what_it_was() -> None:
    """The slow one has been replaced by another one of the same name."""
    _, state = experienced()
    fleet = make_pool(4)
    predictor = predictor_of(fleet)
    predictor.restore(state)
    assert at_once(fleet, 0.0).ttft[3] > 2.0 * at_once(fleet, 0.0).ttft[0]
    engines = Engines(PLAIN, [(1.0, 1.0)] * 4, Random(5))
    for i in range(80):
        engines.teach(predictor.learnt, i % 4, 0.1 * i)
    ttft = at_once(fleet, 9.0).ttft
    assert ttft.tolist() == pytest.approx([ttft[0]] * 4)


def test_a_life_without_requests_forgets_nothing_of_the_one_before() -> None:
    _, state = experienced()
    fleet = make_pool(4)
    predictor = predictor_of(fleet)
    predictor.restore(state)
    for _ in range(2):  # before anybody has asked anything, and after it
        kept = predictor.to_state()
        assert kept["beta"] == pytest.approx(state["beta"]) and kept["paces"].keys() == state["paces"].keys()
        assert all(kept["paces"][name] == pytest.approx(state["paces"][name]) for name in state["paces"])
        at_once(fleet, 0.0)


@pytest.mark.parametrize("paces", [
    None, [], "e0", {"e0": 1.0}, {"e0": [1.0]}, {"e0": ["a", "b"]}, {"e0": {"decode": 1.0}}, {"e0": [0.0, 1.0]},
    {"e0": [math.nan, 1.0]}, {"e0": [1.0, math.inf]}, {"e0": [-1.0, 1.0]}, {"e0": [10**400, 1.0]}, {"e0": None},
])  # fmt: skip
def test_paces_that_cannot_be_are_refused_and_change_nothing(paces: object) -> None:
    _, state = experienced()
    predictor = Predictor(PLAIN)
    before = json.dumps(predictor.to_state())
    with pytest.raises(ValueError):
        predictor.restore({**state, "paces": paces})
    assert json.dumps(predictor.to_state()) == before and predictor._kept == {}


def test_a_foreign_state_is_refused_and_its_paces_are_not_taken_up() -> None:
    _, state = experienced()
    fleet = make_pool(4)
    for broken in ({**state, "version": 99}, {**state, "beta": state["beta"][:3]}, {"paces": state["paces"]}):
        with pytest.raises(ValueError):
            predictor_of(fleet).restore(broken)
    ttft = at_once(fleet, 1.0).ttft
    assert ttft.tolist() == pytest.approx([ttft[0]] * 4)
    assert predictor_of(fleet).learnt.prices.each == Predictor(PLAIN).learnt.prices.each


def test_without_a_prior_it_starts_from_the_neutral_one() -> None:
    predictor = Predictor()
    assert predictor.prior == Prior() and predictor.mean_output == 200.0 and predictor.calibrated
