"""Bets on whose the next failure is: fair while the arms are alike, won soon when they are not."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from policies.routing.bets import AFRESH, Bets, Heaps


def played(
    seed: int, rates: tuple[float, float], share: float = 0.05, seconds: int = 600, rate: float = 40.0
) -> tuple[Bets, float]:
    """A second at a time; the bets, and the highest stake (its logarithm) that there ever was."""
    random, bets, highest = np.random.default_rng(seed), Bets(), -math.inf
    for at in range(seconds):
        stable, canary = int(random.poisson(rate * (1.0 - share))), int(random.poisson(rate * share))
        failed = int(random.binomial(stable, rates[0])), int(random.binomial(canary, rates[1]))
        bets.add(float(at), (share, share), (stable, canary), failed, failed[1])
        bets.heaps.add(float(at), {0: failed[0]} if failed[0] else {}, {0: stable})
        highest = max(highest, bets.harm())
    return bets, highest


def test_arms_that_fail_alike_break_odds_of_twenty_to_one_at_most_once_in_twenty_rollouts() -> None:
    broken = sum(played(seed, (0.02, 0.02), seconds=250)[1] >= math.log(20.0) for seed in range(100))
    assert broken <= 5


def test_a_rate_of_failures_that_swings_is_no_harm_while_it_swings_for_both() -> None:
    bets = Bets()
    for at in range(400):
        failures = 19 if at % 100 < 20 else 0
        bets.add(float(at), (0.05, 0.05), (95, 5), (failures, failures // 19), failures // 19)
    assert bets.harm() < 0.0
    assert bets.estimate == pytest.approx(0.0)


def test_three_times_the_errors_show_within_a_thousand_requests_and_not_by_chance() -> None:
    bets, highest = played(3, (0.01, 0.03), seconds=500)
    assert highest > math.log(100.0)
    assert 0.01 < bets.estimate < 0.04
    assert 0.0 < bets.low(0.01) < bets.estimate < bets.high(0.05)


def test_a_canary_that_never_fails_is_shown_to_be_within_the_margin() -> None:
    bets, _ = played(1, (0.0, 0.0), seconds=700)
    assert bets.canary > 1000
    assert bets.better(0.005) > math.log(20.0)
    assert bets.high(0.05) < 0.005


def test_the_interval_holds_the_truth() -> None:
    for seed in range(10):
        bets, _ = played(seed, (0.02, 0.03), share=0.3, seconds=150)
        assert bets.low(0.01) <= 0.01 <= bets.high(0.01)


def test_what_breaks_after_hours_shows_within_tens_of_requests() -> None:
    bets = Bets()
    for at in range(7200):
        bets.add(float(at), (0.05, 0.05), (19, 1), (at % 5 == 0, at % 100 == 0), at % 100 == 0)
    assert bets.harm() < math.log(20.0)
    needed = 0
    while bets.harm() < math.log(100.0):
        bets.add(7200.0 + needed, (0.05, 0.05), (19, 1), (needed % 5 == 0, needed % 2), needed % 2)
        needed += 1
    assert needed < 60
    assert bets.lately > 0.005


def test_a_canary_that_is_alone_is_held_against_what_the_stable_arm_did() -> None:
    bets, _ = played(5, (0.01, 0.01), share=0.5, seconds=100)
    before = bets.canary
    for at in range(200):
        bets.add(100.0 + at, (1.0, 1.0), (0, 20), (0, at % 3 == 0), at % 3 == 0)
    assert bets.harm() < math.log(20.0)
    for at in range(10):
        bets.add(300.0 + at, (1.0, 1.0), (0, 20), (0, 10), 10)
    assert bets.harm() > math.log(1000.0)
    assert bets.canary == before


def test_failures_that_come_in_heaps_on_a_server_count_for_less() -> None:
    alone, heaps = Heaps(), Heaps()
    for at in range(2000):
        lonely = {at // 10 % 4: 1.0} if at % 10 == 0 else {}
        heap = {at // 200 % 4: 20.0} if at % 200 == 0 else {}
        tried = dict.fromkeys(range(4), 5.0)
        alone.add(float(at), lonely, tried)
        heaps.add(float(at), heap, tried)
    assert alone.factor < 1.3
    assert heaps.factor > 5.0


def test_part_of_the_stake_is_laid_anew_and_all_parts_together_are_one() -> None:
    bets = Bets()
    for at in range(0, 100_000, int(AFRESH)):
        bets.add(float(at), (0.05, 0.05), (1, 0), (0, 0), 0)
    assert -0.01 < bets.harm() < 0.0


def test_a_state_goes_through_json_and_goes_on_as_if_nothing_had_happened() -> None:
    bets, _ = played(7, (0.02, 0.04), seconds=100)
    other = Bets()
    other.restore(json.loads(json.dumps(bets.to_state())))
    assert other.to_state() == bets.to_state()
    assert (other.harm(), other.better(0.005)) == (bets.harm(), bets.better(0.005))
    with pytest.raises(ValueError, match="another version"):
        other.restore({**bets.to_state(), "stake": [0.0]})
