"""One request answered later: accepted once, looked at, ended, cancelled, and nobody else's business."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.config.types import Arm, Jobs, Key, Model, Route, Secret
from gateway.fields import digest
from gateway.jobs.model import Result
from tests.gateway.jobs.test_files import run
from tests.support.client import Answer, Client, chat
from tests.support.jobs_api import ALICE, BOB, POOR, Api, settings

CHAT = "/v1/chat/completions"
BODY = chat()
CALLING = settings(jobs=Jobs(Secret("sqlite:x"), callbacks=("hooks.example.com",)))


async def ask(client: Client, *fields: str, body: bytes = BODY, key: str = ALICE, path: str = CHAT) -> Answer:
    return await client.ask(path, body, f"x-api-key: {key}", "Prefer: respond-async", *fields)


def test_a_callback_without_the_preference_is_refused(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with api.client() as client:
            said = await client.ask(CHAT, BODY, f"x-api-key: {ALICE}", "x-headway-callback: https://hooks.example.com/")
            assert (said.status, said.error["param"]) == (400, "x-headway-callback")

    run(tmp_path, test, settings=CALLING)


async def look(client: Client, where: str, key: str = ALICE) -> dict[str, Any]:
    said = await client.get(where, f"x-api-key: {key}")
    assert said.status == 200, said.body
    found = said.json()
    assert isinstance(found, dict)
    return found


def test_a_request_is_accepted_run_and_its_response_given(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with api.client() as client:
            said = await ask(client, "x-trace: 7", "x-headway-callback: https://hooks.example.com/x")
            job = said.json()
            assert (said.status, said.named["preference-applied"]) == (202, "respond-async")
            assert said.named["location"] == f"/v1/jobs/{job['id']}" and job["id"].startswith("job_")
            assert (job["status"], job["model"], job["path"], job["class"]) == ("queued", "m", CHAT, "async")
            assert job["callback"] == "https://hooks.example.com/x" and job["response"] is None
            assert api.made == 1
            now = time.time()
            (claim,) = await api.store.claim("w", 9, now + 60, now)
            assert claim.body == BODY and dict(claim.fields)[b"x-trace"] == b"7" and claim.key_digest is not None
            assert not {b"x-request-id", b"prefer", b"x-api-key", b"x-headway-callback"} & dict(claim.fields).keys()
            assert (await look(client, said.named["location"]))["status"] == "running"
            await api.store.finish(claim, Result(200, b'{"x": 1.50}', request_id="r"), now)
            job = await look(client, said.named["location"])
            assert (job["status"], job["error"]) == ("completed", None)
            assert job["response"] == {"status_code": 200, "request_id": "r", "body": {"x": 1.5}}
            assert b'"body":{"x": 1.50}' in (await client.get(said.named["location"], f"x-api-key: {ALICE}")).body

    run(tmp_path, test, settings=CALLING)


@pytest.mark.parametrize("body", [b"plain words", b"", b'{"a": "\xff"}', b'{"a": 1} x'])
def test_an_answer_that_is_no_json_comes_as_a_string(tmp_path: Path, body: bytes) -> None:
    async def test(api: Api) -> None:
        async with api.client() as client:
            where = (await ask(client)).named["location"]
            now = time.time()
            (claim,) = await api.store.claim("w", 9, now + 60, now)
            await api.store.finish(claim, Result(500, body, error=("upstream_failed", "it broke")), now)
            job = await look(client, where)
            assert job["status"] == "failed" and job["response"]["body"] == body.decode("utf-8", "replace")
            assert job["error"] == {"code": "upstream_failed", "message": "it broke"}

    run(tmp_path, test)


def test_large_responses_are_read_a_few_at_a_time_and_as_fast_as_they_are_taken(tmp_path: Path) -> None:
    """Many connections that asked for one large response and read nothing held one copy each."""
    large = b'"' + b"x" * (24 << 20) + b'"'

    async def test(api: Api) -> None:
        async with api.client() as client, api.client() as bobs:
            said = await ask(client, "Idempotency-Key: k")
            where, now = said.named["location"], time.time()
            (claim,) = await api.store.claim("w", 9, now + 60, now)
            await api.store.finish(claim, Result(200, large), now)
            assert (await client.get(where, f"x-api-key: {ALICE}")).json()["response"]["body"] == "x" * (24 << 20)
            asked = [api.client() for _ in range(6)]
            for one in asked:
                await one.__aenter__()
                one.send(f"GET {where} HTTP/1.1\r\nhost: a\r\nx-api-key: {ALICE}\r\n\r\n".encode())
            before = [await begun(one) for one in asked]
            assert sum(before) == 2
            for replay in (await ask(client, "Idempotency-Key: k"), await deleted(client, where)):
                assert replay.json()["response"] is None and replay.json()["response_omitted"] is True
            assert (await bobs.get(where, f"x-api-key: {BOB}")).status == 404
            for one, has_begun in zip(asked, before, strict=True):
                if has_begun:
                    await one.__aexit__(None, None, None)
            for one, has_begun in zip(asked, before, strict=True):
                if not has_begun:
                    assert len((await one.answer()).body) > len(large)
                    await one.__aexit__(None, None, None)

    run(tmp_path, test)


async def begun(client: Client) -> bool:
    """Whether an answer has begun to come, without reading more of it than its buffer takes."""
    try:
        async with asyncio.timeout(0.3):
            return bool(await client.reader.read(1))
    except TimeoutError:
        return False


async def deleted(client: Client, where: str) -> Answer:
    client.send(f"DELETE {where} HTTP/1.1\r\nhost: a\r\nx-api-key: {ALICE}\r\n\r\n".encode())
    return await client.answer()


def test_an_idempotency_key_gives_the_first_job_again_to_its_tenant(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with api.client() as client:
            once = "Idempotency-Key: abc"
            first = await ask(client, once)
            again = await ask(client, once)
            assert (again.status, again.named["location"]) == (202, first.named["location"])
            assert api.made == 1
            assert (await ask(client)).named["location"] != first.named["location"]
            assert (await ask(client, once, key=BOB)).named["location"] != first.named["location"]

    run(tmp_path, test)


def test_a_job_belongs_to_its_tenant(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with api.client() as client:
            where = (await ask(client)).named["location"]
            assert (await client.get(where, f"x-api-key: {BOB}")).status == 404
            for key, status in ((BOB, 404), (ALICE, 200)):
                client.send(f"DELETE {where} HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n\r\n".encode())
                said = await client.answer()
                assert said.status == status
            assert said.json()["status"] == "cancelled"
            assert (await look(client, where))["status"] == "cancelled"

    run(tmp_path, test)


def test_a_deadline_is_the_clients_or_what_its_class_may_wait(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with api.client() as client:
            job = (await ask(client, "x-headway-deadline: 10m")).json()
            assert 598 <= job["deadline"] - job["created_at"] <= 602
            job = (await ask(client)).json()
            assert 86_398 <= job["deadline"] - job["created_at"] <= 86_402

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("fields", "key", "body", "status", "code"),
    [
        (["x-headway-callback: https://elsewhere/"], ALICE, BODY, 403, "callback_not_allowed"),
        (["x-headway-callback: https://10.0.0.1/"], ALICE, BODY, 403, "callback_not_allowed"),
        (["x-headway-callback: file:///etc"], ALICE, BODY, 400, "invalid_value"),
        (["Idempotency-Key: a b"], ALICE, BODY, 400, "invalid_value"),
        (["x-headway-class: none"], ALICE, BODY, 400, "unknown_class"),
        (["x-headway-deadline: 2020-01-01T00:00:00Z"], ALICE, BODY, 429, "deadline"),
        (["x-headway-deadline: 9999-12-31T00:00:00Z"], ALICE, BODY, 400, "invalid_value"),
        (["x-headway-deadline: 721h"], ALICE, BODY, 400, "invalid_value"),
        ([], POOR, BODY, 403, "class_not_allowed"),
        ([], ALICE, chat(stream=True), 400, "stream_not_allowed"),
        ([], ALICE, chat("none"), 404, "model_not_found"),
        ([], ALICE, b"{", 400, "invalid_json"),
    ],
)
def test_what_cannot_be_done_later_is_refused_now(
    tmp_path: Path, fields: list[str], key: str, body: bytes, status: int, code: str
) -> None:
    async def test(api: Api) -> None:
        async with api.client() as client:
            said = await ask(client, *fields, key=key, body=body)
            assert (said.status, said.error["code"]) == (status, code)
        assert await api.store.claim("w", 9, 1e10, 1e9) == []

    run(tmp_path, test, settings=CALLING)


def test_an_arm_is_not_chosen_for_later_and_then_forgotten(tmp_path: Path) -> None:
    split = Model("m", (Route((Arm("a", "p"), Arm("b", "p"))),))
    keys = (Key(digest(ALICE.encode()), "alice", arms=frozenset("b")),)

    async def test(api: Api) -> None:
        async with api.client() as client:
            said = await ask(client, "x-headway-arm: b")
            assert (said.status, said.error["code"], said.error["param"]) == (400, "arm_not_allowed", "x-headway-arm")
            assert (await ask(client)).status == 202

    made = dataclasses.replace(settings(keys=keys), models={"m": split})
    run(tmp_path, test, settings=made)
