"""Tenants' limits tried on recorded requests: who would have been refused, by the gateway's own limiter."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from gateway.config.loader import load_bytes
from gateway.config.types import Config
from gateway.plan.limits import Denied, denied
from gateway.plan.records import Past, Route
from gateway.plan.replay import Replay

KEY = "sha256:" + hashlib.sha256(b"k").hexdigest()


def config(**limits: Any) -> Config:
    content = {"version": 1, "pools": {"p": {"endpoints": ["http://10.0.0.1:8000"]}}, "models": {"m": {"to": "p"}},
               "keys": {KEY: {"tenant": "acme", "limits": limits}}}  # fmt: skip
    return load_bytes(json.dumps(content).encode(), "headway.yaml", {}).config


def past(at: float, tokens: float = 100.0, written: float = 50.0, duration: float = 1.0) -> Past:
    route = Route("m", path="/v1/completions", key=KEY, prompt_tokens=tokens, klass="")
    return Past(f"r{at}", 1.7e9 + at, "m", "p", klass="interactive", tenant="acme", prompt_tokens=tokens,
                completion_tokens=written, duration=duration, route=route)  # fmt: skip


def tried(used: Config, pasts: list[Past]) -> list[Denied]:
    replay = Replay(used)
    return denied(used, [replay.judge(one) for one in pasts])


def test_requests_at_once_are_counted_as_they_ran() -> None:
    pasts = [past(0.0, duration=2.0), past(1.0, duration=2.0), past(2.5, duration=2.0)]
    found = tried(config(concurrency=1), pasts)
    assert [one.past for one in found] == [pasts[1]]
    assert found[0].tenant == "acme" and "1 requests at once" in found[0].why and not found[0].shadow


def test_a_rate_refuses_the_burst_and_not_what_comes_later() -> None:
    pasts = [past(0.1 * n) for n in range(8)] + [past(60.0)]
    found = tried(config(requests="5/m"), pasts)
    assert [one.past for one in found] == pasts[5:8]


def test_tokens_are_settled_with_what_was_used() -> None:
    cheap, dear = ([past(3.0 * n, 100.0, written) for n in range(10)] for written in (10.0, 900.0))
    limits = config(tokens="4000/h")
    assert not tried(limits, cheap)
    assert len(tried(limits, dear)) == 6


def test_limits_in_shadow_are_tried_and_said_to_be() -> None:
    found = tried(config(concurrency=1, shadow=True), [past(0.0, duration=9.0), past(1.0)])
    assert len(found) == 1 and found[0].shadow


def test_one_that_was_refused_then_is_taken_to_run_as_long_as_others() -> None:
    refused = replace(past(0.5), status=429, ended="rejected", completion_tokens=float("nan"))
    pasts = [past(0.0, duration=0.4), refused, past(1.0, duration=0.4), past(2.0, duration=0.4)]
    assert not tried(config(concurrency=1), pasts[:2])
    assert [round(one.past.at - 1.7e9, 3) for one in tried(config(concurrency=1), [*pasts[:2], past(0.7)])] == [0.7]


def test_without_limits_nobody_is_refused() -> None:
    assert tried(config(requests="1000/s"), [past(0.0)]) == []


def test_limits_that_did_not_change_refuse_who_they_refused() -> None:
    used = config(concurrency=1)
    refused = replace(past(0.2), status=429, ended="rejected", code="tenant_limit", tries=0)
    pasts = [past(0.0, duration=9.0), refused, past(0.5)]
    replay = Replay(used)
    judged = [replay.judge(one) for one in pasts]
    assert [one.past for one in denied(used, judged, used)] == [refused]
    assert len(denied(used, judged, config(concurrency=2))) == 2
    assert [one.past for one in denied(used, judged)] == pasts[1:]
