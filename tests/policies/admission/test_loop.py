"""The closed loop: effects are corrected by what was measured, and less is used when promises are missed."""

from random import Random

import pytest

from gateway.core.types import Endpoint, Outcome, Request
from policies.admission.loop import LEAST_USE, MOST_USE, START, Loop

ENDPOINT = Endpoint("e", "http://e", "pool", "vllm")
REQUEST = Request(id="1", model="m", arrived=0.0, ttft_slo=0.5, tpot_slo=0.025, stream=True)


def outcome(ttft: float, pace: float = 0.01) -> Outcome:
    return Outcome(REQUEST, ENDPOINT, 0, 200, "complete", ttft + 99 * pace, ttft, 1000.0, 0.0, 100.0)


def run(loop: Loop, truth: float, bias: float = 0.0, count: int = 2000) -> None:
    random = Random(1)
    for place in range(count):
        effect = random.choice([0.0, 0.01, 0.03])
        loop.learn(outcome(0.05 + bias + truth * effect), 0.05 + effect, effect, place * 0.1)


@pytest.mark.parametrize("truth", [0.6, 1.0, 1.6])
def test_effects_are_corrected_by_how_late_first_tokens_are_where_filler_is(truth: float) -> None:
    loop = Loop()
    run(loop, truth)
    assert loop.correction == pytest.approx(1.0 + (truth - 1.0) * 0.6, abs=0.2)


def test_what_is_late_everywhere_alike_is_not_the_fillers_doing() -> None:
    loop = Loop()
    run(loop, 1.0, bias=0.02)
    assert loop.correction == pytest.approx(1.0, abs=0.05)


def test_missed_promises_beside_filler_leave_less_to_it_and_kept_ones_slowly_more() -> None:
    loop = Loop()
    for place in range(100):
        loop.learn(outcome(0.05, pace=0.03), 0.05, 0.01, place * 0.1)
    low = loop.use
    assert LEAST_USE <= low < START
    for place in range(2000):
        loop.learn(outcome(0.05), 0.05, 0.01, 10.0 + place * 0.1)
    assert low < loop.use <= MOST_USE


def test_promises_missed_without_filler_say_nothing_of_it() -> None:
    loop = Loop()
    for place in range(200):
        loop.learn(outcome(0.9), 0.05, 0.0, place * 0.1)
    assert loop.use == START


def test_operators_see_both_means() -> None:
    loop = Loop()
    loop.learn(outcome(0.06), 0.05, 0.01, 0.0)
    loop.learn(outcome(0.04), 0.05, 0.0, 0.1)
    report = loop.report()
    assert (report.ttft_with, report.ttft_without) == (0.06, 0.04)
    assert report.tpot_with == pytest.approx(0.01)
