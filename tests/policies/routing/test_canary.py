"""A rollout's phases and steps."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import pytest

from gateway.core.routes import CanaryRule
from policies.routing.canary import FEWEST, PHASES, TABLE, Canary, CannotDo
from policies.routing.judge import Judgement, Measure

RULE = CanaryRule("next", steps=(0.05, 0.25, 1.0), hold=60.0)
LEANING = Measure("ttft", "ratio", 0.2, -0.1, 0.5, 0.1, 2.0, "unknown")


def says(outcome: str = "not_yet", canary: int = 1000, *measures: Measure) -> Judgement:
    return Judgement(outcome, "because", None, measures, {"stable": 9000, "canary": canary})  # type: ignore[arg-type]


def test_it_begins_at_its_first_step_and_paused_if_the_rule_says_so() -> None:
    assert (Canary(RULE, 0.0).phase, Canary(RULE, 0.0).share()) == ("running", 0.05)
    paused = Canary(replace(RULE, paused=True), 0.0)
    assert (paused.phase, paused.share()) == ("paused", 0.05)
    assert paused.advance(says("promote"), 1e6) == ()


def test_a_step_is_held_then_left_while_nothing_leans_towards_harm() -> None:
    canary = Canary(RULE, 0.0)
    assert canary.advance(says(), 59.9) == ()
    assert "another" in canary.waits_for(says(), 59.0)
    (change,) = canary.advance(says(), 60.0)
    assert (change.event, change.step, change.share, canary.share()) == ("step", 1, 0.25, 0.25)
    assert canary.advance(says(), 61.0) == ()


def test_a_step_needs_requests_of_its_own() -> None:
    canary = Canary(RULE, 0.0)
    assert canary.advance(says("not_yet", FEWEST - 1), 100.0) == ()
    assert canary.advance(says("not_yet", FEWEST), 100.0)
    assert canary.requests == FEWEST


def test_what_leans_towards_harm_stays_at_its_step() -> None:
    canary = Canary(RULE, 0.0)
    assert canary.advance(says("not_yet", 1000, LEANING), 100.0) == ()
    assert "ttft" in canary.waits_for(says("not_yet", 1000, LEANING), 100.0)
    assert canary.advance(says("not_yet", 1000, replace(LEANING, estimate=0.05)), 100.0)


def test_the_step_that_leaves_nobody_to_compare_with_and_promotion_need_proof() -> None:
    canary = Canary(RULE, 0.0)
    canary.advance(says(), 60.0)
    assert canary.advance(says(), 1e5) == ()
    assert "as good" in canary.waits_for(says(), 1e5)
    (change,) = canary.advance(says("promote"), 1e5)
    assert (change.event, canary.share(), canary.phase) == ("step", 1.0, "running")
    assert canary.advance(says(), 2e5) == ()
    (change,) = canary.advance(says("promote"), 2e5)
    assert (change.event, canary.phase, canary.share(), canary.is_over) == ("promote", "promoted", 1.0, True)
    assert canary.advance(says("roll_back"), 3e5) == ()


@pytest.mark.parametrize("paused", [False, True])
def test_harm_rolls_back_at_once_whether_paused_or_not(paused: bool) -> None:
    canary = Canary(replace(RULE, paused=paused), 0.0)
    (change,) = canary.advance(says("roll_back"), 1.0)
    assert (change.before, change.after, change.by) == ("paused" if paused else "running", "rolled_back", "the rule")
    assert canary.share() == 0.0
    assert canary.advance(says("promote"), 1e6) == ()


def test_people_pause_resume_promote_and_abort() -> None:
    canary = Canary(RULE, 0.0)
    assert canary.pause(10.0, "anna", "lunch").after == "paused"
    assert canary.resume(500.0, "anna").after == "running"
    assert canary.advance(says(), 510.0) == ()
    assert canary.promote(511.0, "anna").share == 1.0
    change = canary.abort(512.0, "ben", "it was not good")
    assert (change.before, change.after, change.by, change.why) == ("promoted", "rolled_back", "ben", "it was not good")


def test_what_the_table_does_not_have_cannot_be_done() -> None:
    for phase, event in product(PHASES, ("pause", "resume", "promote", "abort")):
        canary = Canary(RULE, 0.0)
        canary.phase = phase
        if (phase, event) in TABLE:
            assert getattr(canary, event)(1.0, "anna").after == TABLE[(phase, event)]
        else:
            with pytest.raises(CannotDo, match=phase.replace("_", " ")):
                getattr(canary, event)(1.0, "anna")
            assert canary.phase == phase


def test_every_phase_but_the_last_can_be_left_and_rolled_back_is_for_good() -> None:
    left = {before for before, _ in TABLE}
    assert left == set(PHASES) - {"rolled_back"}


def test_a_restart_goes_on_where_it_was() -> None:
    canary = Canary(RULE, 0.0)
    canary.advance(says(), 60.0)
    canary.pause(70.0, "anna", "lunch")
    other = Canary(RULE, 500.0)
    other.restore(json.loads(json.dumps(canary.to_state())))
    assert other.to_state() == canary.to_state()
    assert (other.phase, other.share()) == ("paused", 0.25)


@pytest.mark.parametrize("broken", [{"phase": "gone"}, {"step": 3}, {"step": -1}, {"since": "now"}])
def test_a_state_that_makes_no_sense_changes_nothing(broken: dict[str, object]) -> None:
    canary = Canary(RULE, 7.0)
    before = canary.to_state()
    with pytest.raises((ValueError, KeyError, TypeError)):
        canary.restore({**before, **broken})
    assert canary.to_state() == before


def test_time_in_which_nobody_served_is_not_held() -> None:
    canary = Canary(RULE, 0.0)
    canary.shift(600.0)
    assert canary.advance(says(), 659.0) == ()
    assert canary.advance(says(), 660.0)
    canary.abort(700.0, "anna")
    canary.shift(600.0)
    assert canary.since == 700.0, "that was when it was decided, whatever comes after"
