"""Canaries in a whole gateway: what its requests tell them, and what they decide for the next ones."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from gateway.config.types import Arm, CanaryRule, Config, Key, Model, Route, Sticky
from gateway.rollouts.canaries import CanaryError
from policies.routing import Asked
from tests.support.client import Client, chat
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop, until
from tests.support.upstream import Line, Received, Upstream, answer, chunk, sse, whole

GOOD = answer(b'{"model":"m","choices":[{"finish_reason":"stop"}],"usage":{"completion_tokens":5}}')
BAD = answer(b'{"error":{"message":"no"}}', 500)
EVENT = b'data: {"model":"m","choices":[{"delta":{"content":"hi"}}]}'


def rollout(stable: Upstream, new: Upstream, spare: Upstream | None = None, step: float = 0.5, **more: Any) -> Config:
    """Half of the users of model `m` on the canary, for as long as it is not harmful."""
    fallback = ("spare",) if spare is not None else ()
    arms = (Arm("stable", "old", fallback=fallback), Arm("next", "new", fallback=fallback))
    route = Route(arms, "rollout", sticky=Sticky("header", "x-user"),
                  canary=CanaryRule("next", steps=(step, 1.0), hold=1000.0))  # fmt: skip
    pools = [pool([stable], "old"), pool([new], "new"), *([pool([spare], "spare")] if spare is not None else [])]
    return config(*pools, models=[Model("m", (route,))], **more)


def arms(gateway: Running) -> dict[str, Any]:
    found: Any = gateway.gateway.canaries.report("m")["canary"]
    return {arm["arm"]: arm for arm in found["arms"]}


async def begun(gateway: Running) -> None:
    await until(lambda: gateway.gateway.canaries.share("m", "rollout"), "the first step")


async def arm_of(client: Client, user: str, *fields: str) -> str:
    return (await client.ask("/v1/chat/completions", chat("m"), f"x-user: {user}", *fields)).named["x-headway-arm"]


@on_uvloop
async def test_a_failing_canary_is_rolled_back_for_new_requests_and_its_streams_finish() -> None:
    release = asyncio.Event()

    async def slow(line: Line, request: Received) -> bool:
        await line.send(sse(EVENT, end=False))
        await release.wait()
        await line.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        return True

    async with (
        Upstream(whole(GOOD)) as old, Upstream(slow, whole(BAD)) as new,
        Running(rollout(old, new)) as gateway, gateway.client() as client, gateway.client() as streaming,
    ):  # fmt: skip
        await begun(gateway)
        user = next(name for name in map(str, range(100)) if arm_for(gateway, name) == "next")
        streaming.send(_post(chat("m", stream=True), user))
        assert (await streaming.head())[0] == 200
        for number in range(1000):
            status = (await client.ask("/v1/chat/completions", chat("m"), f"x-user: {number}")).status
            assert status in (200, 500)
            if gateway.gateway.canaries.share("m", "rollout") == 0.0:
                break
            await asyncio.sleep(0.01)
        assert gateway.gateway.canaries.share("m", "rollout") == 0.0
        assert await arm_of(client, user) == "stable"
        release.set()
        assert b"[DONE]" in (await streaming._chunks())[0]
        assert '"what":"roll_back"' in gateway.log.text


def arm_for(gateway: Running, user: str) -> str:
    """The arm that a user would get."""
    asked = Asked("m", "/", "anonymous", "", "interactive", 1.0, False, "", "", {"x-user": user}.get, 0.0)
    return gateway.gateway.routers._of["m"].route(asked).arm


def _post(body: bytes, user: str) -> bytes:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nx-user: {user}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@on_uvloop
async def test_every_user_has_the_same_arm_after_a_restart_and_what_was_counted_goes_on(tmp_path: Path) -> None:
    users = [f"user{number}" for number in range(40)]
    async with Upstream(whole(GOOD)) as old, Upstream(whole(GOOD)) as new:
        made = rollout(old, new, state=str(tmp_path))
        async with Running(made) as gateway, gateway.client() as client:
            await begun(gateway)
            before = {user: await arm_of(client, user) for user in users}
            await gateway.settled()
        assert set(before.values()) == {"stable", "next"}
        async with Running(made) as gateway, gateway.client() as client:
            assert gateway.gateway.canaries.share("m", "rollout") == 0.5
            assert {user: await arm_of(client, user) for user in users} == before
            await gateway.settled()
            assert sum(arm["requests"] for arm in arms(gateway).values()) == 2 * len(users)


@on_uvloop
async def test_a_reload_that_leaves_the_canary_alone_disturbs_nothing() -> None:
    async with (
        Upstream(whole(GOOD)) as old, Upstream(whole(GOOD)) as new,
        Running(rollout(old, new)) as gateway, gateway.client() as client,
    ):  # fmt: skip
        await begun(gateway)
        before = {user: await arm_of(client, user) for user in "abcdefghij"}
        gateway.next_config = rollout(old, new, expose="id")
        assert (await gateway.gateway.reload())[0]
        assert {user: await arm_of(client, user) for user in "abcdefghij"} == before
        await gateway.settled()
        assert sum(arm["requests"] for arm in arms(gateway).values()) == 20


@on_uvloop
async def test_what_a_fallback_answered_counts_for_no_arm_and_that_it_had_to_is_the_arms_failure() -> None:
    async with (
        Upstream(whole(GOOD)) as old, Upstream(whole(GOOD)) as new, Upstream(whole(GOOD)) as spare,
        Running(rollout(old, new, spare)) as gateway, gateway.client() as client,
    ):  # fmt: skip
        await begun(gateway)
        await new.stop()
        user = next(name for name in map(str, range(100)) if arm_for(gateway, name) == "next")
        for _ in range(4):
            assert (await client.ask("/v1/chat/completions", chat("m"), f"x-user: {user}")).status in (200, 502, 503)
        await gateway.settled()
        found = arms(gateway)
        assert found["next"]["requests"] == found["next"]["failed"] == 4 and found["next"]["elsewhere"] >= 3
        assert found["stable"]["requests"] == found["stable"]["elsewhere"] == 0


@on_uvloop
async def test_a_canary_without_a_server_fails_its_requests() -> None:
    async with (
        Upstream(whole(GOOD)) as old, Upstream(whole(GOOD)) as new,
        Running(rollout(old, new)) as gateway, gateway.client() as client,
    ):  # fmt: skip
        await begun(gateway)
        await new.stop()
        user = next(name for name in map(str, range(100)) if arm_for(gateway, name) == "next")
        for _ in range(6):
            assert (await client.ask("/v1/chat/completions", chat("m"), f"x-user: {user}")).status in (502, 503)
        await gateway.settled()
        assert arms(gateway)["next"]["failed"] == arms(gateway)["next"]["requests"] >= 6


@on_uvloop
async def test_a_tester_who_forces_the_arm_is_nobodys_observation() -> None:
    key = Key(sha256(b"secret").digest(), "testers", arms=frozenset({"*"}))
    async with (
        Upstream(whole(GOOD)) as old, Upstream(whole(GOOD)) as new,
        Running(rollout(old, new, keys=(key,))) as gateway, gateway.client() as client,
    ):  # fmt: skip
        await begun(gateway)
        for _ in range(3):
            assert await arm_of(client, "a", "authorization: Bearer secret", "x-headway-arm: next") == "next"
        await gateway.settled()
        assert [arm["requests"] for arm in arms(gateway).values()] == [0, 0]


@on_uvloop
async def test_streams_tell_how_long_they_took_and_how_they_ended() -> None:
    last = b'data: {"model":"m","choices":[{"delta":{},"finish_reason":"length"}]}'
    stream = sse(EVENT, EVENT, last, b"data: [DONE]")
    async with (
        Upstream(whole(stream)) as old, Upstream(whole(stream)) as new,
        Running(rollout(old, new)) as gateway, gateway.client() as client,
    ):  # fmt: skip
        await begun(gateway)
        for user in range(8):
            client.send(_post(chat("m", stream=True), str(user)))
            assert (await client.answer()).status == 200
        await gateway.settled()
        assert sum(arm["requests"] for arm in arms(gateway).values()) == 8
        assert not any(arm["failed"] or arm["truncated"] for arm in arms(gateway).values())


@on_uvloop
async def test_a_gateway_that_drains_takes_no_commands_which_another_one_should_have() -> None:
    async with (
        Upstream(whole(GOOD)) as old, Upstream(whole(GOOD)) as new,
        Running(rollout(old, new)) as gateway,
    ):  # fmt: skip
        await begun(gateway)
        running = gateway.gateway
        digest = running.config.digest
        draining = asyncio.create_task(running.drain(0.2, 5.0))
        await asyncio.sleep(0)
        gateway.next_config = rollout(old, new, expose="id")
        for done, problems in (await running.reload(), await running.rollback("")):
            assert not done and "ask again" in problems[0]
        assert running.config.digest == digest and "reload_refused" not in gateway.log.text
        with pytest.raises(CanaryError, match="ask again"):
            await running.canaries.command("abort", "m")
        assert running.canaries.share("m", "rollout") == 0.5
        await asyncio.wait_for(draining, 10.0)
