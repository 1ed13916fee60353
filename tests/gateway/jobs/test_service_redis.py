"""Gateways on one Redis: they share a queue, wait for a Redis that is not there, and go on after it was emptied."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

from gateway.config.types import Config, Jobs, Secret
from tests.gateway.jobs.test_service import echo, ended, job_ended, lines, openai
from tests.support.client import Client
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop, until
from tests.support.redis_server import RedisServer, redis_server, redis_url  # noqa: F401 (fixtures)
from tests.support.upstream import Line, Received, Upstream, answer, hang, whole

BODY = {"model": "m", "messages": [{"role": "user", "content": "later"}]}


def settings(up: Upstream, url: str) -> Config:
    return config(pool([up]), jobs=Jobs(Secret(url)))


async def slowly(line: Line, received: Received) -> bool:
    await asyncio.sleep(0.02)
    return await echo(line, received)


def flush(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(b"FLUSHALL\r\n")
        assert connection.recv(64).startswith(b"+OK")


@on_uvloop
async def test_two_gateways_drain_one_queue_and_one_may_leave_half_way(redis_url: str) -> None:  # noqa: F811
    async with Upstream(slowly) as first, Upstream(slowly) as second, Running(settings(first, redis_url)) as lives:
        client = openai(lives)
        file = await client.files.create(file=("in.jsonl", lines(400)), purpose="batch")
        async with Running(settings(second, redis_url)) as leaves:
            made = await client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions",
                                               completion_window="24h")  # fmt: skip
            await until(lambda: first.posts > 20 and second.posts > 20, "work at both")
            await leaves.gateway.drain(0.0, 5.0)
        batch = await ended(client, made.id)
        said = [json.loads(line) for line in (await client.files.content(batch.output_file_id)).text.splitlines()]
        await client.close()
    assert batch.request_counts.completed == 400
    assert len({one["custom_id"] for one in said}) == len(said) == 400
    assert first.posts + second.posts == 400, "nothing was done twice"


@on_uvloop
async def test_a_redis_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        server.kill()
        async with Upstream(echo) as up, Running(settings(up, server.url)) as gateway, gateway.client() as client:
            assert (await client.ask("/v1/chat/completions", BODY)).status == 200
            said = await client.ask("/v1/chat/completions", BODY, "prefer: respond-async")
            assert (said.status, said.error["code"], "retry-after" in said.named) == (503, "jobs_unavailable", True)
            assert (await client.get("/v1/models")).status == 200
            await asyncio.to_thread(server.start)
            began = time.monotonic()
            job = await submitted(client)
            assert time.monotonic() - began < 10.0
            assert (await job_ended(client, job))["status"] == "completed"


async def submitted(client: Client) -> str:
    while True:
        said = await client.ask("/v1/chat/completions", BODY, "prefer: respond-async")
        if said.status == 202:
            return said.named["location"]
        assert said.status == 503
        await asyncio.sleep(0.05)


@on_uvloop
async def test_after_a_redis_was_emptied_new_work_runs(redis_server: RedisServer, redis_url: str) -> None:  # noqa: F811
    async with Upstream(hang()) as up, Running(settings(up, redis_url)) as gateway, gateway.client() as client:
        lost = await submitted(client)
        await until(lambda: up.posts == 1, "the job's request")
        flush(redis_server.port)
        up.script[0] = whole(answer(b'{"new":1}'))
        said: Any = await client.get(lost)
        assert (said.status, said.error["code"]) == (404, "job_not_found")
        job = await job_ended(client, await submitted(client))
        assert (job["status"], job["response"]["body"]) == ("completed", {"new": 1})
