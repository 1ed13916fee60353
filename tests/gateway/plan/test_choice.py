"""Choices of endpoints made again from recorded tables, for every policy that ships."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from gateway.config.types import Pick
from gateway.core.prediction import Prior
from gateway.core.predictor import Predictor
from gateway.core.types import Decision, Outcome, Request
from gateway.decisions import DecisionRing, describe
from gateway.plan.choice import eligible
from gateway.plan.records import Candidate, Past, past_of
from gateway.records import RequestRecord
from policies.picking import create
from tests.support.fleets import make_fleet

POLICIES = ("round_robin", "least_inflight", "least_tokens", "power_of_two", "session_hash", "prefix_affinity",
            "sticky_until_saturated", "uncached_tokens", "lmetric", "dynamo_kv", "predicted_ttft", "predicted_latency",
            "llmd_predicted", "sglang_cache_aware")  # fmt: skip


def table(*rows: tuple[str, float | None], **more: Any) -> Past:
    candidates = tuple(Candidate(name, math.nan if score is None else score, 10.0 * number, 0.0)
                       for number, (name, score) in enumerate(rows))  # fmt: skip
    return Past("r", 0.0, **{"candidates": candidates, "chosen": rows[0][0], "policy": "least_tokens", **more})


def test_the_lowest_score_is_the_choice() -> None:
    assert eligible(table(("a", 3.0), ("b", 1.0), ("c", 2.0)), {}) == ["b"]


def test_what_was_not_compared_is_never_it() -> None:
    assert eligible(table(("a", None), ("b", 9.0)), {}) == ["b"]
    assert eligible(table(("a", None), ("b", None)), {}) is None


def test_two_choices_with_equal_requests_go_by_tokens() -> None:
    assert eligible(table(("a", 2.0), ("b", 2.0), ("c", None), policy="power_of_two"), {}) == ["a"]


def test_a_wider_tie_among_the_options_leaves_more_than_one() -> None:
    past = table(("a", 100.0), ("b", 104.0), ("c", 120.0), policy="prefix_affinity")
    assert eligible(past, {}) == ["a"]
    past = table(("a", 1.0), ("b", 1.03), ("c", 1.5), policy="predicted_ttft")
    assert eligible(past, {"tie": 0.05}) == ["a", "b"]


def test_a_policy_that_draws_may_have_drawn_any() -> None:
    past = table(("a", 1.0), ("b", 5.0), policy="dynamo_kv")
    assert eligible(past, {}) == ["a"] and eligible(past, {"temperature": 0.5}) == ["a", "b"]


@pytest.mark.parametrize("policy", POLICIES)
def test_what_a_policy_chose_is_among_what_it_may_choose(policy: str) -> None:
    """A few hundred picks of the real policy in a fleet whose load changes with them."""
    fleet = make_fleet(6)
    made = create(policy, Pick().options)
    if made.predicts:
        fleet.predictor = Predictor(Prior())
        fleet.predictor.take_over(fleet)
    ring, encode = DecisionRing(0), msgspec.json.Encoder().encode
    running: list[tuple[Any, Request]] = []
    determined = 0
    for number in range(300):
        now = 0.05 * number
        prompt = b"tell me of %d " % (number % 9) * 60
        request = Request(str(number), "m", now, prompt, 200.0 + 40.0 * (number % 7), 50.0, True, f"s{number % 5}",
                          may_wait=False)  # fmt: skip
        snapshot = fleet.snapshot(now)
        decision: Decision = made.pick(request, snapshot)
        kept = ring.capture(snapshot, decision, made.TERMS)
        record = RequestRecord(str(number), now, 200, "complete", policy=policy, reason=decision.reason,
                               endpoint=fleet.endpoint(decision.row).id, candidates=kept)  # fmt: skip
        past = past_of(msgspec.json.decode(encode(describe(record))))
        among = eligible(past, {})
        assert among is not None and past.chosen in among, (number, past.reason, past.candidates)
        determined += len(among) == 1
        running.append((fleet.reserve(decision, request, now), request))
        if len(running) > 12:
            place, done = running.pop(0)
            place.first_token(now)
            outcome = Outcome(done, place.endpoint, place.row, 200, "complete", 0.5, 0.1, done.prompt_tokens, 0.0, 30.0)
            place.settle(now, outcome)
            made.observe(outcome)
    assert determined > 30

