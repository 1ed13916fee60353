from dataclasses import replace

import numpy as np
import pytest

from loadtest.lab.scenario import Group, Scenario
from loadtest.lab.simulation import simulate


def test_shares_over_time_add_up_and_follow_the_dispatches() -> None:
    scenario = Scenario("x", groups=(Group(count=3),), requests=300, cool_down=0.0)
    run = simulate(scenario, 30.0, "round_robin")
    starts, shares = run.shares(2.0)
    assert shares.shape == (len(starts), 3)
    assert np.nansum(shares, axis=1) == pytest.approx(np.ones(len(starts)))
    assert shares[:-1] == pytest.approx(np.full((len(starts) - 1, 3), 1 / 3), abs=0.03)


def test_attainment_leaves_out_what_no_engine_could_have_served() -> None:
    scenario = Scenario("x", groups=(Group(count=2),), requests=200)
    run = simulate(scenario, 5.0, "round_robin")
    run.feasible[50:] = False
    run.ttft_slo = np.zeros(200)
    assert run.counted.sum() == 30
    assert run.attainment == 0.0


def test_an_answer_of_one_token_has_no_gaps_to_be_slow_in() -> None:
    scenario = Scenario("x", groups=(Group(count=2),), requests=400)
    run = simulate(replace(scenario, requests=400), 5.0, "round_robin")
    single = run.output == 1
    assert np.isnan(run.tpot[single]).all()
    assert run.met[single & run.measured].all()
