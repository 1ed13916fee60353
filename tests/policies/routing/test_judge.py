"""Promote, roll back, or not yet."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import islice

import pytest

from gateway.core.routes import CanaryRule
from policies.routing.judge import NEEDED, Judge, Judgement
from policies.routing.seen import Seen
from tests.support.drawn_rollouts import CALM, CHUNK, HARD, Source, Truth, held

RULE = CanaryRule("next")
EASY = Truth(rate=20.0, rough=CALM, errors=0.002)


def judged(truth: Truth, share: float = 0.25, seconds: float = 600.0, seed: int = 1) -> Judgement:
    judge, source = Judge(RULE), Source(truth, seed)
    for i in range(int(seconds / CHUNK)):
        for seen in source.chunk(CHUNK * i, share):
            judge.see(seen)
    return judge.look(seconds + 30.0)


def measure(said: Judgement, name: str) -> tuple[float, float, float, str]:
    found = next(each for each in said.measures if each.name == name)
    return found.estimate, found.low, found.high, found.says


def test_before_anything_was_seen_it_is_not_yet() -> None:
    said = Judge(RULE).look(5.0)
    assert (said.outcome, said.needed, said.measures) == ("not_yet", None, ())


def test_a_canary_as_good_as_the_others_is_promoted() -> None:
    said = judged(EASY)
    assert (said.outcome, said.needed) == ("promote", 0)
    assert all(measure(said, name)[3] == "ok" for name in NEEDED)
    assert "ttft" in said.why


def test_a_canary_within_the_margin_is_neither_promoted_nor_rolled_back_early() -> None:
    said = judged(replace(EASY, ttft=1.06), seconds=90.0)
    assert said.outcome == "not_yet"


def test_one_that_is_a_fifth_slower_is_never_promoted() -> None:
    for seed in range(4):
        assert judged(replace(EASY, ttft=1.2), seed=seed).outcome == "roll_back"
        assert judged(replace(EASY, tpot=1.2), seed=seed).outcome == "roll_back"


@pytest.mark.parametrize(
    ("truth", "name", "within"),
    [
        (Truth(ttft=1.3), "ttft", 1500.0),
        (Truth(errors_canary=0.06), "errors", 1200.0),
        (Truth(truncated_canary=0.03), "truncated", 1200.0),
        (Truth(ttft=3.0), "t", 180.0),
        (Truth(errors_canary=0.5), "errors", 60.0),
    ],
)
def test_harm_shows_at_a_twentieth_of_the_traffic(truth: Truth, name: str, within: float) -> None:
    ended, said = held(RULE, truth, seed=5, share=0.05, longest=2.0 * within)
    assert ended.outcome == "roll_back"
    assert ended.at < within
    assert said.why.startswith(name) or name == "t"


def test_two_alike_are_not_rolled_back_though_everything_is_correlated_and_drifts() -> None:
    for seed in range(4):
        ended, _ = held(RULE, Truth(rough=HARD), seed, share=0.1, longest=420.0)
        assert ended.outcome != "roll_back"


def test_longer_answers_hold_promotion_and_never_roll_back() -> None:
    said = judged(replace(EASY, length=2.0))
    assert said.outcome == "not_yet"
    assert "answers are different" in said.why
    assert measure(said, "length")[3] == "changed"


def test_answers_that_end_otherwise_hold_promotion() -> None:
    judge, source = Judge(RULE), Source(EASY, 1)
    for i in range(20):
        for seen in source.chunk(CHUNK * i, 0.25):
            judge.see(seen._replace(finish="length") if seen.is_canary and seen.finish else seen)
    said = judge.look(700.0)
    assert said.outcome == "not_yet"
    assert measure(said, "finish")[3] == "changed"
    assert said.finishes["canary"].keys() == {"length"}


def test_what_neither_arm_has_is_not_waited_for_and_what_one_has_is() -> None:
    for both, outcome in ((True, "promote"), (False, "not_yet")):
        judge, source = Judge(RULE), Source(EASY, 1)
        for i in range(20):
            for seen in source.chunk(CHUNK * i, 0.25):
                judge.see(seen._replace(tpot=math.nan) if both or seen.is_canary else seen)
        assert judge.look(700.0).outcome == outcome


def test_not_yet_says_about_how_many_more_requests() -> None:
    judge, source = Judge(RULE), Source(replace(EASY, errors=0.01), 2)
    guesses: list[tuple[int, int]] = []
    for i in range(400):
        for seen in source.chunk(CHUNK * i, 0.25):
            judge.see(seen)
        said = judge.look(CHUNK * (i + 1))
        if said.outcome == "promote":
            break
        if said.needed is not None:
            guesses.append((said.counts["canary"], said.needed))
    assert said.outcome == "promote"
    late = [(canary, needed) for canary, needed in guesses if canary > said.counts["canary"] / 2]
    assert late
    assert all(0.3 < (canary + needed) / said.counts["canary"] < 3.0 for canary, needed in late)


def test_looking_more_often_does_not_change_what_is_said() -> None:
    often, seldom = Judge(RULE), Judge(RULE)
    source = Source(Truth(), 3)
    for i in range(4):
        for seen in source.chunk(CHUNK * i, 0.2):
            often.see(seen)
            seldom.see(seen)
            often.look(seen.at)
    one, other = often.look(130.0), seldom.look(130.0)
    assert [each.evidence for each in one.measures] == [each.evidence for each in other.measures]
    assert one.outcome == other.outcome


def test_the_servers_of_the_stable_arm_are_tested_against_each_other() -> None:
    assert "alike" in judged(EASY).check
    apart = judged(replace(EASY, rough=replace(CALM, apart=0.15)), seed=4)
    assert "not alike" in apart.check
    assert apart.outcome != "roll_back"


def test_a_restart_in_between_changes_nothing_but_the_block_that_was_open() -> None:
    source = Source(EASY, 6)
    whole, before = Judge(RULE), Judge(RULE)
    for seen in source.chunk(0.0, 0.25):
        whole.see(seen)
        before.see(seen)
    whole.look(45.0)
    before.look(45.0)
    after = Judge(RULE)
    after.restore(json.loads(json.dumps(before.to_state())))
    assert after.look(46.0).counts == whole.look(46.0).counts
    for seen in source.chunk(60.0, 0.25):
        whole.see(seen)
        after.see(seen)
    one, other = whole.look(200.0), after.look(200.0)
    assert one.counts == other.counts
    for mine, yours in zip(one.measures, other.measures, strict=True):
        assert mine.estimate == pytest.approx(yours.estimate, abs=0.05, nan_ok=True)


def test_a_state_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="another version"):
        Judge(RULE).restore({"version": 0})


def test_requests_without_any_figure_are_no_trouble() -> None:
    judge = Judge(RULE)
    for i in range(300):
        judge.see(Seen(0.5 * i, i % 4 == 0, "s"))
        judge.look(0.5 * i)
    assert judge.look(500.0).outcome in ("not_yet", "promote")


def test_nobody_says_that_there_are_no_latencies_before_they_are_told() -> None:
    judge, source = Judge(RULE, priced=False), Source(EASY, 1)
    for i in range(20):
        for seen in source.chunk(CHUNK * i, 0.25):
            judge.see(seen._replace(ttft=math.nan, tpot=math.nan))
    said = judge.look(700.0)
    assert said.outcome == "not_yet" and "ttft" in said.why and measure(said, "errors")[3] == "ok"
    judge.price()
    for seen in islice(source.chunk(CHUNK * 20, 0.25), 40):
        judge.see(seen._replace(ttft=math.nan, tpot=math.nan))
    assert judge.look(CHUNK * 21 + 30.0).outcome == "not_yet", "too few since then"
    other = Judge(RULE)
    other.restore(json.loads(json.dumps(judge.to_state())))
    for each in (judge, other):
        for i in range(21, 31):
            for seen in source.chunk(CHUNK * i, 0.25):
                each.see(seen._replace(ttft=math.nan, tpot=math.nan))
        assert each.look(CHUNK * 31 + 30.0).outcome == "promote"
