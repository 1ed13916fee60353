"""Data capture in a running gateway: the answer is as without it, and the record says what was asked and answered."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.config.types import Arm, Capture, Config, Model, Route
from tests.support.client import chat, post
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop, until
from tests.support.upstream import OK, Upstream, answer, hang, sse, whole

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}'
TOKENS = [EVENT % part for part in (b"ada@exa", b"mple.com", b"!")]
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
STREAM = sse(*TOKENS, STOP, b"data: [DONE]")


def made(upstream: Upstream, file: Path, **rule: Any) -> Config:
    capture = Capture(str(file), **{"share": 1.0, **rule})
    models = [Model("m", (Route((Arm("", "p"),)),), capture=capture), Model("n", (Route((Arm("", "p"),)),))]
    return config(pool([upstream]), models=models)


async def written(gateway: Running, file: Path, count: int) -> list[dict[str, Any]]:
    await gateway.settled()

    def read() -> list[bytes]:
        return file.read_bytes().splitlines() if file.exists() else []

    await until(lambda: len(read()) == count, f"{count} records")
    return [json.loads(line) for line in read()]


@pytest.mark.parametrize("stream", [False, True])
def test_the_clients_answer_is_as_without_it_and_both_bodies_are_kept(stream: bool, tmp_path: Path) -> None:
    @on_uvloop
    async def run() -> None:
        file = tmp_path / "capture" / "m.jsonl"
        async with (
            Upstream(whole(STREAM) if stream else OK) as upstream,
            Running(made(upstream, file)) as gateway,
            gateway.client() as client,
        ):
            kept = await client.ask(body=chat(stream=stream, user="ada@example.com"))
            left = await client.ask(body=chat("n", stream=stream))
            assert kept.whole and kept.body == left.body
            [found] = await written(gateway, file, 1)
        assert found["request"]["data"] == {**json.loads(chat(stream=stream)), "user": "[email]"}
        assert (found["status"], found["ended"], found["stream"]) == (200, "complete", stream)
        if stream:
            assert found["finish"] == "stop" and found["answer"]["type"] == "text/event-stream"
            assert "exa" not in found["answer"]["data"] and '"[email]"' in found["answer"]["data"]
        else:
            assert found["answer"]["data"] == json.loads(kept.body)

    run()


@on_uvloop
async def test_refusals_and_errors_are_kept_as_the_client_got_them(tmp_path: Path) -> None:
    file = tmp_path / "c"
    theirs = whole(answer(b'{"error": {"message": "too long"}}', 400))
    async with (
        Upstream(theirs, whole(answer(b"no", 500))) as upstream,
        Running(made(upstream, file)) as gateway,
        gateway.client() as client,
    ):
        first, second = await client.ask(body=chat()), await client.ask(body=chat())
        assert (await client.ask(body=chat("nobody"))).status == 404
        found = await written(gateway, file, 2)
    assert [one["status"] for one in found] == [first.status, second.status] == [400, 500]
    assert found[0]["answer"]["data"] == {"error": {"message": "too long"}}


@on_uvloop
async def test_what_came_before_a_client_left_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "c"
    async with Upstream(hang(sse(TOKENS[2], end=False))) as upstream, Running(made(upstream, file)) as gateway:
        async with gateway.client() as client:
            client.send(post(chat(stream=True)))
            await client.head()
            client.reset()
        [found] = await written(gateway, file, 1)
    assert found["ended"] == "client_gone" and found["answer"]["data"] == TOKENS[2].decode() + "\n\n"


@on_uvloop
async def test_a_file_that_cannot_be_written_is_not_felt_and_a_reload_ends_it(tmp_path: Path) -> None:
    file = tmp_path / "c"
    file.mkdir()
    async with Upstream(OK) as upstream:
        first = made(upstream, file)
        async with Running(first) as gateway, gateway.client() as client:
            for _ in range(3):
                assert (await client.ask(body=chat())).status == 200
            await gateway.settled(3)
            gateway.next_config = config(pool([upstream]))
            assert await gateway.gateway.reload() == (True, [])
            assert (await client.ask(body=chat())).status == 200
            await asyncio.sleep(0)
    assert not list(file.iterdir())
