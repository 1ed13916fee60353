"""Estimated ends: right on average, and inside their interval nine times of ten, on a made-up clock."""

from __future__ import annotations

from math import exp, inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.jobs.eta import DRIFT, Etas, Pace, Speed, interval
from gateway.jobs.holding import Hands
from gateway.jobs.model import Batch, Queue, Stats
from tests.support.shelf import Shelf

KIND = ("async", "m")
AT = 1_000_000.0


def batch(**more: object) -> Batch:
    values: dict[str, object] = {"status": "in_progress", "total": 500, "model": "m", **more}
    return Batch("batch_1", "acme", "async", "/v1/x", "file-1", "24h", created_at=AT, expires_at=AT + 86400,
                 **values)  # type: ignore[arg-type]  # fmt: skip


def worked(pace: Pace, random: Random, rate: float, seconds: int, at: float = AT) -> float:
    """Work at a Poisson rate; the time afterwards."""
    due = at
    for second in range(seconds):
        pace.busy(at + second)
        due = max(due, at + second)
        while due < at + second + 1:
            due += random.expovariate(rate)
            pace.ended(due, 0.5)
    return at + seconds


def test_nothing_is_said_before_anything_ended() -> None:
    pace = Pace()
    for second in range(60):
        pace.busy(AT + second)
    assert pace.speed(AT + 60) is None


def test_time_without_work_says_nothing_about_speed() -> None:
    pace = Pace()
    at = worked(pace, Random(1), 10.0, 30)
    pace.idle()
    speed = pace.speed(at + 120)
    assert speed is not None and speed.rate == pytest.approx(10.0, rel=0.2)


def test_what_was_long_ago_is_forgotten() -> None:
    pace = Pace()
    at = worked(pace, Random(1), 10.0, 60)
    assert pace.speed(at + 400) is None


@pytest.mark.parametrize("rate", [0.3, 5.0, 30.0])
def test_the_interval_holds_nine_times_of_ten(rate: float) -> None:
    held, trials = 0, 200
    for seed in range(trials):
        random, pace = Random(seed), Pace()
        at = worked(pace, random, rate, 120)
        speed = pace.speed(at)
        assert speed is not None
        ahead = int(rate * 200) + 1
        eta = interval(at, ahead, speed)
        later = rate * exp(random.gauss(0.0, DRIFT))
        took = sum(random.expovariate(later) for _ in range(ahead))
        held += eta.low <= at + took <= eta.high
    assert 0.84 <= held / trials <= 0.97


def test_speed_that_varies_makes_a_wider_interval() -> None:
    steady, bursty = Pace(), Pace()
    for slot in range(24):
        at = AT + slot * 10.0
        for second in range(10):
            steady.busy(at + second)
            bursty.busy(at + second)
        for _ in range(10):
            steady.ended(at + 5.0, 0.5)
        for _ in range(40 if slot % 4 == 0 else 0):
            bursty.ended(at + 5.0, 0.5)
    even, uneven = steady.speed(AT + 240), bursty.speed(AT + 240)
    assert even is not None and uneven is not None
    assert even.rate == pytest.approx(uneven.rate)
    assert interval(AT, 100, uneven).high > interval(AT, 100, even).high + 30.0


@given(st.integers(1, 10**6), st.floats(1e-3, 1e4), st.integers(1, 10**5), st.floats(1.0, 1e3))
def test_an_interval_is_around_its_middle(ahead: int, rate: float, counted: int, dispersion: float) -> None:
    eta = interval(AT, ahead, Speed(rate, counted, dispersion))
    assert AT <= eta.low <= eta.at <= eta.high < inf


async def test_a_batch_ends_behind_what_stands_before_it() -> None:
    shelf = Shelf()
    for n in range(1000):
        shelf.put(f"{n}", deadline=AT + 86400)
    etas = Etas(shelf.store, Hands())
    for second in range(60):
        etas.look(Stats((Queue(*KIND, 1000, 0, AT),)), AT + second)
        for _ in range(10):
            etas.ended(KIND, AT + second, 0.5)
    eta = await etas.of(batch(), AT + 60)
    assert eta is not None and eta.at - AT - 60 == pytest.approx(100.0, rel=0.05)
    assert await etas.of(batch(status="completed"), AT + 60) is None
    assert await etas.of(batch(status="validating", model=""), AT + 60) is None
    assert await etas.of(batch(model="other"), AT + 60) is None


async def test_other_gateways_are_as_fast_as_this_one() -> None:
    shelf, hands = Shelf(), Hands()
    for n in range(1000):
        shelf.put(f"{n}", deadline=AT + 86400)
    for claim in await shelf.claim("me", 10, AT, AT, klass="async", model="m"):
        hands.take(claim)
    etas = Etas(shelf.store, hands)
    for second in range(60):
        etas.look(Stats((Queue(*KIND, 960, 40, AT),)), AT + second)
        for _ in range(10):
            etas.ended(KIND, AT + second, 0.5)
    speed = etas.speed(KIND, AT + 60)
    assert speed is not None and speed.rate == pytest.approx(40.0, rel=0.05)
