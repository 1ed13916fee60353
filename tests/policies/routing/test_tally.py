"""Blocks of seconds in which two arms are set side by side."""

from __future__ import annotations

import json
import math
import random

import pytest

from policies.routing.seen import Seen
from policies.routing.tally import LONGEST, Tally
from tests.support.drawn_rollouts import CHUNK, Source, Truth


def filled(truth: Truth | None = None, seconds: float = 300.0, share: float = 0.2, seed: int = 1) -> Tally:
    tally, source = Tally(), Source(truth or Truth(), seed)
    for i in range(int(seconds / CHUNK)):
        for seen in source.chunk(CHUNK * i, share):
            tally.see(seen)
    return tally


def test_every_request_is_counted_once() -> None:
    tally, source = Tally(), Source(Truth(), 3)
    requests = [seen for i in range(10) for seen in source.chunk(CHUNK * i, 0.2)]
    for seen in requests:
        tally.see(seen)
    tally.close_until(1e6)
    assert tally.counts == [sum(not seen.is_canary for seen in requests), sum(seen.is_canary for seen in requests)]
    errors = tally.bets["errors"]
    assert [errors.stable, errors.canary] == tally.counts
    assert errors.stable_failed == sum(seen.failed for seen in requests if not seen.is_canary)
    assert errors.canary_failed == sum(seen.failed for seen in requests if seen.is_canary)


def test_what_both_arms_share_cancels() -> None:
    tally, draw = Tally(), random.Random(1)
    for i in range(6000):
        at = i / 10.0
        busy = 2.0 if int(at) % 60 < 20 else 0.0
        tally.see(Seen(at, i % 10 == 0, f"s{i % 3}", ttft=busy + draw.gauss(0.0, 0.1)))
    assert abs(tally.differences["ttft"].estimate) < 0.03


def test_an_arm_that_is_seldom_seen_is_waited_for() -> None:
    tally = Tally()
    for i in range(400):
        tally.see(Seen(i * 0.5, i % 10 == 9, "s", ttft=0.1, share=0.1))
    assert tally.differences["ttft"].pairs > 25
    moved = tally.moved
    tally.close_until(200.0 + LONGEST)
    tally.close_until(200.0 + 2 * LONGEST + 0.1)
    assert tally.moved > moved


def test_failures_on_one_server_in_one_second_are_one_for_harm_and_all_of_them_for_promotion() -> None:
    one, many = Tally(), Tally()
    for tally, endpoints in ((one, ["c0"] * 5), (many, [f"c{i}" for i in range(5)])):
        for i in range(100):
            tally.see(Seen(0.001 * i, False, "s", share=0.05))
        for endpoint in endpoints:
            tally.see(Seen(0.5, True, endpoint, failed=True, share=0.05))
        tally.close_until(20.0)
    assert one.bets["errors"].canary_failed == many.bets["errors"].canary_failed == 5
    assert one.bets["errors"].better(0.005) == pytest.approx(many.bets["errors"].better(0.005))
    assert one.bets["errors"].harm() < many.bets["errors"].harm() - 4.0


def test_a_user_whose_requests_always_fail_is_one_failure_a_minute() -> None:
    same, others = Tally(), Tally()
    for tally in (same, others):
        for i in range(40):
            at = 1.2 * i
            for _ in range(9):
                tally.see(Seen(at, False, "s", share=0.1))
            tally.see(Seen(at, True, "c", failed=True, user=7 if tally is same else i + 1, share=0.1))
        tally.close_until(200.0)
    assert same.bets["errors"].harm() < math.log(20.0) < others.bets["errors"].harm()


def test_a_first_token_far_beyond_what_is_usual_is_bet_on_like_a_failure() -> None:
    tally = filled(Truth(ttft=3.0), seconds=180.0)
    assert tally.bets["slow"].estimate > 0.3
    assert tally.bets["slow"].harm() > math.log(1000.0)


def test_without_a_share_that_was_told_it_is_taken_from_the_traffic() -> None:
    tally, draw = Tally(), random.Random(2)
    for i in range(8000):
        tally.see(Seen(i / 10.0, draw.random() < 0.3, "s", failed=draw.random() < 0.02))
    assert tally.bets["errors"].harm() < math.log(5.0)


def test_servers_of_the_stable_arm_are_set_against_each_other_at_the_canarys_rate() -> None:
    tally = filled(seconds=600.0, share=0.05)
    total = tally.differences["ttft"].total
    canary, servers = total[0, 1], total[1:, 1]
    assert sum(servers > 0.0) == 4
    assert all(0.5 * canary < weight < 1.5 * canary for weight in servers[servers > 0.0])


def test_a_state_goes_through_json() -> None:
    tally, other = filled(), Tally()
    other.restore(json.loads(json.dumps(tally.to_state())))
    assert other.to_state() == tally.to_state()
