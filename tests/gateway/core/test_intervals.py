"""The promise of an interval is kept whatever is predicted, and gross errors are noticed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.intervals import FEW, NARROWEST, RECENT, SLOW_RECENT, SLOW_STEP, STEP, WIDEST, Interval, Track


def covered(interval: Interval, draw: Callable[[], float], count: int) -> float:
    """The share of so many answers that the interval covered as it stood before each."""
    return sum(interval.learn(draw()) for _ in range(count)) / count


@pytest.mark.parametrize("sigma", [0.03, 0.1, 0.3, 0.8])
def test_nine_of_ten_answers_are_covered_however_noisy_they_are(sigma: float) -> None:
    random, interval = Random(3), Interval()
    covered(interval, lambda: random.gauss(0.0, sigma), 300)
    assert covered(interval, lambda: random.gauss(0.0, sigma), 4000) == pytest.approx(0.9, abs=0.02)
    assert interval.high - interval.low == pytest.approx(2.0 * 1.645 * sigma, rel=0.35)


def test_it_is_as_lopsided_as_the_errors_are() -> None:
    random, interval = Random(3), Interval()
    low = high = 0
    for i in range(6000):
        error = random.expovariate(4.0)
        if i > 1000:
            centred = error - math.log(interval.correction())
            low, high = low + (centred < interval.low), high + (centred > interval.high)
        interval.learn(error)
    assert low / 5000 == pytest.approx(0.05, abs=0.02) and high / 5000 == pytest.approx(0.05, abs=0.02)
    assert interval.high > 1.5 * -interval.low


def test_no_other_correction_of_the_answers_seen_has_a_smaller_mean_error() -> None:
    random, interval = Random(3), Interval()
    drawn = [random.gauss(0.0, 0.3) + (random.random() < 0.3) * random.expovariate(1.0) for _ in range(RECENT)]
    for error in drawn:
        interval.learn(error)

    def mean_error(bias: float) -> float:
        return sum(abs(math.exp(bias - error) - 1.0) for error in drawn) / len(drawn)

    assert interval.bias in drawn
    assert mean_error(interval.bias) == pytest.approx(min(map(mean_error, drawn)))
    assert mean_error(interval.bias) < mean_error(sorted(drawn)[RECENT // 2])


def test_what_was_off_before_the_prices_were_found_is_forgotten() -> None:
    random, interval = Random(3), Interval()
    covered(interval, lambda: random.gauss(1.5, 0.3), 40)
    covered(interval, lambda: random.gauss(0.0, 0.1), RECENT)
    assert interval.correction() == pytest.approx(1.0, abs=0.04)


def test_it_follows_when_predictions_become_wrong() -> None:
    random, interval = Random(3), Interval()
    covered(interval, lambda: random.gauss(0.0, 0.05), 1000)
    assert covered(interval, lambda: random.gauss(0.7, 0.05), 20) < 0.5
    covered(interval, lambda: random.gauss(0.7, 0.05), 300)
    assert interval.correction() == pytest.approx(math.exp(0.7), rel=0.03)
    assert covered(interval, lambda: random.gauss(0.7, 0.05), 2000) == pytest.approx(0.9, abs=0.03)


def test_a_correction_is_not_moved_far_by_one_stall() -> None:
    random, interval = Random(3), Interval()
    covered(interval, lambda: random.gauss(0.0, 0.05), 500)
    before = interval.correction()
    interval.learn(4.0)
    assert interval.correction() == pytest.approx(before, rel=0.01)


def test_rare_stalls_do_not_shift_what_is_said_of_the_others() -> None:
    """One in twenty takes twenty times as long: the mean logarithm is 0.15, the median nearly 0."""
    random, interval = Random(3), Interval()
    covered(interval, lambda: 3.0 if random.random() < 0.05 else random.gauss(0.0, 0.1), 3000)
    assert abs(math.log(interval.correction())) < 0.08


def test_smaller_steps_are_less_surprised_by_the_next_wave_and_keep_the_promise_too() -> None:
    """A hundred answers that are off for one and the same reason, then a hundred for another one."""
    beginnings = []
    for step, recent in ((STEP, RECENT), (SLOW_STEP, SLOW_RECENT)):
        random, interval, hits = Random(3), Interval(step, recent), []
        for _ in range(100):
            wave = random.gauss(0.0, 0.3)
            hits.append([interval.learn(wave + random.gauss(0.0, 0.05)) for _ in range(100)])
        later = hits[10:]
        assert sum(map(sum, later)) / 9000 == pytest.approx(0.9, abs=0.02)
        beginnings.append(sum(sum(wave[:20]) for wave in later) / 1800)
    assert beginnings[1] > beginnings[0] + 0.07


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(-9.0, 9.0), max_size=200))
def test_its_ends_stay_within_bounds_and_around_the_middle(errors: list[float]) -> None:
    interval = Interval()
    for error in errors:
        interval.learn(error)
        assert -WIDEST <= interval.low <= -NARROWEST and NARROWEST <= interval.high <= WIDEST
        assert 0.0 < interval.correction() < math.inf
    assert interval.samples == len(errors)


# --- a track ---------------------------------------------------------------------------------------------------------


def learn(track: Track, draw: Callable[[], float], count: int, regime: int = 0) -> None:
    """So many answers; `draw` gives the logarithm of observed over base."""
    for _ in range(count):
        observed = math.exp(draw())
        track.learn(regime, observed, track.regimes[regime].correction(), 1.0)


def test_a_track_says_how_far_off_predictions_have_lately_been() -> None:
    random, track = Random(5), Track(2)
    learn(track, lambda: random.gauss(0.0, 0.2), 1500)
    assert track.samples == 1500
    assert track.error == pytest.approx(0.16, rel=0.3)  # the mean of |N(0, 0.2)|
    assert track.spread == pytest.approx(0.2, rel=0.25)
    assert track.coverage == pytest.approx(0.9, abs=0.1)
    assert track.shift == pytest.approx(0.0, abs=0.1)


def test_what_one_regime_has_learnt_does_not_touch_another() -> None:
    track = Track(3)
    learn(track, lambda: 0.5, 200, regime=1)
    assert track.regimes[1].correction() == pytest.approx(math.exp(0.5), rel=0.1)
    assert [regime.samples for regime in track.regimes] == [0, 200, 0]
    assert track.regimes[0].correction() == track.regimes[2].correction() == 1.0


def test_trust_goes_when_half_of_the_answers_are_off_by_more_than_two_and_comes_back() -> None:
    random, track = Random(5), Track(1)
    learn(track, lambda: random.gauss(0.0, 0.1), 500)
    learn(track, lambda: random.choice([-1.5, 1.5]), 15)
    assert track.calibrated
    learn(track, lambda: random.choice([-1.5, 1.5]), 60)
    assert not track.calibrated
    learn(track, lambda: random.gauss(0.0, 0.1), 20)
    assert not track.calibrated  # not back at the same share at which it went
    learn(track, lambda: random.gauss(0.0, 0.1), 100)
    assert track.calibrated


def test_three_stalls_in_ten_do_not_cost_the_trust() -> None:
    random, track = Random(5), Track(1)
    for _ in range(1000):
        learn(track, lambda: 1.5 if random.random() < 0.2 else random.gauss(0.0, 0.1), 1)
        assert track.calibrated


def test_the_first_answers_are_too_few_to_judge() -> None:
    track = Track(1)
    for i in range(FEW + 5):
        track.learn(0, 5.0, 1.0, 1.0)
        assert track.calibrated is (i + 1 < FEW)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 2), st.floats(-5.0, 5.0)), max_size=120))
def test_whatever_was_learnt_goes_through_json_and_back(answers: list[tuple[int, float]]) -> None:
    track = Track(3)
    for regime, error in answers:
        learn(track, lambda error=error: error, 1, regime)
    state = json.loads(json.dumps(track.to_state()))
    again = Track.from_state(state, 3)
    assert again.to_state() == track.to_state()
    assert [r.correction() for r in again.regimes] == [r.correction() for r in track.regimes]


FINE = [0.1, -0.3, 0.3, 10.0]


@pytest.mark.parametrize("state", [
    None, {}, "abc", [FINE], [FINE] * 3, [FINE, None], [FINE, [0.1, -0.3, 0.3]], [FINE, [*FINE, 1.0]],
    [FINE, [math.nan, -0.3, 0.3, 1.0]], [FINE, [0.1, 0.3, -0.3, 1.0]], [FINE, [0.1, -math.inf, 0.3, 1.0]],
    [FINE, [0.1, -0.3, 99.0, 1.0]], [FINE, [0.1, -0.3, 0.3, -1.0]], [FINE, [0.1, -0.3, 0.3, math.inf]],
    [FINE, [50.0, -0.3, 0.3, 1.0]], [FINE, ["a", -0.3, 0.3, 1.0]],
])  # fmt: skip
def test_a_state_that_no_track_gave_is_refused(state: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        Track.from_state(state, 2)
