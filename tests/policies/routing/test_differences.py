"""Means of two arms, paired in time: what they share cancels, and correlation is not taken for evidence."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from policies.routing.differences import HARM, Differences, Spread, evidence, one_sided, width


def run(seed: int, shift: float = 0.0, seconds: int = 600, stays: float = 0.0, servers: int = 3) -> Differences:
    """A difference a second of the canary and of each server; `stays`: how much of the last one's noise is left."""
    random, sums = np.random.default_rng(seed), Differences()
    noise = random.normal(0.0, 0.3, servers + 1)
    for at in range(seconds):
        noise = stays * noise + math.sqrt(1.0 - stays**2) * random.normal(0.0, 0.3, servers + 1)
        rows = [(row, float(each) + (shift if row == 0 else 0.0), 1.0) for row, each in enumerate(noise)]
        sums.add(float(at), rows)
    return sums


def test_before_there_are_pairs_nothing_is_said() -> None:
    sums = Differences()
    assert math.isnan(sums.estimate)
    assert (sums.worse(), sums.better(0.1), sums.alike()) == (0.0, 0.0, 0.0)
    assert sums.half_width(0.05, HARM) == math.inf


def test_a_shift_is_found_and_measured() -> None:
    sums = run(1, shift=0.26)
    assert sums.estimate == pytest.approx(0.26, abs=0.05)
    assert sums.worse() > math.log(1000.0)
    assert sums.better(0.1) < 0.0
    assert abs(sums.estimate - 0.26) < sums.half_width(0.01, HARM) < 0.2


def test_no_shift_is_shown_to_be_within_the_margin() -> None:
    sums = run(2, seconds=1500)
    assert sums.better(0.1) > math.log(20.0)
    assert sums.worse() < math.log(20.0)


@pytest.mark.parametrize("stays", [0.0, 0.9, 0.97])
def test_noise_that_stays_for_a_while_widens_the_interval_as_much_as_it_has_to(stays: float) -> None:
    found = [run(seed, stays=stays, seconds=1200).spread() for seed in range(5)]
    true = 0.09 * (1.0 + stays) / (1.0 - stays)
    assert 0.6 * true < float(np.median([spread.variance for spread in found if spread])) < 2.0 * true


def test_correlated_noise_is_not_taken_for_harm_even_when_looked_at_every_ten_seconds() -> None:
    broken = 0
    for seed in range(30):
        random, sums = np.random.default_rng(seed), Differences()
        noise = random.normal(0.0, 0.3, 4)
        for at in range(400):
            noise = 0.95 * noise + math.sqrt(1.0 - 0.95**2) * random.normal(0.0, 0.3, 4)
            sums.add(float(at), [(row, float(each), 1.0) for row, each in enumerate(noise)])
            if at % 10 == 0 and sums.worse() > math.log(20.0):
                broken += 1
                break
    assert broken <= 2


def test_servers_that_are_apart_for_good_are_seen_to_be() -> None:
    alike, apart = Differences(), Differences()
    random = np.random.default_rng(4)
    for at in range(900):
        noise = random.normal(0.0, 0.3, 4)
        alike.add(float(at), [(row + 1, float(each), 1.0) for row, each in enumerate(noise)])
        apart.add(float(at), [(row + 1, float(each) + 0.15 * (row - 1.5), 1.0) for row, each in enumerate(noise)])
    assert alike.servers_apart() < 0.03
    assert apart.servers_apart() == pytest.approx(0.19, abs=0.05)
    assert alike.alike() < math.log(20.0) < apart.alike()


def test_the_width_is_where_the_evidence_reaches_the_odds() -> None:
    for weight, freedom in ((10.0, 4.0), (300.0, 12.0), (5000.0, 80.0)):
        spread = Spread(0.5, freedom)
        wide = width(weight, spread, HARM, 0.025)
        if math.isfinite(wide):
            assert evidence(wide * weight, weight, spread, HARM) == pytest.approx(math.log(20.0))
            assert one_sided(wide * weight, weight, spread, HARM) == pytest.approx(math.log(40.0), abs=0.01)
    assert width(1.0, Spread(0.5, 4.0), HARM, 0.001) == math.inf


def test_a_canary_far_better_is_no_harm_and_costs_no_overflow() -> None:
    sums = run(1, shift=-30.0, seconds=300)
    assert sums.worse() < 0.0
    assert sums.better(0.1) > math.log(20.0)


def test_a_state_goes_through_json() -> None:
    sums, other = run(3, seconds=200), Differences()
    other.restore(json.loads(json.dumps(sums.to_state())))
    assert other.to_state() == sums.to_state()
    assert (other.worse(), other.estimate) == (sums.worse(), sums.estimate)
    with pytest.raises(ValueError, match="another version"):
        other.restore({**sums.to_state(), "count": [[1.0]]})
