"""The client side: limits, classes, deadlines and promises, and what happens when something goes wrong."""

from __future__ import annotations

import hashlib
import math
import time
from typing import Any

import pytest

from gateway.config.types import (
    EndpointSpec,
    Key,
    KeyLimits,
    Model,
    QueueRule,
    Rate,
    Slo,
    TrafficClass,
    model_to,
)
from tests.support.client import chat, post
from tests.support.gateway import Running, config, one, pool
from tests.support.loop import on_uvloop, until
from tests.support.upstream import Upstream, answer, hang, whole

# --- limits ------------------------------------------------------------------------------------------------------


def limited(**more: Any) -> Key:
    return Key(hashlib.sha256(b"sk-limited").digest(), "acme", limits=KeyLimits(**more))


@on_uvloop
async def test_a_request_is_charged_what_it_used_and_its_answer_tells_what_is_left() -> None:
    lines, long = ("Authorization: Bearer sk-limited",), chat(max_tokens=50)
    async with Upstream() as up:
        made = config(pool([up]), keys=(limited(tokens=Rate(1000.0, 60.0), reserve="max_tokens"),))
        async with Running(made) as gateway, gateway.client() as client:
            said = await client.ask("/v1/chat/completions", long, *lines)
            reserved = 1000 - int(said.named["x-ratelimit-remaining-tokens"])
            assert said.status == 200 and reserved == 50 + len(long)
            await gateway.settled(1)
            (reading,) = gateway.gateway.limiter.readings(time.monotonic())
            assert (reading.charged, reading.estimated, reading.running) == (5.0, 0.0, 0)
            said = await client.ask("/v1/chat/completions", chat(), *lines)
            assert (said.status, said.error["code"]) == (400, "max_tokens_needed")
            said = await client.ask("/v1/chat/completions", chat(max_tokens=5000), *lines)
            assert said.status == 429 and said.named["x-should-retry"] == "false"
            assert said.named["x-headway-reason"] == "tenant_limit" and "x-ratelimit-limit-tokens" in said.named


@on_uvloop
async def test_a_request_that_fails_is_not_charged() -> None:
    async with Upstream(whole(answer(b"{}", 500))) as up:
        made = config(pool([up]), keys=(limited(tokens=Rate(1000.0, 60.0)),))
        async with Running(made) as gateway, gateway.client() as client:
            said = await client.ask("/v1/chat/completions", chat(), "Authorization: Bearer sk-limited")
            assert said.status == 500
            await gateway.settled(1)
            (reading,) = gateway.gateway.limiter.readings(time.monotonic())
            assert (reading.charged, reading.running) == (0.0, 0)


@on_uvloop
async def test_refusals_and_errors_tell_what_is_left_of_the_limits_too() -> None:
    line = "Authorization: Bearer sk-limited"
    classes = {"interactive": TrafficClass("interactive", True, 10, QueueRule(1, 0.0, "fifo"))}
    async with Upstream(whole(answer(b"{}", 500))) as up:
        narrow = pool([up], endpoints=(EndpointSpec(up.url, max_concurrency=1),))
        made = config(narrow, keys=(limited(requests=Rate(100, 60.0)),), classes=classes)
        async with Running(made) as gateway, gateway.client() as client, gateway.client() as other:
            engines = await client.ask("/v1/chat/completions", chat(), line)
            up.script[0] = hang()
            other.send(post(chat(), "/v1/chat/completions", line))
            await until(lambda: up.posts == 2)
            full = await client.ask("/v1/chat/completions", chat(), line)
    assert (engines.status, full.status, full.error["code"]) == (500, 429, "queue_timeout")
    assert [said.named["x-ratelimit-remaining-requests"] for said in (engines, full)] == ["99", "97"]


# --- classes and deadlines ---------------------------------------------------------------------------------------

FAST = Key(hashlib.sha256(b"sk-fast").digest(), "acme", classes=frozenset({"interactive"}))


@on_uvloop
async def test_a_request_is_of_the_class_it_asks_for_if_its_key_may_use_it() -> None:
    for klass, *lines in (("interactive",), ("async", "x-headway-class: async"),
                          ("async", "x-llm-d-inference-objective: async"),
                          ("interactive", "x-gateway-inference-objective: gold")):  # fmt: skip
        said, gateway = await one(post(chat(), "/v1/chat/completions", *lines))
        assert said.status == 200 and gateway.last.klass == klass, lines
    auth = "Authorization: Bearer sk-fast"
    said, gateway = await one(post(chat(), "/v1/chat/completions", auth, "x-headway-class: async"), keys=(FAST,))
    assert (said.status, said.error["code"]) == (403, "class_not_allowed") and "interactive" in said.error["message"]
    said, gateway = await one(post(chat(), "/v1/chat/completions", "x-headway-class: gold"))
    assert (said.status, said.error["code"]) == (400, "unknown_class") and gateway.last.klass == ""


@on_uvloop
async def test_what_a_model_promises_it_does_not_promise_to_filler() -> None:
    for klass, lines, ttft in (("interactive", (), 0.5), ("async", (), math.nan),
                               ("async", ("x-headway-ttft-slo: 2s",), 2.0)):  # fmt: skip
        asked = (f"x-headway-class: {klass}", *lines)
        _, gateway = await one(post(chat(), "/v1/chat/completions", *asked), models=PROMISED)
        assert gateway.last.ttft_slo == pytest.approx(ttft, nan_ok=True), klass


@on_uvloop
async def test_what_is_no_time_is_no_deadline() -> None:
    for value in ("soon", "-2s", "2", "2030-01-31T12:00:00", "2030-13-31T12:00:00Z"):
        said, _ = await one(post(chat(), "/v1/chat/completions", f"x-headway-deadline: {value}"))
        assert (said.status, said.error["code"]) == (400, "invalid_value")
        assert "x-headway-deadline" in said.error["message"]
    for value in ("30s", "2190-01-31T12:00:00Z", "2190-01-31t12:00:00.5+02:00"):
        said, _ = await one(post(chat(), "/v1/chat/completions", f"x-headway-deadline: {value}"))
        assert said.status == 200, value


PROMISED = (model_to("m", "p", slo=Slo(ttft=0.5, tpot=0.04)),)
BAD_JSON = b'{"model":"nope"'


@pytest.mark.parametrize(
    ("models", "lines", "ttft", "tpot"),
    [
        ((), (), math.nan, math.nan),
        (PROMISED, (), 0.5, 0.04),
        (PROMISED, ("x-headway-ttft-slo: 250ms", "X-Headway-TPOT-SLO: 1s"), 0.25, 0.04),
        ((), ("x-headway-ttft-slo: 1.5m", "x-slo-tpot-ms: 12.5"), 90.0, 0.0125),
        ((model_to("m", "p", slo=Slo(tpot=0.04)),), ("x-llm-d-slo-ttft-ms: 300", "x-llm-d-slo-tpot-ms: 30"), 0.3, 0.03),
        (PROMISED, ("x-slo-ttft-ms: 400", "x-headway-ttft-slo: 300ms", "x-llm-d-slo-ttft-ms: 900"), 0.3, 0.04),
        (PROMISED, ("x-slo-ttft-ms: 400", "x-slo-ttft-ms: 450"), 0.4, 0.04),
    ],
)
def test_a_request_has_the_models_promise_and_a_header_may_only_tighten_it(
    models: tuple[Model, ...], lines: tuple[str, ...], ttft: float, tpot: float
) -> None:
    @on_uvloop
    async def run() -> None:
        up = Upstream()
        said, gateway = await one(post(None, "/v1/chat/completions", *lines), upstream=up, models=models)
        assert said.status == 200
        record = gateway.last
        assert [record.ttft_slo, record.tpot_slo] == pytest.approx([ttft, tpot], nan_ok=True)
        assert not [name for name, _ in up.requests[0].fields if b"slo" in name]

    run()


@pytest.mark.parametrize(
    "line", ["x-headway-ttft-slo: 500", "x-headway-tpot-slo: soon", "x-slo-ttft-ms: 250ms", "x-slo-tpot-ms: 0",
             "x-llm-d-slo-ttft-ms: -5", "X-LLM-D-SLO-TPOT-MS: NaN", "x-headway-ttft-slo: 0s", "x-slo-ttft-ms: "],
)  # fmt: skip
def test_a_latency_that_is_none_is_a_400_that_names_its_header_before_the_body_is_read(line: str) -> None:
    @on_uvloop
    async def run() -> None:
        said, gateway = await one(post(BAD_JSON, "/v1/chat/completions", line), models=PROMISED)
        assert (said.status, said.error["code"], gateway.last.ended) == (400, "invalid_value", "rejected")
        assert line.partition(":")[0].lower() in said.error["message"]

    run()


@on_uvloop
async def test_other_preferences_are_no_reason_to_refuse() -> None:
    said, _ = await one(post(chat(), "/v1/chat/completions", "Prefer: wait=10"))
    assert said.status == 200


@on_uvloop
async def test_a_bug_of_ours_before_the_story_begins_is_a_500_with_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Upstream() as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        monkeypatch.setattr(gateway.gateway.front.intake, "of_request", lambda *_: 1 / 0)
        assert (await client.ask()).error["code"] == "internal_error"
        await gateway.settled(1)
        assert gateway.last.status == 500
        monkeypatch.undo()
        assert (await client.ask(body=chat(max_tokens=10**400))).status == 200


@on_uvloop
async def test_a_billion_answers_to_one_request_are_refused() -> None:
    said, _ = await one(post(chat(n=10**9)))
    assert said.status == 400 and b"answers" in said.body
