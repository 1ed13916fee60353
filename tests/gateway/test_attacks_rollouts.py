"""What clients and failing servers could do to rules, rollouts and adapters."""

from __future__ import annotations

import asyncio
import json
import math
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.ask import Facts
from gateway.config.types import Arm, CanaryRule, Lora, Model, Route, Slo, model_to, one_route
from gateway.core.errors import Refused
from gateway.core.types import Request
from gateway.decisions import DecisionRing
from gateway.metrics import Metrics
from gateway.mirrors.discard import Discard
from gateway.peek import peek, worded
from gateway.proxy import Proxy
from gateway.rollouts.witness import Witness
from policies.routing import Way
from tests.support.client import Answer, chat
from tests.support.gateway import Running, config, one, pool
from tests.support.loop import on_uvloop, until
from tests.support.upstream import Upstream, answer, whole

GOOD = answer(b'{"model":"m","choices":[{"finish_reason":"stop"}],"usage":{"completion_tokens":5}}')


async def ask(path: str, body: bytes, model: Model) -> Answer:
    async with Upstream(whole(GOOD)) as up, Running(config(pool([up]), models=[model])) as gateway:
        async with gateway.client() as client:
            said = await client.ask(path, body)
        await gateway.settled()
        return said


# --- what does not fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["9" * 400, "-1000000000", "-1", "0"])
def test_no_limit_of_an_answer_is_too_large_for_a_float_or_below_one(said: str) -> None:
    limit = peek(b'{"model":"m","max_tokens":%b}' % said.encode()).limit
    assert limit is None or 0.0 < float(limit) < 1e16


@on_uvloop
async def test_an_absurd_limit_is_the_model_servers_to_refuse_and_no_bug() -> None:
    body = b'{"model":"m","max_tokens":%b,"messages":[]}' % (b"9" * 400)
    said, _ = await one(b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-length: %d\r\n\r\n%b"
                        % (len(body), body), upstream=Upstream(whole(GOOD)))  # fmt: skip
    assert said.status == 200


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/embeddings", {"input": ["word " * 50] * 40}),
        ("/v1/completions", {"prompt": ["word " * 50] * 40}),
        ("/v1/completions", {"prompt": [12345] * 90}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "word " * 2000}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 50_000}}]}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [
            {"type": "input_audio", "input_audio": {"data": "A" * 50_000, "format": "wav"}}]}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "\u6f22" * 90}]}),
    ],
)  # fmt: skip
@on_uvloop
async def test_what_may_fit_after_all_is_not_refused_for_its_bytes(path: str, fields: dict[str, object]) -> None:
    body = json.dumps({"model": "m", **fields}).encode()
    assert (await ask(path, body, model_to("m", "p", max_context=100))).status == 200


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 100_000}},
        {"type": "input_audio", "input_audio": {"data": "A" * 100_000, "format": "wav"}},
    ],
)
def test_an_image_is_worth_no_more_than_a_page_of_words(part: dict[str, object]) -> None:
    for separators in ((",", ":"), (", ", ": ")):
        text = json.dumps([{"role": "user", "content": [part, part, {"type": "text", "text": "w" * 5000}]}],
                          separators=separators).encode()  # fmt: skip
        assert 5000 < worded(text) < 15_000
    assert worded(b'["base64,' + b"w" * 100_000) > 100_000, "what does not end is no image"


@on_uvloop
async def test_a_text_that_cannot_fit_is_still_refused() -> None:
    body = chat("m", messages=[{"role": "user", "content": "word " * 2000}])
    said = await ask("/v1/chat/completions", body, model_to("m", "p", max_context=100))
    assert said.status == 400 and said.error["code"] == "context_length_exceeded"


# --- adapters ------------------------------------------------------------------------------------------------------


def adapter(name: str, route: Route) -> Model:
    return Model(name, (route,), lora=Lora(f"/adapters/{name}"))


@on_uvloop
async def test_an_adapter_that_cannot_be_loaded_speaks_against_its_arm() -> None:
    arms = (Arm("stable", "old", as_="m-1"), Arm("next", "new", as_="m-2"))
    route = Route(arms, "rollout", canary=CanaryRule("next", steps=(0.5, 1.0), hold=1000.0))
    models = [Model("m", (route,)), adapter("m-1", one_route("old")), adapter("m-2", one_route("new"))]
    async with (
        Upstream(whole(GOOD)) as old, Upstream(whole(answer(b"no such folder", 400))) as new,
        Running(config(pool([old], "old"), pool([new], "new"), models=models)) as gateway, gateway.client() as client,
    ):  # fmt: skip
        await until(lambda: gateway.gateway.canaries.share("m", "rollout"), "the first step")
        said = [await client.ask("/v1/chat/completions", chat("m")) for _ in range(8)]
        assert {one.status for one in said} == {200, 503}
        found: Any = gateway.gateway.canaries.report("m")["canary"]
        failed = {arm["arm"]: arm["failed"] for arm in found["arms"]}
        assert failed == {"stable": 0, "next": sum(one.status == 503 for one in said)}
        loads = [json.loads(one.body) for one in old.requests if b"lora" in one.target]
        assert loads == [{"lora_name": "m-1", "lora_path": "/adapters/m-1"}], "each by the path of its own model"


@on_uvloop
async def test_an_adapter_is_loaded_in_the_fallback_where_its_own_pool_is_away() -> None:
    async with (
        Upstream(whole(GOOD)) as up,
        Running(config(pool(["http://127.0.0.1:9"], "gone"), pool([up], "spare"),
                       models=[adapter("m", one_route("gone", ("spare",)))])) as gateway,
        gateway.client() as client,
    ):  # fmt: skip
        said = await client.ask("/v1/chat/completions", chat("m"))
        assert said.status == 200 and said.named["x-headway-pool"] == "spare"
        assert [one.target for one in up.requests] == [b"/v1/load_lora_adapter", b"/v1/chat/completions"]


# --- rollouts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "asked", "failed"),
    [("/v1/responses", "m", 0), ("/v1/chat/completions", "m", 1), ("/v1/chat/completions", "invented", 0)],
)
@on_uvloop
async def test_what_a_client_names_that_is_not_there_is_no_failure_of_a_canary(path: str, asked: str,
                                                                               failed: int) -> None:  # fmt: skip
    route = Route((Arm("stable", "old"), Arm("next", "new")), "rollout",
                  canary=CanaryRule("next", steps=(0.9, 1.0), hold=1000.0))  # fmt: skip
    models = [Model(name, (route,)) for name in ("m", "*")]
    body = json.dumps({"model": asked, "input": "hi", "messages": [], "previous_response_id": "resp_0"}).encode()
    async with (
        Upstream(whole(answer(b"{}", 404))) as old, Upstream(whole(answer(b"{}", 404))) as new,
        Running(config(pool([old], "old"), pool([new], "new"), models=models)) as gateway, gateway.client() as client,
    ):  # fmt: skip
        model = "m" if asked == "m" else "*"
        await until(lambda: gateway.gateway.canaries.share(model, "rollout"), "the first step")
        for _ in range(4):
            assert (await client.ask(path, body)).status == 404
        await gateway.settled()
        found: Any = gateway.gateway.canaries.report(f"{model}/rollout")["canary"]
        assert sum(arm["failed"] for arm in found["arms"]) == 4 * failed


@pytest.mark.parametrize(
    ("ttft", "tpot", "sooner"), [(0.5, math.nan, False), (0.001, math.nan, True), (0.5, 0.01, True)]
)
def test_a_refusal_for_the_clients_own_wish_is_no_failure_of_a_canary(ttft: float, tpot: float, sooner: bool) -> None:
    told: list[str] = []
    canaries: Any = SimpleNamespace(missed=lambda model, rule, arm, code, *rest: told.append(code))
    witness = Witness(canaries)
    ask: Any = SimpleNamespace(
        request=Request("r", "m", 0.0, ttft_slo=ttft, tpot_slo=tpot), model=model_to("m", "p", slo=Slo(ttft=0.5)),
        way=Way("next", ("p",), 0.0, None, "rollout"), share=0.5,
    )  # fmt: skip
    for code in ("slo", "queue_full"):
        witness.missed(ask, Facts(), code, 0.0)
    assert told == (["queue_full"] if sooner else ["slo", "queue_full"])


@pytest.mark.parametrize(("tries", "counted"), [(0, ["queue_full"]), (1, [])])
def test_one_request_fails_its_arm_once(tries: int, counted: list[str]) -> None:
    told: list[str] = []
    canaries: Any = SimpleNamespace(missed=lambda model, rule, arm, code, *rest: told.append(code))

    def refuse(*_: object) -> None:
        raise Refused("full", reason="queue_full")

    full: Any = SimpleNamespace(visit=lambda *_: None, desk=SimpleNamespace(offer=refuse))
    proxy, facts = Proxy({"p": full}, Metrics(version=""), DecisionRing(1, None), "url", canaries), Facts()
    facts.tries = tries
    ask: Any = SimpleNamespace(model=model_to("m", "p"), way=Way("next", ("p",), 0.0, None, "rollout"), share=0.5,
                               upstream_model="m", request=None)  # fmt: skip
    with pytest.raises(Refused):
        asyncio.run(proxy.serve(ask, Discard(), facts))
    assert told == counted
