"""The production desk in the lab: who is refused has an answer, a tenant and a deadline are what was drawn."""

from dataclasses import replace

import numpy as np
import pytest

from loadtest.lab.desked import GREEDY, Desked
from loadtest.lab.desked_study import measured
from loadtest.lab.scenario import Admission, Group, Scenario

FULL = Scenario("full", groups=(Group(count=2),), requests=800, admission=Admission((1.0,)))


def done(scenario: Scenario, rate: float, seed: int = 1, greedy: bool = True) -> Desked:
    desked = Desked(scenario, rate, seed, greedy)
    assert desked.run().complete
    return desked


def test_a_seed_gives_the_same_run_twice() -> None:
    one, again = done(FULL, 60.0), done(FULL, 60.0)
    assert np.array_equal(one.run_.ttft, again.run_.ttft, equal_nan=True)
    assert one.reason == again.reason


def test_everybody_is_answered_or_refused_with_a_reason_and_a_way_on() -> None:
    desked = done(FULL, 120.0)
    refused = np.isfinite(desked.refused_at) & desked.run_.measured
    assert refused.any()
    assert (refused | np.isfinite(desked.run_.e2e))[desked.run_.measured].all()
    assert all(desked.reason[n] in ("slo", "queue_full", "queue_timeout") for n in np.flatnonzero(refused))
    assert (np.isfinite(desked.come_back) | desked.hopeless)[refused].all()


def test_at_a_load_that_fits_nobody_is_refused() -> None:
    desked = done(FULL, 15.0)
    assert not np.isfinite(desked.refused_at).any()


def test_the_greedy_tenant_asks_for_so_many_times_its_share_or_for_its_share() -> None:
    scenario = replace(FULL, admission=Admission((1.0,), tenants=5, greedy=8.0))
    greedy, modest = Desked(scenario, 20.0, 1), Desked(scenario, 20.0, 1, greedy=False)
    share = np.mean([name == GREEDY for name in greedy.tenant])
    assert share == pytest.approx(8 / 12, abs=0.06)
    assert greedy.tenant == modest.tenant
    left = [name for name, out in zip(modest.tenant, modest.absent, strict=True) if not out]
    assert np.mean([name == GREEDY for name in left]) == pytest.approx(1 / 5, abs=0.08)


def test_deadlines_that_no_engine_could_meet_are_refused_at_once_and_for_good() -> None:
    scenario = replace(FULL, admission=Admission((1.0,), deadlines=(0.01, 0.02), order="deadline"))
    desked = done(scenario, 15.0)
    measured_ = desked.run_.measured
    assert (desked.refused_at == desked.run_.arrived)[measured_].all()
    assert desked.hopeless[measured_].all()


def test_figures_say_what_was_kept_and_what_was_late() -> None:
    scenario = replace(FULL, requests=400, admission=Admission((1.0,), deadlines=(5.0, 30.0), order="deadline"))
    figures = measured(scenario, 15.0, 1, None)
    assert figures["served_late"] <= 0.05
    assert 0.0 < figures["in_time"] <= 1.0
    assert figures["told"] == 1.0
