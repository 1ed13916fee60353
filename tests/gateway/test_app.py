"""A running gateway: reloads between requests, draining, TLS from the configuration, and what it says of itself."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from gateway.config.loader import Loaded
from gateway.config.types import EndpointSpec, Limits, Pick, Retry, UpstreamTls, model_to
from tests.support.client import Client, chat, post
from tests.support.gateway import Running, config, limits, pool
from tests.support.loop import on_uvloop, until
from tests.support.upstream import OK, SSE_HEAD, Line, Received, Upstream, answer, chunk, hang, whole

TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}'


class Gated:
    """A stream that sends one token, waits for its gate, sends another and ends."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def __call__(self, line: Line, _: Received) -> bool:
        await line.send(SSE_HEAD + chunk(TOKEN + b"\n\n"))
        await self.gate.wait()
        await line.send(chunk(TOKEN + b"\n\n") + b"0\r\n\r\n")
        return True


# --- reload -------------------------------------------------------------------------------------------------------


@on_uvloop
async def test_a_reload_swaps_between_two_requests_and_streams_go_on() -> None:
    gated = Gated()
    async with (
        Upstream(gated) as old,
        Upstream() as new,
        Running(config(pool([old]))) as gateway,
        gateway.client() as streaming,
        gateway.client() as client,
    ):
        streaming.send(post(chat(stream=True)))
        await streaming.head()
        gateway.next_config = config(pool([new]), limits=limits(body=1000), models=[model_to("m", "p", aliases=("n",))])
        assert await gateway.gateway.reload() == (True, [])
        said = await client.ask(body=chat("n"))
        assert said.status == 200 and said.named["x-headway-endpoint"] == new.url
        assert (await client.ask(body=b"x" * 2000)).status == 413
        gated.gate.set()
        assert await streaming._chunks() == ((TOKEN + b"\n\n") * 2, True)
        await gateway.settled(3)


@on_uvloop
async def test_a_reload_can_take_away_the_pool_of_a_running_stream() -> None:
    gated = Gated()
    async with (
        Upstream(gated) as old,
        Upstream() as new,
        Running(config(pool([old]), pool([new], "q"))) as gateway,
        gateway.client() as streaming,
    ):
        streaming.send(post(chat(stream=True)))
        await streaming.head()
        gateway.next_config = config(pool([new], "q"))
        assert (await gateway.gateway.reload())[0]
        gated.gate.set()
        assert await streaming._chunks() == ((TOKEN + b"\n\n") * 2, True)
        async with gateway.client() as client:
            assert (await client.ask()).named["x-headway-pool"] == "q"


@on_uvloop
async def test_a_bad_reload_changes_nothing_and_is_said() -> None:
    async with Upstream() as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        before = gateway.gateway.config
        gateway.next_config = ValueError("line 3: what is this\nline 4: and this")
        assert await gateway.gateway.reload() == (False, ["line 3: what is this", "line 4: and this"])
        gateway.next_config = config(pool([up], tls=UpstreamTls(ca="/nowhere/ca.pem")))
        assert not (await gateway.gateway.reload())[0]
        gateway.next_config = config(pool([up], pick=Pick("least_tokens", {"nonsense": 1})))
        assert not (await gateway.gateway.reload())[0]
        moved = config(pool([up]), state="elsewhere")
        gateway.next_config = moved
        ok, problems = await gateway.gateway.reload()
        assert not ok and "needs a restart" in problems[0] and "state" in problems[0]
        assert gateway.gateway.config is before and (await client.ask()).status == 200
        assert gateway.log.text.count("reload_refused") == 4


@on_uvloop
async def test_of_two_reloads_at_once_the_one_that_read_last_wins() -> None:
    async with Upstream() as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        older, newer = (config(pool([up]), models=[model_to("m", "p", aliases=(name,))]) for name in ("old", "new"))
        slow = asyncio.Event()
        loads = [(older, slow), (newer, None)]

        async def read() -> Loaded:
            found, wait = loads.pop(0)
            if wait is not None:
                await wait.wait()
            return Loaded(found)

        gateway.read = read  # type: ignore[method-assign]
        reloads = [asyncio.create_task(gateway.gateway.reload()) for _ in range(2)]
        for _ in range(5):
            await asyncio.sleep(0)
        slow.set()
        assert await asyncio.gather(*reloads) == [(True, []), (True, [])]
        assert (await client.ask(body=chat("new"))).status == 200


@on_uvloop
async def test_a_model_can_move_to_a_pool_that_is_new() -> None:
    async with Upstream() as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        for number in range(10):
            gateway.next_config = config(pool([up], f"pool-{number}"))
            assert (await gateway.gateway.reload())[0]
            said = await client.ask()
            assert (said.status, said.named["x-headway-pool"]) == (200, f"pool-{number}")


@on_uvloop
async def test_many_reloads_under_load_fail_no_request() -> None:
    async with Upstream() as one, Upstream() as two, Upstream() as three, Running(config(pool([one, two]))) as gateway:
        statuses: list[int] = []
        is_over = False

        async def load() -> None:
            async with gateway.client() as client:
                while not is_over:
                    statuses.append((await client.ask()).status)

        workers = [asyncio.create_task(load()) for _ in range(4)]
        for number in range(60):
            several = [[one, two], [two, three], [three, one], [one, two, three]][number % 4]
            policy = Pick(["least_tokens", "round_robin", "least_inflight"][number % 3])
            gateway.next_config = config(pool(several, pick=policy), limits=Limits(body=10_000 + number))
            assert (await gateway.gateway.reload())[0]
            await asyncio.sleep(0.01)
        is_over = True
        await asyncio.gather(*workers)
        assert set(statuses) == {200} and len(statuses) > 100
        await gateway.settled(len(statuses))


@on_uvloop
async def test_an_endpoint_that_leaves_finishes_what_it_has_and_gets_nothing_new() -> None:
    gated = Gated()
    async with (
        Upstream(gated, OK) as old,
        Upstream() as new,
        Running(config(pool([old, new]))) as gateway,
        gateway.client() as streaming,
        gateway.client() as client,
    ):
        streaming.send(post(chat(stream=True)))
        await streaming.head()
        gateway.next_config = config(pool([new]))
        await gateway.gateway.reload()
        for _ in range(3):
            assert (await client.ask()).status == 200
        assert (old.posts, new.posts) == (1, 3)
        gated.gate.set()
        assert (await streaming._chunks())[1]
        await gateway.settled(4)


# --- draining -----------------------------------------------------------------------------------------------------


@on_uvloop
async def test_draining_turns_ready_off_lets_streams_finish_and_then_closes_everything() -> None:
    gated = Gated()
    async with (
        Upstream(gated, OK) as up,
        Running(config(pool([up]))) as gateway,
        gateway.client() as streaming,
        gateway.client() as client,
        gateway.client() as idle,
    ):
        assert (await idle.get("/readyz")).status == 200
        streaming.send(post(chat(stream=True)))
        await streaming.head()
        draining = asyncio.create_task(gateway.gateway.drain(0.2, 20.0))
        await asyncio.sleep(0.05)
        assert (await client.get("/readyz")).status == 503 and (await client.get("/healthz")).status == 200
        async with gateway.client() as late:  # within the delay new connections are still served
            assert (await late.ask()).status == 200
        await until(lambda: gateway.gateway.server.is_draining)
        with pytest.raises(ConnectionError):
            await gateway.client().__aenter__()
        assert (await client.get("/healthz")).named["connection"] == "close"
        gated.gate.set()
        assert await streaming._chunks() == ((TOKEN + b"\n\n") * 2, True)
        assert await idle.is_closed()
        await asyncio.wait_for(draining, 10.0)


@on_uvloop
async def test_what_does_not_finish_in_time_gets_an_error_event_or_an_answer_and_is_not_tried_again() -> None:
    async with Upstream(hang(SSE_HEAD + chunk(TOKEN + b"\n\n")), hang()) as up, Upstream() as other:
        made = config(pool([up, other], retry=Retry(tries=3)))
        async with Running(made) as gateway, gateway.client() as streaming, gateway.client() as waiting:
            streaming.send(post(chat(stream=True)))
            await streaming.head()
            waiting.send(post())
            await until(lambda: up.posts == 2)
            draining = asyncio.create_task(gateway.gateway.drain(0.0, 0.2))
            body, is_whole = await streaming._chunks()
            assert body.startswith(TOKEN + b'\n\ndata: {"error":') and not is_whole
            said = await waiting.answer()
            assert said.status == 503 and other.posts == 0
            await asyncio.wait_for(draining, 10.0)
            await gateway.settled(2)


# --- what it says of itself ---------------------------------------------------------------------------------------


@on_uvloop
async def test_it_is_not_ready_while_every_model_server_is_down() -> None:
    async with Upstream() as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        assert (await client.get("/readyz")).status == 200
        await up.stop()
        for _ in range(4):
            await client.ask()
        assert (await client.get("/readyz")).status == 503


@on_uvloop
async def test_metrics_count_requests_failures_tries_and_those_who_left() -> None:
    async with (
        Upstream(whole(answer(b"x", 500)), hang()) as up,
        Upstream() as other,
        Running(config(pool([up, other]))) as gateway,
        gateway.client() as client,
    ):
        assert (await client.ask()).status == 200
        client.send(post())
        await until(lambda: up.posts == 2)
        client.writer.close()
        await gateway.settled(2)
        async with Client(gateway.admin_port) as admin:
            page = (await admin.get("/metrics")).body.decode()
    lines = [line for line in page.splitlines() if not line.startswith("#")]

    def value(name: str, *labels: str) -> float:
        found = [line for line in lines if line.startswith(name) and all(label in line for label in labels)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    assert value("headway_requests_total", 'code="200"', 'model="m"') == 1.0
    assert value("headway_upstream_failures_total", str(up.port)) == 1.0
    assert value("headway_retries_total") == 1.0 and value("headway_client_gone_total") == 1.0
    assert value("headway_endpoint_inflight{") == 0.0


@on_uvloop
async def test_no_key_is_written_down_anywhere() -> None:
    import hashlib

    from gateway.config.types import Key, Secret

    marker = "sk-marker-that-must-not-show"
    made_pool = [Upstream()]
    async with made_pool[0] as up:
        made = config(pool([up], api_key=Secret("sk-upstream-marker")),
                      keys=(Key(hashlib.sha256(marker.encode()).digest(), "t"),))  # fmt: skip
        async with Running(made) as gateway, gateway.client() as client:
            seen: list[Any] = []
            for line in (f"Authorization: Bearer {marker}", f"x-api-key: {marker}x", f"api-key: {marker}"):
                for path_ in ("/v1/chat/completions", "/nowhere"):
                    seen.append((await client.ask(path_, None, line)).raw_head)
            await gateway.settled()
            async with Client(gateway.admin_port) as admin:
                for page in ("/metrics", "/api/config", "/api/endpoints", "/"):
                    seen.append((await admin.get(page)).body)
            seen += [repr(gateway.records.all), gateway.log.text, repr(gateway.gateway.config)]
    assert marker not in repr(seen) and "sk-upstream-marker" not in repr(seen)


@on_uvloop
async def test_a_gateway_of_many_endpoints_answers_fast_enough_to_be_asked_in_a_loop() -> None:
    async with Upstream() as up:
        specs = tuple(EndpointSpec(f"{up.url}/{number}") for number in range(64))
        made = config(pool([], endpoints=specs, pick=Pick("least_tokens")))
        async with Running(made) as gateway, gateway.client() as client:
            began = time.monotonic()
            for _ in range(200):
                assert (await client.ask()).status == 200
            assert time.monotonic() - began < 20.0
            assert len({request.target for request in up.requests}) > 20
