"""The admin listener: what it shows, to whom, and what it never shows."""

import asyncio
import json
import math
import random
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import aiohttp
import pytest

from gateway import admin as admin_module
from gateway.admin import Admin, check_aiohttp
from gateway.config.types import Admin as AdminConfig
from gateway.config.types import Config, EndpointSpec, Key, KeyLimits, Pool, Rate, Secret, model_to
from gateway.core.fleet import Fleet
from gateway.core.health import Evidence, Rule
from gateway.core.prediction import PredictorReport
from gateway.core.types import Decision, Endpoint, Load, Request
from gateway.decisions import DecisionRing
from gateway.describe import masked
from gateway.gauges import Filled, Gauges, Queued
from gateway.grants import Reading
from gateway.logs import Events
from gateway.metrics import Metrics
from gateway.records import RequestRecord
from tests.support.held_output import HeldOutput

NOW = 50.0
TOKEN = "tok-a-marker-that-must-not-show"
MARKERS = (TOKEN, "sk-upstream-marker", "sk-client-marker", "hunter2")
KEY = Key(sha256(b"sk-client-marker").digest(), "acme", frozenset({"llama"}))
POOL = Pool("gpu", endpoints=(EndpointSpec("http://u:hunter2@a:1"),), api_key=Secret("sk-upstream-marker"))


class View:
    """A gateway as the listener sees it."""

    def __init__(self, token: str | None = None) -> None:
        self.config = Config(
            pools={"gpu": POOL},
            models={"llama": model_to("llama", "gpu", as_="llama-v2")},
            admin=AdminConfig(token=None if token is None else Secret(token)),
            keys=(KEY,),
            digest="d1",
        )
        self.metrics = Metrics()
        self.decisions = DecisionRing(10)
        self.log = HeldOutput()
        self.events = Events(self.log)
        self.fleet = Fleet("gpu", Rule(), random.Random(1))
        self.fleet.update(
            [Endpoint("a", "http://u:hunter2@a:1", "gpu", "vllm", labels={"gpu": "h100"}, max_concurrency=8),
             Endpoint("b", "http://b:1", "gpu", "vllm")], 0.0, fresh=True,
        )  # fmt: skip
        self.gauges = Gauges(self.fleets, clock=self.now)
        self.metrics.watch(self.gauges)
        self.work: Mapping[str, object] | None = None
        self.ready = True
        self.answer: tuple[bool, Sequence[str]] = (True, [])
        self.reloads = 0

    def fleets(self) -> Mapping[str, Fleet]:
        return {"gpu": self.fleet}

    def jobs(self) -> Mapping[str, object] | None:
        return self.work

    def limits(self) -> Sequence[Reading]:
        terms = KeyLimits(requests=Rate(10.0, 1.0))
        return [Reading("acme", 2, terms, 7.0, None, 0.0, 3, 40, {"requests": 1}, 900.0, 90.0)]

    def is_ready(self) -> bool:
        return self.ready

    def now(self) -> float:
        return NOW

    async def reload(self) -> tuple[bool, Sequence[str]]:
        self.reloads += 1
        return self.answer


class Client:
    """A view behind a real listener on a port of its own."""

    def __init__(self, view: View, url: str, session: aiohttp.ClientSession):
        self.view, self.url, self.session = view, url, session

    async def ask(self, method: str, path: str, **headers: str) -> tuple[int, Any, Mapping[str, str]]:
        async with self.session.request(method, self.url + path, headers=headers) as answer:
            body = await answer.read()
            return answer.status, json.loads(body) if answer.content_type.endswith("json") else body, answer.headers

    async def get(self, path: str, **headers: str) -> Any:
        status, body, _ = await self.ask("GET", path, **headers)
        assert status == 200, body
        return body


async def serve(view: View) -> AsyncIterator[Client]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    admin = Admin(view)
    await admin.start(sock)
    async with aiohttp.ClientSession() as session:
        yield Client(view, f"http://127.0.0.1:{sock.getsockname()[1]}", session)
    await admin.stop()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async for each in serve(View()):
        yield each


@pytest.fixture
async def guarded() -> AsyncIterator[Client]:
    async for each in serve(View(TOKEN)):
        yield each


# --- what is shown -------------------------------------------------------------------------------------------


async def test_metrics_are_prometheus_text(client: Client) -> None:
    status, body, headers = await client.ask("GET", "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b'headway_endpoint_state{endpoint="a",pool="gpu"} 0.0' in body


async def test_health_says_that_the_process_lives_and_ready_that_it_can_serve(client: Client) -> None:
    client.view.ready = False
    assert (await client.ask("GET", "/healthz"))[0] == 200
    assert (await client.ask("GET", "/readyz"))[0] == 503
    client.view.ready = True
    assert (await client.ask("GET", "/readyz"))[0] == 200


async def test_an_endpoint_is_shown_with_its_state_what_we_have_there_and_what_it_said(client: Client) -> None:
    fleet = client.view.fleet
    fleet.observe(0, Load(NOW - 2.0, waiting=3.0, running=4.0, kv_used=0.5), 0.0)
    fleet.reserve(Decision(0, ""), Request("r", "m", NOW, prompt_tokens=100.0, output_tokens=20.0), NOW)
    fleet.see(1, Evidence.FAILURE, NOW - 1.0)
    first, second = (await client.get("/api/endpoints"))["pools"]["gpu"]
    assert (first["id"], first["state"], first["inflight"], first["inflight_tokens"]) == ("a", "healthy", 1, 120.0)
    assert first["said"] == {"waiting": 3.0, "running": 4.0, "kv_used": 0.5, "kv_capacity": None, "age": 2.0}
    assert (first["limit"], first["labels"], first["leaving"], first["weight"]) == (8, {"gpu": "h100"}, False, 1.0)
    assert (second["state"], second["why"], second["since"]) == ("suspect", "1 failure", 1.0)
    assert second["said"]["waiting"] is None
    assert second["said"]["age"] is None


class Predictor:
    """As much of a predictor as the page looks at."""

    def report(self) -> PredictorReport:
        return PredictorReport(0.08, 0.91, float("nan"), float("nan"), True, 700, {1: 3.0})


async def test_how_good_a_pools_predictions_are_and_each_endpoints_pace_is_shown(client: Client) -> None:
    shown = await client.get("/api/endpoints")
    assert shown["predictors"] == {}
    assert [each["pace"] for each in shown["pools"]["gpu"]] == [None, None]
    client.view.fleet.predictor = Predictor()  # type: ignore[assignment]
    shown = await client.get("/api/endpoints")
    assert shown["predictors"] == {"gpu": {
        "calibrated": True, "samples": 700, "ttft": {"error": 0.08, "coverage": 0.91},
        "tpot": {"error": None, "coverage": None},
    }}  # fmt: skip
    assert [each["pace"] for each in shown["pools"]["gpu"]] == [None, 3.0]


async def test_a_thousand_endpoints_are_shown_while_the_loop_goes_on(client: Client) -> None:
    fleet = client.view.fleet
    fleet.update([Endpoint(f"e{i}", f"http://e{i}", "gpu", "vllm") for i in range(1000)], NOW, fresh=True)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    assert len((await client.get("/api/endpoints"))["pools"]["gpu"]) == 1000
    after_endpoints = turns
    await client.get("/metrics")
    task.cancel()
    assert after_endpoints >= 10
    assert turns - after_endpoints >= len(list(client.view.metrics.pages()))


async def test_the_configuration_is_shown_with_its_secrets_masked(client: Client) -> None:
    shown = await client.get("/api/config")
    assert shown["digest"] == "d1"
    assert shown["models"]["llama"]["as"] == "llama-v2"
    assert shown["pools"]["gpu"]["api_key"] == "…"
    assert shown["pools"]["gpu"]["endpoints"][0]["url"] == "http://…@a:1"
    assert shown["keys"] == [{"key": f"sha256:{KEY.digest.hex()[:6]}…", "tenant": "acme", "models": ["llama"],
                              "classes": None, "default_class": None, "limits": None, "arms": []}]  # fmt: skip


async def test_a_decision_is_found_by_its_request_id_and_404_says_how_many_are_kept(client: Client) -> None:
    client.view.decisions.put(RequestRecord("r-1.x_y", 0.0, 200, "complete", endpoint="a", tries=1))
    assert (await client.get("/api/decisions/r-1.x_y"))["chosen"] == "a"
    status, body, _ = await client.ask("GET", "/api/decisions/other")
    assert status == 404
    assert "last 10" in body["error"]["message"]


async def test_a_reload_that_worked_says_so_and_one_that_did_not_says_what_is_wrong(client: Client) -> None:
    status, body, _ = await client.ask("POST", "/api/reload")
    assert (status, body) == (200, {"reloaded": True, "digest": "d1"})
    client.view.answer = (False, ["gw.yaml:3:5: unknown key `pool`, did you mean `pools`?"])
    status, body, _ = await client.ask("POST", "/api/reload")
    assert status == 400
    assert body["error"]["problems"] == client.view.answer[1]
    assert client.view.reloads == 2


@pytest.mark.parametrize("path", ["/"])
async def test_what_is_not_built_yet_says_so(client: Client, path: str) -> None:
    status, body, _ = await client.ask("GET", path)
    assert status == 501
    assert "not in this version" in body["error"]["message"]


async def test_an_unknown_page_and_a_wrong_method_are_answered_in_json(client: Client) -> None:
    status, body, _ = await client.ask("GET", "/api/nothing")
    assert (status, body["error"]["code"]) == (404, "not_found")
    status, body, headers = await client.ask("GET", "/api/reload")
    assert (status, body["error"]["code"], headers["Allow"]) == (405, "method_not_allowed", "POST")
    assert client.view.reloads == 0


# --- who may see it ------------------------------------------------------------------------------------------

PROTECTED = ["/", "/api/config", "/api/endpoints", "/api/decisions/r1", "/api/queues", "/api/nothing", "/api"]


@pytest.mark.parametrize("path", PROTECTED)
@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN])
async def test_without_the_token_nothing_is_told(guarded: Client, path: str, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given}
    status, body, answer = await guarded.ask("GET", path, **headers)
    assert status == 401
    assert body["error"]["code"] == "unauthorized"
    assert answer["WWW-Authenticate"] == "Bearer"


async def test_without_the_token_nothing_is_reloaded(guarded: Client) -> None:
    assert (await guarded.ask("POST", "/api/reload"))[0] == 401
    assert guarded.view.reloads == 0


async def test_with_the_token_all_is_told(guarded: Client) -> None:
    for scheme in ("Bearer", "bearer"):
        assert (await guarded.ask("GET", "/api/config", Authorization=f"{scheme} {TOKEN}"))[0] == 200
    assert (await guarded.ask("POST", "/api/reload", Authorization=f"Bearer {TOKEN}"))[0] == 200


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
async def test_scrapers_need_no_token(guarded: Client, path: str) -> None:
    assert (await guarded.ask("GET", path))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example"},
        {"Host": "rebound.example:9090"},
    ],
)
async def test_without_a_token_a_page_of_another_site_gets_nothing(client: Client, headers: dict[str, str]) -> None:
    status, body, _ = await client.ask("POST", "/api/reload", **headers)
    assert (status, body["error"]["code"]) == (403, "foreign_origin")
    assert client.view.reloads == 0


@pytest.mark.parametrize("host", ["localhost:9090", "127.0.0.1", "[::1]:9090"])
async def test_local_programs_and_tunnels_are_no_foreigners(client: Client, host: str) -> None:
    assert (await client.ask("GET", "/api/config", Host=host, Origin=f"http://{host}"))[0] == 200


# --- what is never shown -------------------------------------------------------------------------------------


async def test_no_key_and_no_token_is_in_any_answer(guarded: Client) -> None:
    view = guarded.view
    view.metrics.finished(RequestRecord("r1", 0.0, 200, "complete", model="llama", pool="gpu", tenant="acme", tries=1))
    view.decisions.put(RequestRecord("r1", 0.0, 200, "complete", endpoint="a", tries=1))
    paths = ["/metrics", "/healthz", "/readyz", *PROTECTED]
    for path in paths:
        for headers in ({}, {"Authorization": f"Bearer {TOKEN}"}, {"Authorization": "Bearer sk-client-marker"}):
            async with guarded.session.get(guarded.url + path, headers=headers) as answer:
                seen = await answer.text() + str(answer.raw_headers)
            assert not [marker for marker in MARKERS if marker in seen], path


async def test_a_bug_is_a_500_without_its_text_and_one_line_in_the_log(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> tuple[bool, Sequence[str]]:
        raise RuntimeError("sk-upstream-marker")

    monkeypatch.setattr(client.view, "reload", broken)
    status, body, _ = await client.ask("POST", "/api/reload")
    assert (status, body["error"]["code"]) == (500, "internal_error")
    line = json.loads(client.view.log.data)
    assert (line["event"], line["error"], line["path"]) == ("admin_bug", "RuntimeError", "/api/reload")
    assert "test_admin.py:" in line["at"]
    assert "marker" not in str(body) + str(line)


def test_masking_goes_to_the_bottom_of_the_configuration() -> None:
    config = replace(View(TOKEN).config, pools={"a": POOL, "b": replace(POOL, name="b")})
    text = json.dumps(masked(config), allow_nan=False)
    assert not [marker for marker in MARKERS if marker in text]
    assert KEY.digest.hex() not in text


async def test_a_key_is_shown_with_all_that_it_may_and_only_the_start_of_its_hash(client: Client) -> None:
    _, body, _ = await client.ask("GET", "/api/config")
    key = body["keys"][0]
    assert key["key"].startswith("sha256:") and key["key"].endswith("…") and "digest" not in key
    assert {"tenant", "models", "classes", "limits"} <= set(key)
    assert body["classes"]["async"]["filler"]["slowdown"] == 0.05


async def test_queues_are_shown_by_pool_and_class_with_what_the_filler_does(client: Client) -> None:
    queues = {"interactive": Queued(3, 0.5, 1000.0, 7), "async": Queued(9, 60.0, math.nan, 0)}
    client.view.gauges.queues = lambda: {"gpu": queues}
    client.view.gauges.fillers = lambda: {"gpu": Filled(4, 2, 1.04, math.nan, 1.1, 0.8)}
    _, body, _ = await client.ask("GET", "/api/queues")
    shown = body["pools"]["gpu"]
    assert shown["classes"]["interactive"] == {"waiting": 3, "oldest": 0.5, "drain_tokens_per_s": 1000.0, "inflight": 7}
    assert shown["classes"]["async"]["drain_tokens_per_s"] is None
    assert shown["filler"]["displaced"] == 2 and shown["filler"]["slowdown"] == {"ttft": 1.04, "tpot": None}
    page = client.view.metrics.text().decode()
    assert 'headway_queue_requests{class="async"} 9.0' in page
    assert 'headway_filler_slowdown{pool="gpu",what="ttft"} 1.04' in page and 'what="tpot"} nan' not in page.lower()


async def test_what_tenants_have_left_is_shown(client: Client) -> None:
    (shown,) = (await client.get("/api/limits"))["tenants"]
    assert (shown["tenant"], shown["requests_left"], shown["tokens_left"], shown["running"]) == ("acme", 7.0, None, 3)
    assert shown["limits"]["requests"] == {"amount": 10.0, "per": 1.0} and shown["refused"] == {"requests": 1}


async def test_jobs_are_shown_or_said_not_to_be_kept(client: Client) -> None:
    status, body, _ = await client.ask("GET", "/api/jobs")
    assert (status, body["error"]["code"]) == (404, "jobs_not_configured")
    client.view.work = {"batches": {"completed": 1}}
    assert (await client.ask("GET", "/api/jobs"))[1] == {"batches": {"completed": 1}}


# --- starting ------------------------------------------------------------------------------------------------


async def test_a_socket_that_was_inherited_is_served_and_closed_with_the_listener() -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    inherited = socket.socket(fileno=socket.dup(sock.fileno()))
    sock.close()
    admin = Admin(View())
    await admin.start(inherited)
    url = f"http://127.0.0.1:{inherited.getsockname()[1]}/healthz"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 200
    await admin.stop()
    await admin.stop()
    assert inherited.fileno() == -1


def test_it_does_not_start_on_an_aiohttp_with_known_holes_or_without_its_c_parser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_aiohttp()
    monkeypatch.setattr(admin_module.aiohttp, "__version__", "3.14.2")
    with pytest.raises(RuntimeError, match=r"install 3\.14\.3 or newer"):
        check_aiohttp()
    monkeypatch.setattr(admin_module.aiohttp, "__version__", "3.15.0rc1")
    monkeypatch.setattr(admin_module.http_parser, "HttpRequestParser", admin_module.http_parser.HttpRequestParserPy)
    with pytest.raises(RuntimeError, match="without its C parser"):
        check_aiohttp()
