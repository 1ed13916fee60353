"""Classes, promises and deadlines at the gateway: what a client is told, and who goes first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from gateway.config.types import EndpointSpec, FillerRule, QueueRule, TrafficClass
from gateway.core.fleet import Fleet
from gateway.core.reservation import Reservation
from gateway.core.snapshot import Snapshot
from gateway.core.types import Request
from policies.admission.filler import Filler
from tests.support.client import Answer, Client, chat, post
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop, until
from tests.support.upstream import SSE_HEAD, Line, Received, Upstream, answer, chunk

TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
PATH = "/v1/chat/completions"


class Gate:
    """Plain answers, each when somebody lets one go; `names` is who came, in order."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.left = asyncio.Semaphore(0)

    async def __call__(self, line: Line, request: Received) -> bool:
        self.names.append(request.named.get(b"x-request-id", b"").decode())
        await self.left.acquire()
        await line.send(answer(b"{}"))
        return True

    def let(self, count: int = 1) -> None:
        for _ in range(count):
            self.left.release()


def classes(**more: Any) -> dict[str, TrafficClass]:
    """One that is the default, with these settings, one above it and one below it."""
    return {
        "people": TrafficClass("people", True, 10, **more),
        "urgent": TrafficClass("urgent", False, 20),
        "bulk": TrafficClass("bulk", False, 0, QueueRule(100, 60.0, "deadline")),
    }


@asynccontextmanager
async def full(**more: Any) -> AsyncIterator[tuple[Running, Gate, list[Client]]]:
    """A pool with one place, which the first client has; four others."""
    gate = Gate()
    async with Upstream(gate) as up, AsyncExitStack() as stack:
        narrow = pool([up], endpoints=(EndpointSpec(up.url, max_concurrency=1),))
        gateway = await stack.enter_async_context(Running(config(narrow, classes=classes(**more))))
        clients = [await stack.enter_async_context(gateway.client()) for _ in range(5)]
        clients[0].send(post(None, PATH, "x-request-id: first"))
        await until(lambda: len(gate.names) == 1)
        yield gateway, gate, clients[1:]
        gate.let(10)
        await clients[0].answer()
        await gateway.settled()


async def waits(gateway: Running, client: Client, name: str, count: int, *fields: str) -> None:
    """This one comes, and so many wait then."""
    client.send(post(None, PATH, f"x-request-id: {name}", *fields))
    await until(lambda: len(gateway.gateway.proxy.lanes["p"].desk) == count, f"{name} in the queue")


def no(said: Answer) -> tuple[int, str]:
    """What a refusal says, which must be said everywhere alike."""
    assert said.named["x-headway-reason"] == said.error["code"]
    assert "retry-after" in said.named or said.named["x-should-retry"] == "false"
    return said.status, said.error["code"]


@on_uvloop
async def test_a_promise_that_cannot_be_kept_any_more_is_refused_when_that_is_sure() -> None:
    async with full() as (gateway, _, (client, *_others)):
        said = await client.ask(PATH, chat(), "x-headway-ttft-slo: 60ms")
        assert no(said) == (429, "slo") and int(said.named["retry-after"]) >= 1
        await until(lambda: len(gateway.records.all) == 1)
        assert 0.05 <= gateway.last.queued < 1.0 and gateway.last.tries == 0


@on_uvloop
async def test_or_served_late_where_its_class_says_so() -> None:
    async with full(late="serve") as (gateway, gate, (late, new, *_)):
        await waits(gateway, late, "late", 1, "x-headway-ttft-slo: 20ms")
        await asyncio.sleep(0.05)
        await waits(gateway, new, "new", 2, "x-headway-ttft-slo: 5000ms")
        gate.let(3)
        assert [(await client.answer()).status for client in (late, new)] == [200, 200]
        assert gate.names == ["first", "new", "late"]


@on_uvloop
async def test_a_deadline_that_passes_while_it_waits_is_refused_then() -> None:
    async with full() as (_, _gate, (client, *_others)):
        assert no(await client.ask(PATH, chat(), "x-headway-deadline: 60ms")) == (429, "deadline")


@on_uvloop
async def test_a_queue_that_is_full_or_too_slow_says_so() -> None:
    async with full(queue=QueueRule(1, 0.1, "fifo")) as (gateway, _, (first, second, *_others)):
        await waits(gateway, first, "first", 1)
        assert no(await second.ask()) == (429, "queue_full")
        assert no(await first.answer()) == (429, "queue_timeout")


@on_uvloop
async def test_a_higher_class_goes_first_and_within_one_who_has_least_time_left() -> None:
    async with full() as (gateway, gate, (a, b, c, d)):
        await waits(gateway, a, "calm", 1, "x-headway-class: bulk", "x-headway-deadline: 50s")
        await waits(gateway, b, "soon", 2, "x-headway-class: bulk", "x-headway-deadline: 20s")
        await waits(gateway, c, "people", 3)
        await waits(gateway, d, "urgent", 4, "x-headway-class: urgent")
        queues = gateway.gateway.gauges.queues()["p"]
        assert [queues[name].waiting for name in ("urgent", "people", "bulk")] == [1, 1, 2]
        assert queues["people"].inflight == 1
        gate.let(5)
        assert [(await client.answer()).status for client in (a, b, c, d)] == [200] * 4
        assert gate.names == ["first", "urgent", "people", "soon", "calm"]


@on_uvloop
async def test_a_pool_s_own_limit_holds_over_all_its_endpoints() -> None:
    gate = Gate()
    async with Upstream(gate) as one, Upstream(gate) as two, AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(Running(config(pool([one, two], max_concurrency=3))))
        clients = [await stack.enter_async_context(gateway.client()) for _ in range(5)]
        for client in clients:
            client.send(post())
        await until(lambda: len(gate.names) == 3 and len(gateway.gateway.proxy.lanes["p"].desk) == 2)
        gate.let(5)
        assert [(await client.answer()).status for client in clients] == [200] * 5
        await gateway.settled(5)


class Shut(Filler):
    """Filler's control, which a test shuts: nothing goes then, and what runs gives way."""

    is_shut = False

    def open_rows(self, request: Request, snapshot: Snapshot, now: float, aborted: int = 0) -> Snapshot | None:
        return None if self.is_shut else snapshot

    def victims(self, fleet: Any, now: float) -> list[Any]:
        return [relay for running in self._ledger.rows.values() for relay in running] if self.is_shut else []


@on_uvloop
async def test_filler_that_gives_way_waits_again_and_is_answered_once() -> None:
    gate = Gate()
    async with Upstream(gate) as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        lane, control = gateway.gateway.proxy.lanes["p"], Shut(FillerRule())
        lane.admit_by(lane._rules, control)
        client.send(post(None, PATH, "x-headway-class: async"))
        await until(lambda: len(gate.names) == 1)
        control.is_shut = True
        await until(lambda: len(lane.desk) == 1 and not lane.relays, "filler in the queue again")
        assert lane.fleet.ours.sum() == 0.0
        control.is_shut = False
        await until(lambda: len(gate.names) == 2)
        gate.let(2)
        assert (await client.answer()).status == 200
        await gateway.settled(1)
        assert gateway.last.tries == 1


@on_uvloop
async def test_a_stream_that_had_begun_when_it_gave_way_ends_with_an_error() -> None:
    async def begins(line: Line, _: Received) -> bool:
        await line.send(SSE_HEAD + chunk(TOKEN))
        await asyncio.sleep(10.0)
        return False

    async with Upstream(begins) as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        lane, control = gateway.gateway.proxy.lanes["p"], Shut(FillerRule())
        lane.admit_by(lane._rules, control)
        client.send(post(chat(stream=True), PATH, "x-headway-class: async"))
        assert (await client.head())[0] == 200
        control.is_shut = True
        body, _ = await client._chunks()
        assert b"error" in body and b"[DONE]" not in body
        await gateway.settled(1)
        assert gateway.last.ended == "cancelled" and up.posts == 1


@on_uvloop
async def test_an_answer_that_streams_to_a_client_is_not_stopped_to_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    admitted, seen = Filler.admitted, []

    def admit(self: Filler, reservation: Reservation, request: Request, now: float, aborted: int = 0) -> None:
        seen.append((reservation, aborted))
        admitted(self, reservation, request, now, aborted)

    def victims(self: Filler, fleet: Fleet, now: float) -> list[Reservation]:
        """Somebody is always in the way."""
        return [place for place, aborted in seen if aborted < self.rule.aborts and not place.settled]

    async def slowly(line: Line, _: Received) -> bool:
        await line.send(SSE_HEAD + chunk(TOKEN))
        await asyncio.sleep(0.6)  # several sweeps
        await line.send(chunk(TOKEN) + b"0\r\n\r\n")
        return True

    monkeypatch.setattr(Filler, "admitted", admit)
    monkeypatch.setattr(Filler, "victims", victims)
    async with Upstream(slowly) as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        said = await client.ask(PATH, chat(stream=True), "x-headway-class: async")
        assert said.status == 200 and said.whole and b"error" not in said.body
        await gateway.settled(1)
        assert gateway.last.admission is None or gateway.last.admission.displaced == 0
