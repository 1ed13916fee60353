"""Asynchronous work through a whole gateway: files, batches, jobs with the official client, and the end of a life."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from gateway.config.types import Config, FillerRule, Jobs, Key, KeyLimits, Rate, Secret, TrafficClass
from gateway.fields import digest
from policies.admission.filler import Filler
from tests.support.client import Client
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop, until
from tests.support.upstream import Line, Received, Upstream, answer, hang, whole


def lines(count: int, model: str = "m") -> bytes:
    return b"".join(
        json.dumps({"custom_id": f"c{n}", "method": "POST", "url": "/v1/chat/completions",
                    "body": {"model": model, "messages": [{"role": "user", "content": f"say {n}"}]}}).encode() + b"\n"
        for n in range(count)
    )  # fmt: skip


async def echo(line: Line, received: Received) -> bool:
    text = json.loads(received.body)["messages"][0]["content"]
    body = {"choices": [{"message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2}}  # fmt: skip
    return await whole(answer(json.dumps(body).encode()))(line, received)


def settings(up: Upstream, store: Path, **more: Any) -> Config:
    return config(pool([up]), jobs=Jobs(Secret(f"sqlite:{store}"), **more))


def openai(gateway: Running, key: str = "none") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=key, max_retries=0)


def page(port: int, path: str) -> str:
    """What an operator sees."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10.0) as answer:
        return str(answer.read().decode())


async def ended(client: AsyncOpenAI, id_: str) -> Any:
    while True:
        batch = await client.batches.retrieve(id_)
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch
        await asyncio.sleep(0.05)


@on_uvloop
async def test_a_batch_goes_through_the_gateway_to_its_output_file(tmp_path: Path) -> None:
    async with Upstream(echo) as up, Running(settings(up, tmp_path / "jobs.db")) as gateway:
        client = openai(gateway)
        file = await client.files.create(file=("in.jsonl", lines(200)), purpose="batch")
        made = await client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions",
                                           completion_window="24h")  # fmt: skip
        batch = await ended(client, made.id)
        assert (batch.status, batch.request_counts.completed, batch.request_counts.total) == ("completed", 200, 200)
        said = [json.loads(line) for line in (await client.files.content(batch.output_file_id)).text.splitlines()]
        await client.close()
        view = json.loads(await asyncio.to_thread(page, gateway.admin_port, "/api/jobs"))
        metrics = await asyncio.to_thread(page, gateway.admin_port, "/metrics")
    assert sorted(one["custom_id"] for one in said) == sorted(f"c{n}" for n in range(200))
    for one in said:
        text = one["response"]["body"]["choices"][0]["message"]["content"]
        assert text == f"say {one['custom_id'][1:]}"
    assert batch.usage.input_tokens == 600
    assert view["runs"] == [{"class": "async", "how": "completed", "count": 200}]
    assert 'headway_jobs_ended_total{class="async",how="completed"} 200' in metrics
    assert 'headway_jobs{class="async",state="waiting"}' in metrics


@on_uvloop
async def test_a_request_is_answered_later_where_the_client_prefers_that(tmp_path: Path) -> None:
    async with (
        Upstream(echo) as up,
        Running(settings(up, tmp_path / "jobs.db")) as gateway,
        gateway.client() as client,
    ):
        body = {"model": "m", "messages": [{"role": "user", "content": "later"}]}
        said = await client.ask("/v1/chat/completions", body, "prefer: respond-async")
        assert (said.status, said.named["preference-applied"]) == (202, "respond-async")
        job = await job_ended(client, said.named["location"])
    assert job["status"] == "completed"
    assert job["response"]["body"]["choices"][0]["message"]["content"] == "later"


async def job_ended(client: Client, where: str) -> Any:
    while True:
        job = (await client.get(where)).json()
        if job["status"] not in ("queued", "running", "cancelling"):
            return job
        await asyncio.sleep(0.02)


@on_uvloop
async def test_without_jobs_in_the_configuration_clients_are_told_so() -> None:
    async with Upstream() as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        for said in (await client.get("/v1/batches"), await client.ask("/v1/chat/completions", {"model": "m"},
                                                                       "prefer: respond-async")):  # fmt: skip
            assert (said.status, said.error["code"]) == (404, "jobs_not_configured")
    assert gateway.gateway.jobs() is None


@on_uvloop
async def test_a_callback_without_a_wish_for_later_is_refused(tmp_path: Path) -> None:
    async with (
        Upstream() as up,
        Running(settings(up, tmp_path / "jobs.db")) as gateway,
        gateway.client() as client,
    ):
        said = await client.ask("/v1/chat/completions", {"model": "m"}, "x-headway-callback: https://a.example/x")
    assert (said.status, said.error["param"]) == (400, "x-headway-callback")


@on_uvloop
async def test_what_runs_at_the_end_is_begun_again_in_the_next_life(tmp_path: Path) -> None:
    async with Upstream(hang()) as up:
        async with Running(settings(up, tmp_path / "jobs.db")) as gateway, gateway.client() as client:
            said = await client.ask("/v1/chat/completions", {"model": "m", "messages": []}, "prefer: respond-async")
            await until(lambda: up.posts, "the job's request")
            await gateway.gateway.drain(0.0, 0.1)
        up.script[0] = whole(answer(b"{}"))
        async with Running(settings(up, tmp_path / "jobs.db")) as gateway, gateway.client() as client:
            job = await job_ended(client, said.named["location"])
    assert (job["status"], job["repeated"], job["response"]["body"]) == ("completed", 0, {})


@on_uvloop
async def test_what_runs_may_end_and_what_waits_is_left_to_the_next_life(tmp_path: Path) -> None:
    async def slowly(line: Line, received: Received) -> bool:
        await asyncio.sleep(0.3)
        return await echo(line, received)

    async with Upstream(slowly) as up:
        made = config(pool([up], max_concurrency=4), jobs=Jobs(Secret(f"sqlite:{tmp_path / 'jobs.db'}")))
        async with Running(made) as gateway:
            client = openai(gateway)
            file = await client.files.create(file=("in.jsonl", lines(30)), purpose="batch")
            batch = await client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions",
                                                completion_window="24h")  # fmt: skip
            await until(lambda: up.posts == 4, "the first four")
            await client.close()
            await gateway.gateway.drain(0.0, 10.0)
        assert up.posts == 4
        up.script[0] = echo
        async with Running(made) as gateway:
            client = openai(gateway)
            done = await ended(client, batch.id)
            await client.close()
    assert (done.request_counts.completed, up.posts) == (30, 30), "nothing was done twice"


@on_uvloop
async def test_a_store_that_is_away_at_the_start_is_a_503_for_its_users_only(tmp_path: Path) -> None:
    store = tmp_path / "not yet" / "jobs.db"
    async with Upstream(echo) as up, Running(settings(up, store)) as gateway, gateway.client() as client:
        body = {"model": "m", "messages": [{"role": "user", "content": "now"}]}
        assert (await client.ask("/v1/chat/completions", body)).status == 200
        said = await client.get("/v1/batches")
        assert (said.status, said.error["code"], "retry-after" in said.named) == (503, "jobs_unavailable", True)
        store.parent.mkdir()
        for _ in range(200):
            if (await client.get("/v1/batches")).status == 200:
                break
            await asyncio.sleep(0.02)
        said = await client.ask("/v1/chat/completions", body, "prefer: respond-async")
        assert (await job_ended(client, said.named["location"]))["status"] == "completed"


@on_uvloop
async def test_work_gives_way_only_so_often_and_then_runs_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: dict[Any, int] = {}
    admitted = Filler.admitted

    def admit(self: Filler, reservation: Any, request: Any, now: float, aborted: int = 0) -> None:
        running[reservation] = aborted
        admitted(self, reservation, request, now, aborted)

    def victims(self: Filler, fleet: Any, now: float) -> list[Any]:
        """Somebody is always in the way, and only the rule's bound saves it."""
        *_, (latest, aborted) = running.items() or [(None, self.rule.aborts)]
        return [latest] if aborted < self.rule.aborts else []

    async def slowly(line: Line, received: Received) -> bool:
        await asyncio.sleep(0.5)
        return await echo(line, received)

    monkeypatch.setattr(Filler, "admitted", admit)
    monkeypatch.setattr(Filler, "victims", victims)
    async with (
        Upstream(slowly) as up,
        Running(settings(up, tmp_path / "jobs.db")) as gateway,
        gateway.client() as client,
    ):
        body = {"model": "m", "messages": [{"role": "user", "content": "later"}]}
        said = await client.ask("/v1/chat/completions", body, "prefer: respond-async")
        job = await job_ended(client, said.named["location"])
    # One that is stopped at once may never have reached the server.
    assert (job["status"], job["displaced"]) == ("completed", 3) and up.posts <= 4
    assert list(running.values()) == [0, 1, 2, 3]


@on_uvloop
async def test_a_tenant_at_its_limit_is_asked_little_and_holds_up_nobody(tmp_path: Path) -> None:
    keys = (Key(digest(b"slow"), "slow", limits=KeyLimits(requests=Rate(10, 60.0))), Key(digest(b"quick"), "quick"))
    async with Upstream(echo) as up:
        made = config(pool([up]), jobs=Jobs(Secret(f"sqlite:{tmp_path / 'jobs.db'}")), keys=keys)
        async with Running(made) as gateway:
            batches = {}
            for name, count in (("slow", 200), ("quick", 200)):
                client = openai(gateway, name)
                file = await client.files.create(file=("in.jsonl", lines(count)), purpose="batch")
                batches[name] = client, await client.batches.create(
                    input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
                )
            quick = await ended(batches["quick"][0], batches["quick"][1].id)
            slow = await batches["slow"][0].batches.retrieve(batches["slow"][1].id)
            assert quick.request_counts.completed == 200 and slow.status == "in_progress"
            for client, _ in batches.values():
                await client.close()
        refused = sum(record.code == "tenant_limit" for record in gateway.records.all)
    counts = slow.request_counts
    assert counts is not None and 10 <= counts.completed <= 30 and counts.failed == 0
    assert 0 < refused <= 30


@on_uvloop
async def test_work_whose_time_runs_out_runs_as_the_protected_class_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Filler, "open_rows", lambda *_: None)  # there is never room for filler
    classes = {"interactive": TrafficClass("interactive", True, 10),
               "async": TrafficClass("async", filler=FillerRule(promote=True))}  # fmt: skip
    async with Upstream(echo) as up:
        made = config(pool([up]), jobs=Jobs(Secret(f"sqlite:{tmp_path / 'jobs.db'}")), classes=classes)
        async with Running(made) as gateway, gateway.client() as client:
            body = {"model": "m", "messages": [{"role": "user", "content": "soon"}]}
            said = await client.ask("/v1/chat/completions", body, "prefer: respond-async", "x-headway-deadline: 20s")
            job = await job_ended(client, said.named["location"])
            view = gateway.gateway.jobs()
            assert view is not None and view["promoted"] == {"async": 1}
    assert (job["status"], job["class"]) == ("completed", "async")
    assert [record.klass for record in gateway.records.all if record.ended == "complete" and record.endpoint] == [
        "interactive"
    ]


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_client_error_is_final_at_once(tmp_path: Path, status: int) -> None:
    @on_uvloop
    async def run() -> None:
        async with (
            Upstream(whole(answer(b"{}", status))) as up,
            Running(settings(up, tmp_path / "jobs.db")) as gateway,
            gateway.client() as client,
        ):
            said = await client.ask("/v1/chat/completions", {"model": "m", "messages": []}, "prefer: respond-async")
            job = await job_ended(client, said.named["location"])
        assert (job["status"], job["response"]["status_code"], up.posts) == ("failed", status, 1)

    run()
