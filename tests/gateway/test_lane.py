"""A pool at run time: the budget of further tries, what failures say, silence, and whose connections are whose."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.errors import UpstreamError
from gateway.core.health import State
from gateway.lane import Budget, Lane
from tests.support.client import chat, post
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop, until
from tests.support.upstream import SSE_HEAD, Line, Received, Upstream, chunk, hang, sse, whole

TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}'


def test_a_budget_is_a_share_of_requests_and_a_start_for_quiet_pools() -> None:
    budget = Budget(0.2)
    assert sum(budget.spend() for _ in range(100)) == 10
    for _ in range(100):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) in (10, 9)
    for _ in range(10_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == 10  # a quiet year is no licence for a storm
    nothing = Budget(0.0)
    while nothing.spend():
        pass
    nothing.earn()
    assert not nothing.spend()


def lane_of(gateway: Running, name: str = "p") -> Lane:
    return gateway.gateway.proxy.lanes[name]


@pytest.mark.parametrize(
    ("cause", "state", "moves_on"),
    [("status_500", "suspect", False), ("closed", "suspect", False), ("first_token", "suspect", False),
     ("saturated", "healthy", False), ("leaving", "ejected", True),
     ("refused", "suspect", True), ("hung", "healthy", True)],
)  # fmt: skip
def test_each_cause_says_its_own_of_the_endpoint(cause: str, state: str, moves_on: bool) -> None:
    @on_uvloop
    async def run() -> None:
        async with Upstream() as one, Upstream() as two, Running(config(pool([one, two]))) as gateway:
            lane = lane_of(gateway)
            (row, endpoint), _ = list(lane.fleet.members())
            error = UpstreamError("x", cause=cause)
            assert lane.see_failure(row, endpoint.id, error, gateway.gateway.now()) is moves_on
            assert lane.fleet.health(row).state.value == state

    run()


@on_uvloop
async def test_a_failure_of_one_that_left_says_nothing_of_who_has_its_row() -> None:
    async with Upstream() as one, Running(config(pool([one]))) as gateway:
        lane = lane_of(gateway)
        assert lane.see_failure(0, "gone:1", UpstreamError("x", cause="closed"), 0.0) is True
        assert lane.fleet.health(0).state is State.HEALTHY


@on_uvloop
async def test_an_endpoint_that_falls_silent_is_found_and_what_waits_there_moves() -> None:
    async with (
        Upstream(whole(sse(TOKEN, TOKEN))) as one,
        Upstream(whole(sse(TOKEN, TOKEN))) as two,
        Running(config(pool([one, two]))) as gateway,
        gateway.client() as client,
    ):
        for _ in range(25):
            assert (await client.ask(body=chat(stream=True))).whole
        lane = lane_of(gateway)
        lane.learn_pace()
        one.script.clear()
        one.script.append(hang(SSE_HEAD))
        client.send(post(chat(stream=True)))
        await until(lambda: one.posts == 26)
        now = gateway.gateway.now()
        lane.sweep(now + 3.0)
        assert lane.relays
        lane.sweep(now + 60.0 - 1.0)  # long before the first-token time-out would be, were it not for the silence
        said = await client.answer()
        assert said.status == 200 and said.whole and said.named["x-headway-endpoint"] == two.url
        states = {endpoint.url: lane.fleet.health(row).state for row, endpoint in lane.fleet.members()}
        assert states[one.url] is State.EJECTED and states[two.url] is State.HEALTHY
        await gateway.settled(26)


@on_uvloop
async def test_a_stream_that_has_started_on_a_silent_endpoint_is_left_to_its_own_time_outs() -> None:
    go = asyncio.Event()

    async def halting(line: Line, _: Received) -> bool:
        await line.send(SSE_HEAD + chunk(TOKEN + b"\n\n"))
        await go.wait()
        await line.send(chunk(TOKEN + b"\n\n") + b"0\r\n\r\n")
        return True

    async with (
        Upstream(whole(sse(TOKEN, TOKEN))) as one,
        Upstream() as two,
        Running(config(pool([one, two]))) as gateway,
        gateway.client() as client,
    ):
        for _ in range(25):
            await client.ask(body=chat(stream=True))
        lane = lane_of(gateway)
        lane.learn_pace()
        one.script.clear()
        one.script.append(halting)
        client.send(post(chat(stream=True)))
        await client.head()
        lane.sweep(gateway.gateway.now() + 20.0)
        row = next(row for row, endpoint in lane.fleet.members() if endpoint.url == one.url)
        assert lane.fleet.health(row).state is State.EJECTED
        go.set()
        body, whole_ = await client._chunks()
        assert body == (TOKEN + b"\n\n") * 2 and whole_


@on_uvloop
async def test_an_endpoint_whose_answer_waits_for_a_slow_client_is_not_silent() -> None:
    async with (
        Upstream(whole(sse(TOKEN, TOKEN))) as one,
        Upstream() as two,
        Running(config(pool([one, two]))) as gateway,
        gateway.client() as slow,
        gateway.client() as waiting,
    ):
        for _ in range(25):
            await slow.ask(body=chat(stream=True))
        lane = lane_of(gateway)
        lane.learn_pace()
        one.script.clear()
        one.script += [hang(SSE_HEAD + chunk(TOKEN + b"\n\n")), hang(SSE_HEAD)]
        slow.send(post(chat(stream=True)))
        await slow.head()
        (flowing,) = lane.relays
        waiting.send(post(chat(stream=True)))
        await until(lambda: one.posts == 27)
        now = gateway.gateway.now() + 20.0
        flowing.reply.paused, flowing.last_at = True, now - 1.0  # its last piece filled the client's buffer
        lane.sweep(now)
        assert lane.fleet.health(flowing.reservation.row).state is State.HEALTHY
        lane.sweep(now + 5.0)
        assert lane.fleet.health(flowing.reservation.row).state is State.EJECTED


@on_uvloop
async def test_connections_follow_an_endpoint_that_keeps_its_id_and_changes_its_url() -> None:
    async with Upstream() as one, Running(config(pool([one]))) as gateway:
        lane = lane_of(gateway)
        before = lane.connections("a", "http://127.0.0.1:1")
        assert lane.connections("a", "http://127.0.0.1:1") is before
        assert lane.connections("a", "http://127.0.0.1:2").url == "http://127.0.0.1:2"


@on_uvloop
async def test_connections_of_an_endpoint_that_left_are_closed() -> None:
    async with Upstream() as one, Running(config(pool([one]))) as gateway, gateway.client() as client:
        await client.ask()
        await gateway.settled()
        lane = lane_of(gateway)
        lane.fleet.update([], gateway.gateway.now())
        lane.reap(gateway.gateway.now())
        await until(lambda: one.lines[-1].closed.is_set())


@on_uvloop
async def test_one_whose_class_a_reload_took_away_is_told_to_engines_as_least_urgent() -> None:
    async with Upstream() as up, Running(config(pool([up], engine="vllm", priority=True))) as gateway:
        lane = lane_of(gateway)
        backend = lane.backend_for(up.url)
        assert (
            lane.with_priority(b"{}", "gone", backend)
            == lane.with_priority(b"{}", "async", backend)
            == b'{"priority":10}'
        )


@on_uvloop
async def test_a_bug_of_ours_while_a_request_is_sent_leaves_no_connection_open(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        Upstream() as up,
        Running(config(pool([up], engine="vllm", priority=True))) as gateway,
        gateway.client() as client,
    ):
        assert (await client.ask()).status == 200

        def fail(*_: object) -> bytes:
            raise KeyError("a bug")

        monkeypatch.setattr(lane_of(gateway), "with_priority", fail)
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        assert (await client.ask()).status == 500
        await until(lambda: up.lines[0].closed.is_set(), "the end of the connection that was taken")
        await gateway.settled(2)
        assert (gateway.last.ended, up.posts) == ("cancelled", 1)
