"""How soon the next ones come: bursts are seen at once, and a silence is believed."""

import math

import pytest

from policies.admission.arrivals import Arrivals, chance_of_more, enough_for


def steady(rate: float, seconds: float) -> tuple[Arrivals, float]:
    arrivals, now = Arrivals(), 0.0
    for _ in range(int(rate * seconds)):
        now += 1.0 / rate
        arrivals.see(1000.0, now)
    return arrivals, now


def test_nobody_is_expected_before_anybody_has_come() -> None:
    assert Arrivals().rate(5.0) == 0.0
    assert not Arrivals().any


def test_a_steady_rate_is_found() -> None:
    arrivals, now = steady(50.0, 20.0)
    assert arrivals.rate(now + 0.01) == pytest.approx(50.0, rel=0.06)


def test_a_burst_is_seen_within_a_second_and_not_forgotten_in_a_pause_of_one() -> None:
    arrivals, now = steady(50.0, 1.0)
    assert arrivals.rate(now) > 40.0
    arrivals, now = steady(50.0, 20.0)
    assert arrivals.rate(now + 0.05) > 40.0


def test_a_silence_says_that_few_will_come() -> None:
    arrivals, now = steady(100.0, 20.0)
    assert arrivals.rate(now + 1.0) <= 3.0
    assert arrivals.rate(now + 5.0) <= 0.6


def test_the_chance_of_more_is_that_of_a_poisson_process() -> None:
    assert chance_of_more(0.0, 0) == 0.0
    assert chance_of_more(1.0, 0) == pytest.approx(1.0 - math.exp(-1.0))
    assert chance_of_more(4.0, 7) == pytest.approx(0.0511, abs=1e-4)
    assert chance_of_more(400.0, 8) == pytest.approx(1.0)


def test_so_many_are_enough_that_more_come_only_with_that_chance() -> None:
    assert enough_for(0.0, 0.05, 8) == 0
    assert enough_for(4.0, 0.05, 64) == 8
    assert chance_of_more(4.0, 8) <= 0.05 < chance_of_more(4.0, 7)
    assert enough_for(4.0, 0.05, 3) == 3
    assert enough_for(5000.0, 0.05, 8) == 8
