"""Mirrors: what is copied, what is left out and why, and that nothing of a copy stays or is charged to anybody."""

import asyncio
import dataclasses
import json
import time
from collections import Counter

import pytest

from gateway.ask import Ask, Facts
from gateway.config.types import Pool
from gateway.core.errors import UpstreamError
from gateway.core.health import State
from gateway.core.reservation import Reservation
from gateway.mirrors.mirrors import OUTCOMES, TENANT
from tests.support.client import chat
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop, until
from tests.support.mirroring import Rig, mirrored, record
from tests.support.upstream import OK, Behaviour, Upstream, answer, chunk, cut, hang, pieces, sse, whole

TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}'
STOP = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}'
DONE = b"data: [DONE]"
STREAM = whole(sse(TOKEN, TOKEN, STOP, DONE))
LONG = whole(sse(*[TOKEN] * 30, STOP, DONE))


async def one(behaviour: Behaviour, stream: bool = False, **original: object) -> tuple[Rig, Upstream]:
    """One copied request, whose original ended like this, in the usual order."""
    async with Upstream() as primary, Upstream(behaviour) as shadow:
        made = config(pool([primary]), pool([shadow], "shadow"), models=[mirrored()])
        async with Running(made) as gateway:
            rig = Rig(gateway, made)
            copy = rig.copy(chat(stream=stream))
            copy.sent()
            await until(lambda: shadow.posts, "the copy")
            copy.ended(record(**original), "stop" if stream else "")  # type: ignore[arg-type]
            await until(lambda: rig.counted, "an outcome")
            await gateway.settled()
            assert rig.mirrors.held == 0 and not rig.bugs and not gateway.records.all
            return rig, shadow


@on_uvloop
async def test_a_copy_is_the_request_as_filler_under_its_own_id_and_nobodys_tenant() -> None:
    async with Upstream() as primary, Upstream() as shadow:
        made = config(pool([primary]), pool([shadow], "shadow"), models=[mirrored(as_="m-v2")])
        async with Running(made) as gateway:
            rig = Rig(gateway, made)
            seen = []
            desk = gateway.gateway.proxy.lanes["shadow"].desk
            route = desk.route
            desk.route = lambda guest, request, *more, **named: (  # type: ignore[method-assign]
                seen.append(request) or route(guest, request, *more, **named)  # type: ignore[func-returns-value]
            )
            copy = rig.copy(chat(temperature=0.25))
            copy.sent()
            copy.sent()
            await until(lambda: shadow.posts, "the copy")
            [request] = seen
            assert (request.id, request.klass, request.filler, request.tenant) == ("r1-mirror", "async", True, TENANT)
            assert request.ttft_slo != request.ttft_slo and not request.may_wait and request.needs == "m-v2"
            [received] = shadow.requests
            assert json.loads(received.body) == {**json.loads(chat(temperature=0.25)), "model": "m-v2"}
            assert received.named[b"x-request-id"] == b"r1-mirror" and not primary.posts
            copy.ended(record(), "")
            await gateway.settled()


@on_uvloop
async def test_a_copy_starts_only_after_its_original_was_sent_and_in_another_round_of_the_loop() -> None:
    async with Upstream() as primary, Upstream() as shadow:
        made = config(pool([primary]), pool([shadow], "shadow"), models=[mirrored()])
        async with Running(made) as gateway:
            rig = Rig(gateway, made)
            copy = rig.copy()
            await asyncio.sleep(0.02)
            assert not shadow.posts and gateway.in_flight == 0.0
            copy.sent()
            assert gateway.in_flight == 0.0
            await until(lambda: shadow.posts, "the copy")
            refused = rig.copy()
            refused.ended(record(429, "rejected"), "")
            assert rig.counted == {"unsent": 1}
            await gateway.settled()


@pytest.mark.parametrize(
    ("behaviour", "stream", "original", "outcome"),
    [
        (OK, False, {}, "same"),
        (STREAM, True, {}, "same"),
        (LONG, True, {}, "differs_length"),
        (STREAM, True, {"tokens": 100.0}, "differs_length"),
        (whole(sse(TOKEN, TOKEN, STOP.replace(b"stop", b"length"), DONE)), True, {}, "differs_finish"),
        (whole(answer(b"{}", 400)), False, {}, "differs_status"),
        (whole(answer(b"{}", 500)), False, {}, "differs_status"),
        (cut(), False, {}, "differs_status"),
        (whole(sse(TOKEN, end=False), keep=False), True, {}, "differs_status"),
        (OK, False, {"status": 500, "ended": "upstream_failed"}, "differs_status"),
        (OK, False, {"status": 200, "ended": "error_event"}, "differs_status"),
        (whole(answer(b"{}", 400)), False, {"status": 400}, "same"),
        (OK, False, {"ended": "client_gone"}, "unmatched"),
    ],
)  # fmt: skip
def test_two_answers_are_compared_by_status_finish_and_length(
    behaviour: Behaviour, stream: bool, original: dict[str, object], outcome: str
) -> None:
    @on_uvloop
    async def run() -> None:
        rig, _ = await one(behaviour, stream, **original)
        assert rig.counted == {outcome: 1} and outcome in OUTCOMES
        [view] = rig.mirrors.view()
        assert view["outcomes"] == {outcome: 1} and view["in_flight"] == 0
        json.dumps(view, allow_nan=False)

    run()


@on_uvloop
async def test_it_does_not_matter_which_of_the_two_ends_first() -> None:
    slow = pieces(sse(TOKEN, end=False), chunk(DONE + b"\n\n") + b"0\r\n\r\n")
    async with Upstream() as primary, Upstream(slow) as shadow:
        made = config(pool([primary]), pool([shadow], "shadow"), models=[mirrored()])
        async with Running(made) as gateway:
            rig = Rig(gateway, made)
            first, last = rig.copy(chat(stream=True), "first"), rig.copy(chat(stream=True), "last")
            first.sent()
            last.sent()
            first.ended(record(tokens=1.0), "")
            await until(lambda: shadow.posts == 2, "the copies")
            await gateway.settled()
            last.ended(record(tokens=1.0), "")
            assert rig.counted == {"same": 2}


# --- left out --------------------------------------------------------------------------------------------------------


async def left_out(shadow_pool: dict[str, object] | None = None, free: float = 1e9, concurrency: int = 8,
                   before: int = 0) -> tuple[Counter[str], Running]:  # fmt: skip
    """Copies, `before` of them on their way to a server that hangs when the last one comes."""
    async with Upstream() as primary, Upstream(hang()) as shadow:
        second: Pool = pool([shadow], "shadow", **(shadow_pool or {}))
        made = config(pool([primary]), second, models=[mirrored(concurrency=concurrency)])
        async with Running(made) as gateway:
            rig = Rig(gateway, made, free)
            for number in range(before):
                rig.copy(request_id=f"b{number}").sent()
            await until(lambda: shadow.posts == before, "those before")
            rig.copy().sent()
            await until(lambda: rig.counted, "a reason")
            counted = rig.counted.copy()
            assert shadow.posts == before
            rig.mirrors.close()
            await gateway.settled()
            assert rig.counted["cut_short"] == before and rig.mirrors.held == 0 and not rig.bugs
            return counted, gateway


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"concurrency": 2, "before": 2}, "busy"),
        ({"free": 100.0}, "memory"),
        ({"shadow_pool": {"max_concurrency": 1}, "before": 1}, "no_place"),
    ],
)  # fmt: skip
def test_a_copy_that_cannot_go_at_once_is_left_out_and_counted_with_why(
    more: dict[str, object], reason: str
) -> None:
    @on_uvloop
    async def run() -> None:
        counted, gateway = await left_out(**more)  # type: ignore[arg-type]
        assert counted == {reason: 1}
        assert not gateway.gateway.proxy.lanes["shadow"].desk.room

    run()


@on_uvloop
async def test_a_copy_is_left_out_where_somebody_waits_or_the_pool_has_gone() -> None:
    async with Upstream() as primary, Upstream(hang()) as shadow:
        made = config(pool([primary]), pool([shadow], "shadow", max_concurrency=1), models=[mirrored()])
        async with Running(made) as gateway:
            rig = Rig(gateway, made)
            first, second = rig.copy(), rig.copy()
            desk = gateway.gateway.proxy.lanes["shadow"].desk
            ask = rig.ask()
            async with asyncio.TaskGroup() as tasks:
                waits = [tasks.create_task(_sent(gateway, ask)) for _ in range(2)]
                await until(lambda: len(desk) == 1, "somebody who waits")
                first.sent()
                await until(lambda: rig.counted, "a reason")
                assert rig.counted == {"loaded": 1}
                for task in waits:
                    task.cancel()
            gateway.gateway.proxy.lanes = {}
            second.sent()
            await until(lambda: len(rig.counted) == 2, "a reason")
            assert rig.counted["gone"] == 1


async def _sent(gateway: Running, ask: Ask) -> None:
    """A request of the shadow pool's own, which may wait."""
    proxy, now = gateway.gateway.proxy, time.monotonic()
    lane = proxy.lanes["shadow"]
    place = lane.desk.offer(lane.visit(Facts(), proxy.decisions), ask.request, now)
    try:
        await asyncio.sleep(10.0)
    finally:
        if isinstance(place, Reservation):
            lane.give_back(place, ask.request, now)
        else:
            lane.admission.leave(place)


@on_uvloop
async def test_a_copy_that_gives_way_is_counted_and_not_held_against_its_endpoint() -> None:
    async with Upstream() as primary, Upstream(hang()) as shadow:
        made = config(pool([primary]), pool([shadow], "shadow"), models=[mirrored()])
        async with Running(made) as gateway:
            rig = Rig(gateway, made)
            copy = rig.copy()
            copy.sent()
            await until(lambda: shadow.posts, "the copy")
            lane = gateway.gateway.proxy.lanes["shadow"]
            lane._displace([relay.reservation for relay in lane.relays])
            await gateway.settled()
            assert rig.counted == {"displaced": 1}
            assert all(lane.fleet.health(row).state is State.HEALTHY for row, _ in lane.fleet.members())


# --- reload and end --------------------------------------------------------------------------------------------------


@on_uvloop
async def test_a_reload_keeps_a_mirror_that_has_not_changed_and_ends_the_copies_of_one_that_has() -> None:
    async with Upstream() as primary, Upstream(hang()) as shadow:
        made = config(pool([primary]), pool([shadow], "shadow"), models=[mirrored()])
        async with Running(made) as gateway:
            rig = Rig(gateway, made)
            copy, late = rig.copy(), rig.copy()
            copy.sent()
            await until(lambda: shadow.posts, "the copy")
            rig.mirrors.reconfigure(made)
            assert not rig.counted
            changed = dataclasses.replace(made, models={"m": mirrored(share=0.5)})
            rig.mirrors.reconfigure(changed)
            assert rig.counted == {"cut_short": 1}
            await gateway.settled()
            late.sent()
            await until(lambda: rig.counted["gone"], "a reason")
            copy.ended(record(), "")
            assert 48 <= sum(rig.offer() is not None for _ in range(100)) <= 52
            rig.mirrors.reconfigure(config(pool([primary])))
            assert rig.offer() is None and rig.mirrors.view() == []
            assert rig.counted == {"cut_short": 1, "gone": 1} and not rig.bugs


@on_uvloop
async def test_a_gateway_that_stops_does_not_wait_for_copies() -> None:
    async with Upstream() as primary, Upstream(hang()) as shadow:
        made = config(pool([primary]), pool([shadow], "shadow"), models=[mirrored()])
        async with Running(made) as gateway:
            rig = Rig(gateway, made)
            rig.copy().sent()
            await until(lambda: shadow.posts, "the copy")
            for relay in tuple(gateway.gateway.proxy.lanes["shadow"].relays):
                relay.fail(UpstreamError("the gateway is stopping", cause="stopping", status=503), "cancelled")
            await gateway.settled()
            assert rig.counted == {"cut_short": 1}
            rig.mirrors.close()
            assert rig.counted == {"cut_short": 1}


@on_uvloop
async def test_a_bug_in_making_a_copy_is_told_and_hurts_nobody() -> None:
    async with Upstream() as primary, Upstream() as shadow:
        made = config(pool([primary]), pool([shadow], "shadow"), models=[mirrored(as_="other")])
        async with Running(made) as gateway:
            rig = Rig(gateway, made)

            def broken(name: str) -> tuple[bytes, bytes]:
                raise RuntimeError("no")

            copy = rig.mirrors.offer(rig.ask(), "routes[0]", broken)
            assert copy is not None
            copy.sent()
            await until(lambda: rig.bugs, "the bug")
            assert rig.counted == {"cut_short": 1} and gateway.in_flight == 0.0
