"""Requests that wait at the gateway: who goes when, and that every way out leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from gateway.config.types import Config, Eject, Pick, Pool, Timeouts, model_to
from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Request
from policies.picking.base import Policy
from tests.gateway.test_app import Gated
from tests.support.client import Client, chat, post
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop, until
from tests.support.upstream import OK, Line, Received, Upstream, answer, cut, hang, whole

PATIENT = "tests.support.patient:Patient"


class WhilePrefilling(Policy):
    """Waits while anybody there waits for a first token."""

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        return Decision(int(snapshot.rows[0]), "x", wait=60.0 if snapshot.prefill[0] > 0.0 else 0.0)


class AlwaysLater(Policy):
    """The first one, and always rather a moment later."""

    def __init__(self) -> None:
        self.might_wait: list[bool] = []

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        self.might_wait.append(request.may_wait)
        return Decision(int(snapshot.rows[0]), "x", wait=0.05)


def patient(ups: list[Upstream], wait: float = 60.0, **more: Any) -> Pool:
    return pool(ups, pick=Pick(PATIENT, {"wait": wait}), **more)


def held(gateway: Running) -> int:
    return sum(len(lane.desk) for lane in gateway.gateway.proxy.lanes.values())


class Slow:
    """A plain answer that comes when its gate opens."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def __call__(self, line: Line, _: Received) -> bool:
        await self.gate.wait()
        await line.send(answer(b"{}"))
        return True


@asynccontextmanager
async def one_waits(
    made: Callable[[Upstream], Config],
) -> AsyncIterator[tuple[Running, Slow, Client, Client, Upstream]]:
    """A pool of one that is busy with the first client's request, while the second client's is held."""
    slow = Slow()
    async with (
        Upstream(slow, OK) as up,
        Running(made(up)) as gateway,
        gateway.client() as first,
        gateway.client() as second,
    ):
        first.send(post())
        await until(lambda: up.posts == 1)
        second.send(post())
        await until(lambda: held(gateway) == 1)
        yield gateway, slow, first, second, up


# --- in a gateway -------------------------------------------------------------------------------------------------


@on_uvloop
async def test_it_goes_when_a_place_is_given_back_and_the_wait_is_counted() -> None:
    async with one_waits(lambda up: config(patient([up]))) as (gateway, slow, first, second, up):
        await asyncio.sleep(0.05)
        assert up.posts == 1  # it waits here, not there
        slow.gate.set()
        assert (await first.answer()).status == 200
        said = await second.answer()
        assert said.status == 200 and int(said.named["x-headway-queued-ms"]) >= 50
        await gateway.settled(2)
        assert gateway.last.queued >= 0.05 and gateway.last.tries == 1 and gateway.last.overhead < 0.05
        page = b"".join(gateway.gateway.metrics.pages()).decode()
        assert 'headway_queue_seconds_count{class="interactive"} 2' in page
        assert 'headway_queue_seconds_bucket{class="interactive",le="0.05"} 1' in page


@on_uvloop
async def test_it_is_asked_again_when_a_first_token_comes() -> None:
    gated = Gated()
    async with (
        Upstream(gated, OK) as up,
        Running(config(pool([up], pick=Pick("tests.gateway.test_admit:WhilePrefilling")))) as gateway,
        gateway.client() as first,
        gateway.client() as second,
    ):
        first.send(post(chat(stream=True)))
        second.send(post())
        await first.head()
        assert (await second.answer()).status == 200  # while the first is still being answered
        gated.gate.set()
        assert (await first._chunks())[1]
        await gateway.settled(2)


@on_uvloop
async def test_when_its_time_is_over_it_takes_what_there_is() -> None:
    async with one_waits(lambda up: config(patient([up], wait=0.05))) as (gateway, slow, first, second, up):
        assert (await second.answer()).status == 200
        assert up.posts == 2 and not slow.gate.is_set()
        slow.gate.set()
        assert (await first.answer()).status == 200
        await gateway.settled(2)


@on_uvloop
async def test_a_policy_cannot_hold_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.admission.desk.HOLD", 0.05)
    async with one_waits(lambda up: config(patient([up], wait=1000.0))) as (gateway, slow, first, second, _):
        assert (await second.answer()).status == 200
        slow.gate.set()
        assert (await first.answer()).status == 200
        await gateway.settled(2)


@on_uvloop
async def test_the_most_urgent_goes_first() -> None:
    slow = Slow()
    seen: list[bytes] = []

    async def noted(line: Line, request: Received) -> bool:
        seen.append(request.named[b"x-request-id"])
        await line.send(answer(b"{}"))
        return True

    async with Upstream(slow, noted) as up, Running(config(patient([up]))) as gateway:
        async with gateway.client() as busy, gateway.client() as calm, gateway.client() as urgent:
            busy.send(post())
            await until(lambda: up.posts == 1)
            calm.send(post(chat(), "/v1/chat/completions", "x-request-id: calm", "x-headway-ttft-slo: 5000ms"))
            await until(lambda: held(gateway) == 1)
            urgent.send(post(chat(), "/v1/chat/completions", "x-request-id: urgent", "x-headway-ttft-slo: 100ms"))
            await until(lambda: held(gateway) == 2)
            slow.gate.set()
            for client in (busy, calm, urgent):
                assert (await client.answer()).status == 200
            assert seen == [b"urgent", b"calm"]
        await gateway.settled(3)


@on_uvloop
async def test_a_client_that_leaves_while_it_is_held_leaves_nothing() -> None:
    async with one_waits(lambda up: config(patient([up]))) as (gateway, slow, first, second, up):
        second.reset()
        await until(lambda: held(gateway) == 0)
        await until(lambda: len(gateway.records.all) == 1)
        assert gateway.last.ended == "client_gone" and gateway.last.tries == 0
        slow.gate.set()
        assert (await first.answer()).status == 200
        await gateway.settled(2)
        assert up.posts == 1


@on_uvloop
async def test_a_reload_asks_by_the_new_policy() -> None:
    async with one_waits(lambda up: config(patient([up]))) as (gateway, slow, first, second, up):
        gateway.next_config = config(pool([up]))
        assert await gateway.gateway.reload() == (True, [])
        assert (await second.answer()).status == 200 and up.posts == 2
        slow.gate.set()
        assert (await first.answer()).status == 200
        await gateway.settled(2)


@on_uvloop
async def test_who_is_held_at_a_pool_that_is_taken_away_goes_to_the_fallback_or_is_told() -> None:
    async with Upstream() as other:

        def made(up: Upstream) -> Config:
            models = [model_to("m", "p", fallback=("q",)), model_to("n", "p")]
            return config(patient([up]), pool([other], name="q"), models=models)

        async with one_waits(made) as (gateway, slow, first, second, _):
            async with gateway.client() as third:
                third.send(post(chat("n")))
                await until(lambda: held(gateway) == 2)
                gateway.next_config = config(pool([other], name="q"))
                assert await gateway.gateway.reload() == (True, [])
                assert (await second.answer()).status == 200 and other.posts == 1
                refused = await third.answer()
                assert (refused.status, refused.error["code"]) == (503, "no_endpoint")
            slow.gate.set()
            assert (await first.answer()).status == 200
            await gateway.settled(3)
            assert not gateway.gateway._pools.retired or not gateway.gateway._pools.retired[0].fleet.ours.any()


@on_uvloop
async def test_a_drain_waits_for_who_is_held() -> None:
    async with one_waits(lambda up: config(patient([up]))) as (gateway, slow, first, second, _):
        draining = asyncio.create_task(gateway.gateway.drain(0.0, 10.0))
        await asyncio.sleep(0.1)
        slow.gate.set()
        assert [(await client.answer()).status for client in (first, second)] == [200, 200]
        await draining
        assert gateway.in_flight == 0.0


@on_uvloop
async def test_a_drain_that_may_wait_no_longer_drops_who_is_held() -> None:
    async with one_waits(lambda up: config(patient([up]))) as (gateway, _, first, second, _up):
        await gateway.gateway.drain(0.0, 0.1)
        await until(lambda: gateway.in_flight == 0.0)
        assert (await first.answer()).status == 503
        await second.is_closed()  # after an answer, if the place of the first one was enough for that
        assert gateway.in_flight == 0.0


@on_uvloop
async def test_when_the_one_it_waits_for_fails_it_goes_elsewhere_or_is_told_at_once() -> None:
    # The only endpoint falls out of service with what it was doing: both are told that nobody is there.
    async with Upstream(hang()) as up:
        made = patient([up], eject=Eject(after=1), timeouts=Timeouts(total=0.2))
        async with Running(config(made)) as gateway, gateway.client() as first, gateway.client() as second:
            first.send(post())
            await until(lambda: up.posts == 1)
            second.send(post())
            await until(lambda: held(gateway) == 1)
            assert (await first.answer()).status == 504
            assert (await second.answer()).status == 504  # it was asked again, and had the same
            await gateway.settled(2)


@on_uvloop
async def test_a_further_try_is_not_held() -> None:
    slow = Slow()
    async with (
        Upstream(whole(answer(b"oops", 500))) as bad,
        Upstream(slow, OK) as good,
        Running(config(pool([bad, good], pick=Pick("tests.gateway.test_admit:AlwaysLater")))) as gateway,
        gateway.client() as client,
    ):
        client.send(post())
        await until(lambda: good.posts == 1)
        assert held(gateway) == 0 and bad.posts == 1
        slow.gate.set()
        assert (await client.answer()).status == 200
        await gateway.settled(1)
        policy = gateway.gateway.proxy.lanes["p"].policy
        assert isinstance(policy, AlwaysLater) and gateway.last.tries == 2
        # Held, asked again when its time was over (or before), and the further try.
        assert len(policy.might_wait) >= 3 and policy.might_wait[0] and policy.might_wait[-2:] == [False, False]
        assert gateway.last.queued >= 0.05


@on_uvloop
async def test_nobody_is_held_where_there_is_room() -> None:
    async with Upstream(OK) as up, Running(config(patient([up]))) as gateway, gateway.client() as client:
        for _ in range(5):
            said = await client.ask()
            assert said.status == 200 and said.named["x-headway-queued-ms"] == "0"
        await gateway.settled(5)
        assert held(gateway) == 0 and bad_news(gateway) == []


def bad_news(gateway: Running) -> list[str]:
    return [line for line in gateway.log.text.splitlines() if "error" in line]


@on_uvloop
async def test_many_that_are_held_all_have_their_turn() -> None:
    async with (
        Upstream(OK) as one,
        Upstream(OK, cut(), OK) as two,
        Running(config(patient([one, two], wait=5.0))) as gateway,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(gateway.client()) for _ in range(60)]
        for client in clients:
            client.send(post())
        assert {(await client.answer()).status for client in clients} == {200}
        await gateway.settled(60)
