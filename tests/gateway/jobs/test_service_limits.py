"""What asynchronous work takes of its tenant's limits: not before it is sent."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.config.types import FillerRule, Jobs, Key, KeyLimits, QueueRule, Rate, Secret, TrafficClass
from gateway.fields import digest
from policies.admission.filler import Filler
from tests.gateway.jobs.test_service import echo, ended, lines, openai
from tests.support.client import chat, post
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop, until
from tests.support.upstream import Upstream, hang

PATH = "/v1/chat/completions"
MINE = "authorization: Bearer mine"


def settings(up: Upstream, folder: Path, **limits: Any) -> Any:
    keys = (Key(digest(b"mine"), "acme", limits=KeyLimits(**limits)),)
    return config(pool([up]), jobs=Jobs(Secret(f"sqlite:{folder / 'jobs.db'}")), keys=keys)


def running(gateway: Running) -> int:
    (reading,) = gateway.gateway.limiter.readings(time.monotonic())
    return reading.running


def in_line(gateway: Running) -> int:
    return len(gateway.gateway.proxy.lanes["p"].desk)


async def submit(gateway: Running, count: int) -> str:
    client = openai(gateway, "mine")
    file = await client.files.create(file=("in.jsonl", lines(count)), purpose="batch")
    batch = await client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions",
                                        completion_window="24h")  # fmt: skip
    await client.close()
    return batch.id


@on_uvloop
async def test_lines_that_only_wait_take_nothing_of_their_tenants_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Filler, "open_rows", lambda *_: None)  # there is no room for filler
    async with Upstream(echo) as up, Running(settings(up, tmp_path, concurrency=4)) as gateway:
        await submit(gateway, 16)
        await until(lambda: in_line(gateway) >= 4, "lines that wait")
        assert running(gateway) == 0
        async with gateway.client() as client:
            assert (await client.ask(PATH, chat(), MINE)).status == 200


@on_uvloop
async def test_a_line_whose_tenant_has_nothing_left_when_its_turn_comes_waits_and_does_not_fail(tmp_path: Path) -> None:
    async with Upstream(hang(), echo) as up, Running(settings(up, tmp_path, concurrency=1)) as gateway:
        async with gateway.client() as first:
            first.send(post(None, PATH, MINE, "x-headway-class: async"))
            await until(lambda: up.posts == 1)
            id_ = await submit(gateway, 3)
            await until(lambda: gateway.records.all and gateway.last.code == "tenant_limit", "a line that was refused")
            assert (up.posts, gateway.last.tries, gateway.last.pool, gateway.last.endpoint) == (1, 0, "", "")
        client = openai(gateway, "mine")
        batch = await ended(client, id_)
        await client.close()
        await gateway.settled()
        assert (batch.request_counts.completed, batch.request_counts.failed, running(gateway)) == (3, 0, 0)


LATER = ("prefer: respond-async", "x-headway-class: async")


@on_uvloop
async def test_what_is_taken_in_counts_as_a_request_and_its_answer_tells_what_is_left(tmp_path: Path) -> None:
    async with (
        Upstream(hang()) as up,
        Running(settings(up, tmp_path, requests=Rate(3.0, 3600.0))) as gateway,
        gateway.client() as client,
    ):
        said = [await client.ask(PATH, chat(), MINE, *LATER) for _ in range(4)]
        assert running(gateway) <= 1
    assert said[0].status == 202 and said[0].named["x-ratelimit-remaining-requests"] == "2"
    refused = said[-1]
    assert (refused.status, refused.named["x-headway-reason"]) == (429, "tenant_limit")
    assert "retry-after-ms" in refused.named and refused.named["x-ratelimit-limit-requests"] == "3"


@on_uvloop
async def test_no_more_jobs_wait_than_their_class_allows_and_lines_of_batches_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Filler, "open_rows", lambda *_: None)
    monkeypatch.setattr("gateway.jobs.dispatcher.AHEAD", 1)
    classes = {"interactive": TrafficClass("interactive", True, 10),
               "async": TrafficClass("async", queue=QueueRule(2, 3600.0), filler=FillerRule())}  # fmt: skip
    async with Upstream(echo) as up:
        made = replace(settings(up, tmp_path, requests=Rate(1000.0, 60.0)), classes=classes)
        async with Running(made) as gateway, gateway.client() as client:
            await submit(gateway, 30)
            statuses: list[int] = []
            while not statuses or statuses[-1] == 202:
                said = await client.ask(PATH, chat(), MINE, *LATER)
                statuses.append(said.status)
                await asyncio.sleep(0.1)
            assert len(statuses) > 2
            assert (said.status, said.error["code"], said.named["retry-after"]) == (429, "queue_full", "10")
            assert "x-ratelimit-remaining-requests" in said.named
