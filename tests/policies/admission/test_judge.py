"""Whether promises can be kept, and what becomes of a request if not."""

from __future__ import annotations

import math
from random import Random

import pytest

from gateway.core.types import UNKNOWN, Decision, Endpoint, Outcome, Request
from policies.admission.judge import GUARD, PROBES, WIDEST, Bound, Finish, Judge, Margin, Verdict
from tests.support.waiting import Oracle, ask, foresee

MANY = 1000.0  # in flight at the endpoint: no probe


def judged(request: Request, now: float = 0.0, *, ttft: float = 0.1, tpot: float = 0.01, high: float = 1.0,
           inflight: float = MANY, gives_way: bool = False, judge: Judge | None = None) -> Verdict:  # fmt: skip
    decision = Decision(0, "", forecast=foresee(ttft, tpot, high))
    return (judge or Judge()).judge(request, decision, Oracle(), inflight, now, gives_way)  # type: ignore[arg-type]


def outcome(request: Request, seconds: float) -> Outcome:
    return Outcome(request, Endpoint("e", "http://e", "p", "vllm"), 0, 200, "complete", seconds, 0.1,
                   output_tokens=50.0)  # fmt: skip


def test_what_promises_nothing_goes() -> None:
    assert judged(ask(), ttft=100.0, tpot=10.0).goes


def test_what_nobody_predicts_goes() -> None:
    request = ask(ttft_slo=0.1, deadline=0.1)
    assert Judge().judge(request, Decision(0, ""), Oracle(), MANY, 0.0).goes  # type: ignore[arg-type]
    lost = Oracle()
    lost.calibrated = False
    late = Decision(0, "", forecast=foresee(9.0, 9.0))
    assert Judge().judge(request, late, lost, MANY, 0.0).goes  # type: ignore[arg-type]
    assert Judge().judge(request, late, None, MANY, 0.0).goes


def test_a_first_token_is_promised_from_the_arrival_and_judged_by_the_upper_end() -> None:
    request = ask(ttft_slo=0.5)
    assert judged(request, ttft=0.3).goes and not judged(request, ttft=0.3, high=1.8).goes
    assert judged(request, 0.15, ttft=0.3).goes and not judged(request, 0.25, ttft=0.3).goes


def test_an_interval_that_is_wider_than_can_be_is_not_believed() -> None:
    assert judged(ask(ttft_slo=0.5), ttft=0.2, high=30.0).goes
    assert not judged(ask(ttft_slo=0.5), ttft=0.6 / WIDEST, high=30.0).goes


def test_an_endpoint_is_filled_up_to_less_than_the_promised_pace() -> None:
    request = ask(tpot_slo=0.025)
    assert judged(request, tpot=0.022).goes and not judged(request, tpot=0.0249).goes


def test_an_endpoint_with_few_requests_always_takes_one_more_while_its_time_has_not_run_out() -> None:
    request = ask(ttft_slo=0.5, tpot_slo=0.025)
    assert judged(request, tpot=0.1, inflight=PROBES - 1.0).goes
    assert not judged(request, 0.6, tpot=0.1, inflight=0.0).goes


def test_it_waits_until_an_idle_endpoint_could_no_longer_keep_the_promise() -> None:
    verdict = judged(ask(ttft_slo=0.5), ttft=9.0)
    assert not verdict.goes and verdict.why == "slo" and not verdict.hopeless
    assert verdict.until == pytest.approx(0.5 - 1.1 * 0.05)
    paced = judged(ask(tpot_slo=0.02), tpot=0.03)
    assert (paced.until, paced.why) == (math.inf, "queue_timeout")  # no moment at which it is too late


def test_a_promise_that_an_idle_endpoint_cannot_keep_is_no_ground_for_a_refusal() -> None:
    impossible = ask(ttft_slo=0.01, tpot_slo=0.001)
    assert judged(impossible, ttft=0.06, tpot=0.011).goes
    assert not judged(impossible, ttft=0.3, tpot=0.011).goes  # and no leave to overload one that is not idle
    assert judged(impossible, ttft=0.3).until > 0.0


def test_who_must_give_way_is_held_to_less_and_without_a_promise_to_the_pace_of_a_few() -> None:
    request = ask(tpot_slo=0.025)
    assert judged(request, tpot=0.02).goes
    assert not judged(request, tpot=0.02, gives_way=True).goes
    assert judged(request, tpot=0.025 * 0.9 * GUARD - 1e-6, gives_way=True).goes
    assert judged(ask(), tpot=0.03).goes and not judged(ask(), tpot=0.03, gives_way=True).goes


def test_a_deadline_is_judged_by_a_bound_that_is_hardly_ever_exceeded() -> None:
    expected = 0.1 + 50.0 * 0.01
    judge = Judge()
    factor = judge.finish.factor(ask())
    assert factor > 2.0  # nothing is known yet
    assert judged(ask(deadline=expected * factor + 0.01), judge=judge).goes
    verdict = judged(ask(deadline=expected * factor - 0.01), judge=judge)
    assert (verdict.goes, verdict.why, verdict.until, verdict.hopeless) == (False, "deadline", 0.0, False)


def test_a_deadline_that_no_idle_endpoint_could_meet_is_hopeless() -> None:
    verdict = judged(ask(deadline=0.3))
    assert verdict.hopeless and not verdict.goes
    waiting = Judge().patience(ask(deadline=0.3), Oracle(), 0.0)  # type: ignore[arg-type]
    assert waiting.hopeless and waiting.why == "deadline"


def test_patience_is_the_earlier_of_promise_and_deadline_whoever_predicts() -> None:
    both = ask(arrived=10.0, ttft_slo=0.5, deadline=100.0)
    assert Judge().patience(both, Oracle(), 10.0).why == "slo"  # type: ignore[arg-type]
    assert Judge().patience(ask(ttft_slo=9.0, deadline=3.0), Oracle(), 0.0).why == "deadline"  # type: ignore[arg-type]
    assert Judge().patience(both, None, 10.0).until == 10.5
    assert Judge().patience(ask(deadline=7.0), None, 0.0) == Verdict(False, 7.0, "deadline")
    assert Judge().patience(ask(), None, 0.0) == Verdict(False)


def test_who_is_late_and_served_all_the_same_must_not_spoil_the_pace_of_others() -> None:
    request, judge = ask(ttft_slo=0.5, tpot_slo=0.025), Judge()
    for tpot, goes in ((0.02, True), (0.03, False)):
        decision = Decision(0, "", forecast=foresee(9.0, tpot))
        assert judge.without_first(request, decision, Oracle(), 0.0).goes is goes  # type: ignore[arg-type]
    assert judge.without_first(request, Decision(0, ""), None, 0.0).goes


@pytest.mark.parametrize("miss", [0.01, 0.03, 0.1])
def test_a_bound_is_exceeded_as_often_as_it_says_also_after_a_change(miss: float) -> None:
    bound, random = Bound(miss, 1.0), Random(3)
    for scale in (0.3, 0.8):
        over = 0
        for number in range(12_000):
            error = random.gauss(0.0, scale)
            over += number >= 2000 and error > bound.value
            bound.learn(error)
        assert over / 10_000 == pytest.approx(miss, rel=0.35)


def test_how_long_answers_take_is_learnt_apart_for_short_and_long_ones() -> None:
    finish, random = Finish(), Random(5)
    short, long = ask(output=20.0), ask(output=2000.0)
    for _ in range(4000):
        finish.learn(short, 1.0, math.exp(random.gauss(0.0, 0.1)))
        finish.learn(long, 1.0, math.exp(random.gauss(0.0, 0.8)))
    assert 1.15 < finish.factor(short) < 1.35 < 3.0 < finish.factor(long) < 6.0
    assert finish.stated(short) >= finish.factor(short)
    finish.learn(short, 0.0, 1.0)  # nothing was predicted: nothing is learnt


def test_the_margin_follows_how_far_streams_near_their_promise_are_off_and_nobody_else() -> None:
    margin = Margin()
    before = margin.share
    for _ in range(500):
        margin.learn(0.025, 0.005, 0.1)
    assert margin.share == before
    random = Random(7)
    for _ in range(5000):
        margin.learn(0.025, 0.02, 0.02 * math.exp(random.gauss(0.0, 0.05)))
    assert 0.88 < margin.share < 0.95
    for _ in range(5000):
        margin.learn(0.025, 0.02, 0.08)
    assert margin.share == Margin.LEAST


def test_a_judge_learns_from_whole_answers() -> None:
    judge, request = Judge(), ask(tpot_slo=0.012)
    before = judge.finish.factor(request)
    for _ in range(2000):
        judge.observe(request, outcome(request, 0.6), foresee(), 0.01)
        judge.observe(request, outcome(request, 0.6), foresee(), UNKNOWN)
    assert judge.finish.factor(request) < 1.2 < before and judge.margin.share > 0.95
