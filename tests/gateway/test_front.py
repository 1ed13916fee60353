"""The client side: what is served to whom, in which order it is checked, and how every no is worded."""

from __future__ import annotations

import hashlib
import json
from ipaddress import ip_network
from typing import Any

import pytest

from gateway.config.types import Key, model_to
from tests.support.client import Answer, Client, chat, post
from tests.support.gateway import Running, config, limits, one, pool
from tests.support.loop import on_uvloop
from tests.support.upstream import Upstream, answer, sse, whole

ALIASED = model_to("real", "p", aliases=("alias", "gpt-4o-mini"), patterns=("llama-*",))


def key(secret: str, tenant: str = "acme", models: frozenset[str] | None = None) -> Key:
    return Key(hashlib.sha256(secret.encode()).digest(), tenant, models)


# --- who may what ------------------------------------------------------------------------------------------------


KEYS = (key("sk-all"), key("sk-some", "testers", frozenset({"m"})))
TWO = (model_to("m", "p", aliases=("alias-of-m",)), model_to("other", "p"))


@on_uvloop
async def test_without_keys_everybody_is_anonymous() -> None:
    said, gateway = await one(post())
    assert said.status == 200 and gateway.last.tenant == "anonymous"


@on_uvloop
async def test_a_missing_and_a_wrong_key_get_the_same_401() -> None:
    bodies = set()
    for line in ([], ["Authorization: Bearer sk-wrong"], ["x-api-key: "], ["Authorization: Basic sk-all"]):
        said, gateway = await one(post(None, "/v1/chat/completions", *line), keys=KEYS)
        assert said.status == 401
        bodies.add(said.body)
        assert "sk-wrong" not in said.body.decode() + repr(gateway.records.all)
    assert len(bodies) == 1 and json.loads(bodies.pop())["error"]["type"] == "authentication_error"


@on_uvloop
async def test_a_key_in_any_of_three_headers_opens_and_never_goes_upstream() -> None:
    for line in ("Authorization: Bearer sk-some", "x-api-key: sk-some", "api-key: sk-some"):
        up = Upstream()
        said, gateway = await one(post(None, "/v1/chat/completions", line), upstream=up, keys=KEYS, models=TWO)
        assert said.status == 200 and gateway.last.tenant == "testers"
        assert b"sk-some" not in repr(up.requests).encode()


@on_uvloop
async def test_a_model_the_key_may_not_use_is_403_and_an_unknown_one_404_with_close_names() -> None:
    auth = "Authorization: Bearer sk-some"
    said, _ = await one(post({"model": "other"}, "/v1/chat/completions", auth), keys=KEYS, models=TWO)
    assert (said.status, said.error["code"], said.error["type"]) == (403, "model_not_allowed", "permission_error")
    said, _ = await one(post({"model": "othr"}, "/v1/chat/completions", auth), keys=KEYS, models=TWO)
    assert (said.status, said.error["code"], said.error["param"]) == (404, "model_not_found", "model")
    assert "othr" in said.error["message"]
    said, _ = await one(post({"model": "alias-of"}), models=TWO)
    assert "alias-of-m" in said.error["message"]


@on_uvloop
async def test_the_upstream_gets_its_own_key() -> None:
    from gateway.config.types import Secret

    async with Upstream() as up:
        made = config(pool([up], api_key=Secret("sk-upstream")), keys=KEYS)
        async with Running(made) as gateway, gateway.client() as client:
            assert (await client.ask("/v1/chat/completions", None, "Authorization: Bearer sk-all")).status == 200
        assert up.requests[0].named[b"authorization"] == b"Bearer sk-upstream"


# --- the order of checks ------------------------------------------------------------------------------------------


BAD_JSON = b'{"model":"nope"'


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (post(BAD_JSON, "/nowhere", "Content-Length: 3"), 400, "bad_framing"),
        (post(b"x" * 2000, "/nowhere"), 413, "body_too_large"),
        (post(BAD_JSON, "/nowhere"), 404, "unknown_path"),
        (post(BAD_JSON, "/v1/chat/completions").replace(b"POST", b"PUT"), 405, "method_not_allowed"),
        (post(BAD_JSON), 401, "invalid_api_key"),
        (post(BAD_JSON, "/v1/chat/completions", "Authorization: Bearer sk-all", "Content-Encoding: gzip"), 415,
         "content_encoding"),
        (post(BAD_JSON, "/v1/chat/completions", "Authorization: Bearer sk-all"), 400, "invalid_json"),
        (post({}, "/v1/chat/completions", "Authorization: Bearer sk-all"), 400, "model_missing"),
        (post({"model": "nope"}, "/v1/chat/completions", "Authorization: Bearer sk-all"), 404, "model_not_found"),
    ],
)  # fmt: skip
def test_checks_come_in_the_order_framing_limits_path_key_json_model(raw: bytes, status: int, code: str) -> None:
    @on_uvloop
    async def run() -> None:
        up = Upstream()
        said, gateway = await one(raw, upstream=up, keys=KEYS, limits=limits(body=1000))
        assert (said.status, said.error["code"]) == (status, code)
        assert (gateway.last.status, gateway.last.code, gateway.last.ended) == (status, code, "rejected")
        assert gateway.last.request_id == said.named["x-request-id"]
        assert not up.requests and said.named["content-type"] == "application/json" and said.named["x-request-id"]

    run()


# --- shapes of errors ---------------------------------------------------------------------------------------------


@on_uvloop
async def test_errors_have_the_shape_of_the_paths_sdk() -> None:
    shapes = {}
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses"):
        said, _ = await one(post({"model": "nope"}, path))
        assert said.status == 404
        shapes[path] = said.json()
    assert set(shapes["/v1/chat/completions"]["error"]) == {"message", "type", "code", "param"}
    assert shapes["/v1/messages"]["type"] == "error"
    assert set(shapes["/v1/messages"]["error"]) == {"type", "message"}
    assert shapes["/v1/messages"]["error"]["type"] == "not_found_error"
    assert set(shapes["/v1/responses"]["error"]) == {"message", "type", "code", "param"}
    said, _ = await one(post({}, "/v2/models/nope/infer"))
    assert isinstance(said.json()["error"], str)


@pytest.mark.parametrize(
    ("path", "first"),
    [("/v1/chat/completions", b"data: "), ("/v1/messages", b"event: error\ndata: "),
     ("/v1/responses", b"event: error\ndata: ")],
)  # fmt: skip
def test_a_broken_streams_error_event_has_the_shape_of_the_paths_sdk(path: str, first: bytes) -> None:
    @on_uvloop
    async def run() -> None:
        token = b'data: {"choices":[{"delta":{"content":"a"}}]}'
        up = Upstream(whole(sse(token, end=False), keep=False))
        said, _ = await one(post(chat(stream=True), path), upstream=up)
        event = said.body.removeprefix(token + b"\n\n")
        assert event.startswith(first) and event.endswith(b"\n\n") and not said.whole
        found = json.loads(event.removeprefix(first))
        assert found["type"] == "error" if path != "/v1/chat/completions" else found["error"]["code"]

    run()


# --- ids and headers ----------------------------------------------------------------------------------------------


@on_uvloop
async def test_a_good_request_id_is_kept_on_reply_record_and_upstream_and_a_bad_one_replaced() -> None:
    for given, kept in (("my-id_1.2", True), ("x" * 129, False), ("a b", False), (None, False)):
        up = Upstream(whole(answer(b"{}", 200, b"x-request-id: theirs")))
        lines = [f"X-Request-Id: {given}"] if given else []
        said, gateway = await one(post(None, "/v1/chat/completions", *lines), upstream=up)
        shown = [value for name, value in said.fields if name == "x-request-id"]
        sent = [value.decode() for name, value in up.requests[0].fields if name == b"x-request-id"]
        assert len(shown) == 1 and shown == sent == [gateway.last.request_id]
        assert (shown[0] == given) is kept


@on_uvloop
async def test_request_ids_are_on_errors_and_own_answers_too() -> None:
    own = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\n\r\n"
    for raw in (own, *(post({}, path, "X-Request-Id: mine") for path in ("/nowhere", "/v1/chat/completions"))):
        said, _ = await one(raw)
        assert said.named["x-request-id"] == "mine"


@on_uvloop
async def test_what_a_model_server_may_not_say_to_clients_is_dropped() -> None:
    sent = (b"set-cookie: a=b", b"Keep-Alive: timeout=9", b"x-headway-pool: forged", b"x-gateway-a: 1", b"x-llm-d-b: 2",
            b"alt-svc: h3", b"x-kept: yes", b"retry-after: 3")  # fmt: skip
    said, _ = await one(post(), upstream=Upstream(whole(answer(b"{}", 200, *sent))))
    names = [name for name, _ in said.fields]
    assert {"x-kept", "retry-after", "x-headway-endpoint"} <= set(names)
    assert not {"set-cookie", "keep-alive", "x-gateway-a", "x-llm-d-b", "alt-svc"} & set(names)
    assert [value for name, value in said.fields if name == "x-headway-pool"] == ["p"]


@on_uvloop
async def test_expose_id_hides_the_endpoints_url() -> None:
    up = Upstream()
    said, _ = await one(post(), upstream=up, expose="id")
    assert str(up.port) not in repr(said.fields)


@on_uvloop
async def test_x_forwarded_for_is_the_peer_and_appended_only_behind_trusted_proxies() -> None:
    for trusted, want in (((), b"127.0.0.1"), ((ip_network("127.0.0.0/8"),), b"9.9.9.9, 127.0.0.1")):
        up = Upstream()
        await one(post(None, "/v1/chat/completions", "X-Forwarded-For: 9.9.9.9"), upstream=up, trusted_proxies=trusted)
        assert up.requests[0].named[b"x-forwarded-for"] == want


# --- what the gateway answers itself ------------------------------------------------------------------------------


async def get(path: str, *fields: str, method: str = "GET", **more: Any) -> Answer:
    async with Upstream() as up, Running(config(pool([up]), **more)) as gateway, gateway.client() as client:
        lines = "".join(f"{line}\r\n" for line in fields)
        client.send(f"{method} {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
        said = await client.answer(bodiless=method == "HEAD")
        assert not up.requests
        return said


@on_uvloop
async def test_models_are_listed_with_their_aliases_and_only_those_a_key_may_use() -> None:
    said = await get("/v1/models", models=[ALIASED, model_to("other", "p")])
    assert said.json()["object"] == "list"
    assert [entry["id"] for entry in said.json()["data"]] == ["real", "alias", "gpt-4o-mini", "other"]
    assert all(entry["object"] == "model" for entry in said.json()["data"])
    auth = "Authorization: Bearer sk-some"
    said = await get("/v1/models", auth, models=TWO, keys=KEYS)
    assert [entry["id"] for entry in said.json()["data"]] == ["m", "alias-of-m"]
    assert (await get("/v1/models", models=TWO, keys=KEYS)).status == 401
    assert (await get("/v1/models/m", auth, models=TWO, keys=KEYS)).json()["id"] == "m"
    said = await get("/v1/models/other", auth, models=TWO, keys=KEYS)
    assert (said.status, said.error["code"]) == (404, "model_not_found")
    named = model_to("org/a b", "p")
    assert (await get("/v1/models/org%2Fa%20b", models=[named])).json()["id"] == "org/a b"
    assert (await get("/v1/models/org/a%20b", models=[named])).json()["id"] == "org/a b"


@on_uvloop
async def test_health_needs_no_key_and_wrong_methods_are_405() -> None:
    assert (await get("/healthz", keys=KEYS)).status == 200
    assert (await get("/readyz", keys=KEYS)).json() == {"ready": True}
    said = await get("/healthz", method="HEAD")
    assert said.status == 200 and int(said.named["content-length"]) > 0
    assert (await get("/v1/models", method="DELETE")).status == 405
    assert (await get("/v1/chat/completions")).status == 405


@pytest.mark.parametrize("path", ["/sleep", "/metrics", "/api/config", "/v1/load_lora_adapter", "/v1/../sleep", "/"])
def test_management_paths_do_not_exist_here(path: str) -> None:
    @on_uvloop
    async def run() -> None:
        for method in ("GET", "POST"):
            said = await get(path, method=method)
            assert (said.status, said.error["code"]) == (404, "unknown_path")

    run()


@on_uvloop
async def test_an_unknown_path_that_looks_like_a_known_one_is_named() -> None:
    assert "/v1/chat/completions" in (await get("/v1/chat/completion", method="POST")).error["message"]


@on_uvloop
async def test_an_offered_upgrade_is_not_taken() -> None:
    up = Upstream()
    lines = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
    said, _ = await one(post(None, "/v1/chat/completions", *lines), upstream=up)
    assert said.status == 200 and not {b"upgrade", b"connection", b"http2-settings"} & up.requests[0].named.keys()


@on_uvloop
async def test_pipelined_requests_keep_their_order_whatever_they_take() -> None:
    async with Upstream() as up, Running(config(pool([up]))) as gateway:
        async with Client(gateway.port) as client:
            client.send(post() + b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" + post({}, "/nowhere") + post({}) + post())
            assert [(await client.answer()).status for _ in range(5)] == [200, 200, 404, 400, 200]
        await gateway.settled(4)


@on_uvloop
async def test_a_record_tells_what_happened() -> None:
    said, gateway = await one(post(None, "/v1/chat/completions?x=1"))
    record = gateway.last
    assert (record.status, record.ended, record.model, record.pool, record.tries) == (200, "complete", "m", "p", 1)
    assert record.path == "/v1/chat/completions" and record.prompt_tokens == 3.0 and record.completion_tokens == 2.0
    assert record.bytes_in == len(chat()) and record.bytes_out >= len(said.body) and record.overhead >= 0.0
    assert record.candidates is not None and len(record.candidates.ids) == 1
