"""What asynchronous work takes of its tenant's limits: not before it is sent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from gateway.config.types import Jobs, Key, KeyLimits, Secret
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
