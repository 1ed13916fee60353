"""Health as what an operator sees: when an endpoint goes out of service, for how long, and how it comes back."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.health import TABLE, UNCHECKED, Evidence, Health, Rule, State

RULE = Rule(after=5, base=30.0, max=300.0, ramp=30.0)


def new(ramp: bool = False, rule: Rule = RULE) -> Health:
    return Health(rule, 0.0, ramp)


def see(health: Health, evidence: Evidence, now: float = 1.0, times: int = 1, may_eject: bool = True) -> State:
    for _ in range(times):
        health.see(evidence, now, may_eject)
    return health.state


def ejected(now: float = 1.0) -> Health:
    health = new()
    assert see(health, Evidence.HUNG, now) is State.EJECTED
    return health


def down(now: float = 1.0) -> Health:
    health = new()
    assert see(health, Evidence.REFUSED, now, times=2) is State.DOWN
    return health


def on_trial() -> Health:
    health = ejected()
    assert health.tick(31.0) is State.TRIAL
    return health


def test_every_state_knows_every_evidence():
    assert set(TABLE) == set(State)
    for row in TABLE.values():
        assert set(row) == set(Evidence)


def test_a_new_endpoint_is_healthy_and_nothing_is_due():
    health = new()
    assert (health.state, health.next_at, health.weight(0.0)) == (State.HEALTHY, math.inf, 1.0)


def test_five_failures_in_a_row_eject():
    health = new()
    assert see(health, Evidence.FAILURE, times=4) is State.SUSPECT
    assert see(health, Evidence.FAILURE) is State.EJECTED
    assert health.reason == "5 failures in a row"


def test_a_success_in_between_starts_the_count_again():
    health = new()
    see(health, Evidence.FAILURE, times=4)
    assert see(health, Evidence.SUCCESS) is State.HEALTHY
    assert see(health, Evidence.FAILURE, times=4) is State.SUSPECT


@pytest.mark.parametrize("evidence", [Evidence.HUNG, Evidence.LEAVING])
def test_hanging_and_leaving_eject_at_once(evidence):
    assert see(new(), evidence) is State.EJECTED


@pytest.mark.parametrize("evidence", [Evidence.FAILURE, Evidence.HUNG, Evidence.LEAVING])
def test_passive_evidence_never_ejects_where_the_pool_cannot_spare_it(evidence):
    health = new()
    assert see(health, evidence, times=20, may_eject=False) is State.SUSPECT


def test_what_could_not_be_ejected_is_as_soon_as_the_pool_can_spare_it():
    health = new()
    see(health, Evidence.FAILURE, times=20, may_eject=False)
    assert see(health, Evidence.FAILURE) is State.EJECTED


@pytest.mark.parametrize("signs", [
    [Evidence.REFUSED, Evidence.REFUSED],
    [Evidence.REFUSED, Evidence.PROBE_FAILED],
    [Evidence.PROBE_FAILED, Evidence.REFUSED],
    [Evidence.PROBE_FAILED, Evidence.PROBE_FAILED, Evidence.PROBE_FAILED],
])  # fmt: skip
def test_signs_that_nobody_is_there_mean_down_and_need_no_vote(signs):
    health = new()
    for sign in signs[:-1]:
        assert health.see(sign, 1.0, False) is State.SUSPECT
    assert health.see(signs[-1], 1.0, False) is State.DOWN


def test_a_busy_server_that_misses_a_health_check_but_answers_requests_stays():
    health = new()
    for second in range(20):
        see(health, Evidence.PROBE_FAILED, second, times=2)
        assert see(health, Evidence.SUCCESS, second) is State.HEALTHY


def test_a_passing_check_voids_a_missed_one():
    health = new()
    for second in range(20):
        see(health, Evidence.PROBE_FAILED, second, times=2)
        assert see(health, Evidence.PROBE_OK, second) is State.HEALTHY


def test_a_passing_check_does_not_forget_failures():
    health = new()
    see(health, Evidence.FAILURE, times=4)
    assert see(health, Evidence.PROBE_OK) is State.SUSPECT
    assert see(health, Evidence.FAILURE) is State.EJECTED


@pytest.mark.parametrize("evidence", [Evidence.PROBE_OK, Evidence.SUCCESS])
def test_health_lies_so_neither_checks_nor_late_successes_end_an_ejection(evidence):
    health = ejected()
    assert see(health, evidence, 2.0, times=100) is State.EJECTED
    assert health.next_at == 31.0


def test_an_ejection_ends_in_a_trial_when_its_time_is_over():
    health = ejected()
    assert health.tick(30.9) is State.EJECTED
    assert health.tick(31.0) is State.TRIAL
    assert health.next_at == math.inf


def test_a_trial_that_succeeds_brings_it_back_little_by_little():
    health = on_trial()
    assert see(health, Evidence.SUCCESS, 40.0) is State.HEALTHY
    assert health.weight(40.0) == pytest.approx(0.1)
    assert health.weight(55.0) == pytest.approx(0.55)
    assert health.weight(70.0) == pytest.approx(1.0)
    assert health.next_at == 70.0
    assert health.tick(70.0) is State.HEALTHY
    assert health.next_at == math.inf


@pytest.mark.parametrize("evidence", [Evidence.FAILURE, Evidence.HUNG, Evidence.LEAVING])
def test_a_trial_that_fails_sends_it_out_for_longer_without_asking_the_pool(evidence):
    health = on_trial()
    assert see(health, evidence, 40.0, may_eject=False) is State.EJECTED
    assert (health.ejections, health.next_at) == (2, 40.0 + 60.0)


def test_one_refused_connection_is_enough_on_trial():
    assert see(on_trial(), Evidence.REFUSED, 40.0) is State.DOWN


def test_time_out_of_service_grows_to_its_maximum():
    health, now, times = new(), 0.0, []
    for _ in range(12):
        see(health, Evidence.HUNG, now)
        times.append(health.next_at - now)
        now = health.next_at
        health.tick(now)
    assert times[:3] == [30.0, 60.0, 90.0]
    assert times[-1] == 300.0


def test_falls_are_forgotten_after_a_long_time_in_service():
    health = on_trial()
    see(health, Evidence.SUCCESS, 40.0)
    see(health, Evidence.HUNG, 40.0 + 3600.0)
    assert health.ejections == 1


def test_a_restarted_server_is_back_at_its_first_passing_check():
    health = down()
    assert see(health, Evidence.PROBE_FAILED, 3.0) is State.DOWN
    assert see(health, Evidence.PROBE_OK, 5.0) is State.TRIAL


@pytest.mark.parametrize("evidence", [Evidence.SUCCESS, Evidence.FAILURE, Evidence.HUNG, Evidence.LEAVING])
def test_old_requests_say_nothing_about_a_server_that_is_gone(evidence):
    assert see(down(), evidence, 2.0) is State.DOWN


def test_a_server_that_is_never_checked_gets_a_trial_in_the_end():
    health = down(1.0)
    see(health, Evidence.PROBE_FAILED, 5.0)
    assert health.tick(5.0 + UNCHECKED - 0.1) is State.DOWN
    assert health.tick(5.0 + UNCHECKED) is State.TRIAL


def test_a_drained_server_that_exits_and_restarts_is_not_kept_waiting():
    health = new()
    see(health, Evidence.LEAVING, 1.0)
    assert see(health, Evidence.REFUSED, 3.0, times=2) is State.DOWN
    assert see(health, Evidence.PROBE_OK, 8.0) is State.TRIAL
    assert health.ejections == 1


def test_a_server_that_is_up_and_down_each_second_falls_at_most_five_times_in_five_minutes():
    health, falls, before = new(), 0, State.HEALTHY
    for tenth in range(3000):
        now = tenth / 10.0
        is_up = int(now) % 2 == 0
        health.tick(now)
        served = health.state in (State.HEALTHY, State.SUSPECT, State.TRIAL)
        if served:
            see(health, Evidence.SUCCESS if is_up else Evidence.REFUSED, now)
        if tenth % 20 == 7 or tenth % 20 == 17:
            see(health, Evidence.PROBE_OK if is_up else Evidence.REFUSED, now)
        out = health.state in (State.EJECTED, State.DOWN)
        if out and before not in (State.EJECTED, State.DOWN):
            falls += 1
        before = health.state
    assert falls <= 5


def test_one_that_keeps_falling_is_still_used_where_the_pool_cannot_spare_it():
    health = down(1.0)
    see(health, Evidence.PROBE_OK, 2.0)
    see(health, Evidence.REFUSED, 3.0)
    assert see(health, Evidence.PROBE_OK, 4.0, may_eject=False) is State.TRIAL


def test_a_newcomer_ramps_and_its_ramp_survives_a_suspicion():
    health = new(ramp=True)
    assert health.weight(0.0) == pytest.approx(0.1)
    see(health, Evidence.FAILURE, 10.0)
    assert 0.1 < health.weight(10.0) < 1.0


def test_without_a_ramp_nothing_is_held_back():
    health = new(ramp=True, rule=Rule(ramp=0.0))
    assert (health.weight(0.0), health.next_at) == (1.0, math.inf)


def test_the_reason_and_its_moment_are_told():
    health = new()
    see(health, Evidence.LEAVING, 7.0)
    assert (health.since, health.reason) == (7.0, "it is shutting down")


@given(st.lists(st.tuples(st.sampled_from(Evidence), st.floats(0.0, 100.0), st.booleans()), max_size=80))
def test_whatever_is_seen_the_state_is_sound(story):
    health, now = new(), 0.0
    for evidence, later, may_eject in story:
        now += later
        before = health.tick(now)
        after = health.see(evidence, now, may_eject)
        assert 0.0 < health.weight(now) <= 1.0
        assert after is health.state
        if after in (State.EJECTED, State.DOWN):
            assert now < health.next_at <= now + max(RULE.max, UNCHECKED)
        if after is State.EJECTED and before in (State.HEALTHY, State.SUSPECT):
            assert may_eject
        if after is State.HEALTHY and before in (State.EJECTED, State.DOWN):
            raise AssertionError("nobody comes back without a trial")


@pytest.mark.parametrize(("state", "evidence"), list(product([State.EJECTED, State.DOWN], Evidence)))
def test_nobody_out_of_service_comes_back_to_full_work_by_one_piece_of_evidence(state, evidence):
    health = ejected() if state is State.EJECTED else down()
    assert see(health, evidence, 2.0) not in (State.HEALTHY, State.SUSPECT)
