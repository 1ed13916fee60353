"""Rollouts in virtual time: traffic, faults and shares are as the trial says, and the judge is the one that decides."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from gateway.core.routes import CanaryRule
from loadtest.lab.canaries import Observation, Rollout
from loadtest.lab.canary_trial import ENGINE, Drift, Faults, Trial, drifting
from loadtest.lab.canary_watch import Verdict
from loadtest.lab.scenario import Group

RULE = CanaryRule("canary", steps=(0.05, 1.0), hold=1e9)
NONE = Faults(0.0, 0.0)
SMALL = Trial("small", RULE, ((0.0, 0.3),), Group(ENGINE, 2), Group(ENGINE, 1), (NONE, NONE), rate=6.0, warm_up=200,
              requests=500)  # fmt: skip


def observed(trial: Trial, seed: int = 1) -> tuple[Rollout, list[Observation]]:
    seen: list[Observation] = []
    run = Rollout(trial, seed, seen.append)
    run.run()
    return run, seen


def of(seen: list[Observation], is_canary: bool, name: str = "ttft") -> np.ndarray:
    values = np.array([getattr(one.seen, name) for one in seen if one.seen.is_canary is is_canary], float)
    return values[~np.isnan(values)]


def test_the_canary_gets_its_share_on_engines_of_its_own() -> None:
    run, seen = observed(SMALL)
    assert len(seen) == 500 and {one.seen.share for one in seen} == {0.3}
    assert sum(one.seen.is_canary for one in seen) == pytest.approx(150, abs=4)
    endpoints = {
        is_canary: {o.seen.endpoint for o in seen if o.seen.is_canary is is_canary} for is_canary in (False, True)
    }
    assert len(endpoints[0]) == 2 and len(endpoints[1]) == 1 and not endpoints[0] & endpoints[1]
    assert run.watch is not None and run.watch.verdict is None


def test_equal_arms_leave_no_difference_once_load_and_prompts_are_out() -> None:
    _, seen = observed(replace(SMALL, requests=700, shares=((0.0, 0.1),)))
    raw = {is_canary: np.mean([o.first for o in seen if o.seen.is_canary is is_canary]) for is_canary in (False, True)}
    assert abs(math.log(raw[True] / raw[False])) > 0.1  # what a rule on raw figures would see
    assert of(seen, True).mean() - of(seen, False).mean() == pytest.approx(0.0, abs=0.05)
    assert of(seen, True, "tpot").mean() - of(seen, False, "tpot").mean() == pytest.approx(0.0, abs=0.03)


def test_slower_engines_show_and_are_rolled_back() -> None:
    slower = replace(SMALL, canary=Group(ENGINE, 1, ((0.0, 1.2),)))
    run, seen = observed(slower)
    assert of(seen, True, "tpot").mean() - of(seen, False, "tpot").mean() == pytest.approx(math.log(1.2), abs=0.05)
    assert run.watch is not None and run.watch.verdict is not None
    assert run.watch.verdict.outcome == "rolled_back"


def test_a_rollout_that_is_obeyed_ends_with_its_verdict() -> None:
    slower = replace(SMALL, canary=Group(ENGINE, 1, ((0.0, 1.2),)), shares=())
    run, seen = observed(slower)
    assert run.watch is not None and run.watch.is_over
    assert run.watch.verdict is not None and run.watch.verdict.outcome == "rolled_back"
    assert run.share == 0.0 and len(seen) < slower.requests


def test_a_late_first_token_is_late_by_just_so_much_and_nothing_else_is() -> None:
    late = replace(SMALL, wrong=(NONE, replace(NONE, late=0.3)))
    (_, before), (_, after) = observed(SMALL), observed(late)
    first = [one for one in before if one.seen.is_canary][:20], [one for one in after if one.seen.is_canary][:20]
    firsts = [sorted(one.first for one in some) for some in first]
    assert sum(firsts[1]) / sum(firsts[0]) == pytest.approx(1.3, rel=0.05)
    assert of(after, True).mean() - of(after, False).mean() == pytest.approx(math.log(1.3), abs=0.06)
    assert of(after, True, "tpot").mean() == pytest.approx(of(before, True, "tpot").mean(), abs=0.02)


def test_errors_and_broken_streams_come_as_often_as_the_trial_says() -> None:
    faulty = replace(SMALL, wrong=(NONE, Faults(0.2, 0.1)), requests=700, shares=((0.0, 0.5),))
    _, seen = observed(faulty)
    canary = [one.seen for one in seen if one.seen.is_canary]
    assert sum(one.failed for one in canary) / len(canary) == pytest.approx(0.2, abs=0.07)
    assert sum(one.truncated for one in canary) / len(canary) == pytest.approx(0.1, abs=0.05)
    assert not any(one.failed and one.truncated for one in canary)
    assert all(math.isnan(one.ttft) and math.isnan(one.tokens) for one in canary if one.failed)
    assert not any(one.seen.failed or one.seen.truncated for one in seen if not one.seen.is_canary)


def test_a_seed_is_a_run_and_another_seed_another() -> None:
    once, again, other = (observed(replace(SMALL, requests=150), seed)[1] for seed in (3, 3, 4))
    assert repr(once) == repr(again) != repr(other)


def test_a_rollout_without_faults_is_promoted_in_its_steps() -> None:
    rule = CanaryRule("canary", steps=(0.3, 0.6, 1.0), hold=10.0)
    trial = replace(SMALL, rule=rule, shares=(), stable=Group(ENGINE, 2), canary=Group(ENGINE, 2), requests=2600)
    run, seen = observed(trial)
    assert run.watch is not None
    verdict = run.watch.ended(seen[-1].seen.at)
    assert verdict.outcome == "promoted"
    assert sorted({one.seen.share for one in seen}) == [0.3, 0.6, 1.0]


def test_who_is_not_decided_upon_is_open() -> None:
    run, seen = observed(replace(SMALL, requests=60))
    assert run.watch is not None
    assert run.watch.judgement is not None
    answers, why = sum(one.seen.is_canary for one in seen), run.watch.judgement.why
    assert run.watch.ended(run.began + 8.0) == Verdict("open", pytest.approx(8.0), answers, why)  # type: ignore[arg-type]


def test_the_rate_swings_and_the_mix_of_prompts_drifts() -> None:
    trial = replace(
        SMALL, requests=6000, rate=10.0, drift=Drift(swing=0.4, period=100.0, least=0.0, most=0.5, mix=300.0)
    )
    asked = drifting(trial.scenario, trial.drift, trial.rate, 5)
    counts = np.histogram(asked.arrived, np.arange(0.0, 600.0, 10.0))[0] / 10.0
    assert counts.mean() == pytest.approx(10.0, rel=0.1) and counts.max() > 12.5 and counts.min() < 7.5
    assert (np.diff(asked.arrived) >= 0.0).all()
    long = np.histogram(asked.arrived, np.arange(0.0, 600.0, 50.0), weights=asked.prompt)[0]
    means = long / np.histogram(asked.arrived, np.arange(0.0, 600.0, 50.0))[0]
    assert means.max() > 1.4 * means.min()
    again = drifting(trial.scenario, trial.drift, trial.rate, 6)
    assert abs(np.argmax(counts) - np.argmax(np.histogram(again.arrived, np.arange(0.0, 600.0, 10.0))[0])) > 0
