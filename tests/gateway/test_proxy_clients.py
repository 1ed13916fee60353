"""Clients that leave in every phase, wait for room, or come all at once; and what their requests become upstream."""

import asyncio
import json
from collections.abc import Sequence

import pytest

from gateway.config.types import EndpointSpec, Pick, model_to
from gateway.core.health import Evidence
from gateway.wire.pool import EndpointPool
from gateway.wire.upstream import UpstreamConnection
from policies.admission.base import ClassRule
from tests.support.client import chat, post
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop, until
from tests.support.ports import free_port
from tests.support.upstream import SSE_HEAD, Behaviour, Line, Received, Upstream, answer, chunk, hang

TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}'


async def leave_while(behaviour: Behaviour, *, ready: Sequence[bytes] = (), how: str = "close") -> None:
    """A client that goes away once the upstream has been asked (and, if named, after these bytes came)."""
    async with Upstream(behaviour) as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        client.send(post(chat(stream=True)))
        await up.arrived.wait()
        for expected in ready:
            await client.reader.readuntil(expected)
        if how == "reset":
            client.reset()
        elif how == "half":
            client.writer.write_eof()
        else:
            client.writer.close()
        await asyncio.wait_for(up.lines[-1].closed.wait(), 1.0)
        await gateway.settled(1)
        assert (gateway.last.ended, gateway.last.tries) == ("client_gone", 1)
        assert not gateway.gateway.server.connections


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize(
    ("behaviour", "ready"),
    [(hang(), []), (hang(SSE_HEAD + chunk(b": c\n\n")), []), (hang(SSE_HEAD + chunk(TOKEN + b"\n\n")), [b"\n\n"])],
    ids=["before the head", "in prefill", "in the stream"],
)
def test_a_client_that_goes_away_ends_the_upstream_request(behaviour: Behaviour, ready: list[bytes], how: str) -> None:
    on_uvloop(leave_while)(behaviour, ready=ready, how=how)


@on_uvloop
async def test_a_client_that_goes_away_while_waiting_for_room_leaves_the_queue() -> None:
    async with Upstream(hang()) as up:
        full = pool([up], endpoints=(EndpointSpec(up.url, max_concurrency=1),))
        async with Running(config(full)) as gateway, gateway.client() as first, gateway.client() as second:
            first.send(post())
            await up.arrived.wait()
            second.send(post())
            lane = gateway.gateway.proxy.lanes["p"]
            await until(lambda: len(lane.desk) == 1, "the second request in the queue")
            second.writer.close()
            await until(lambda: len(lane.desk) == 0, "an empty queue")
            first.writer.close()
            await gateway.settled(2)
            assert [record.ended for record in gateway.records.all] == ["client_gone"] * 2 and up.posts == 1


@on_uvloop
async def test_a_request_waits_here_for_its_turn_and_goes_when_there_is_room() -> None:
    gates = [asyncio.Event() for _ in range(3)]
    running = 0
    most = 0

    async def gated(line: Line, request: Received) -> bool:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gates[int(request.named[b"x-number"])].wait()
        running -= 1
        await line.send(answer(b"{}"))
        return True

    async with Upstream(gated) as up:
        full = pool([up], endpoints=(EndpointSpec(up.url, max_concurrency=1),))
        async with (
            Running(config(full)) as gateway,
            gateway.client() as a,
            gateway.client() as b,
            gateway.client() as c,
        ):
            waiting = gateway.gateway.proxy.lanes["p"].desk
            for number, client in enumerate((a, b, c)):
                client.send(post(None, "/v1/chat/completions", f"x-number: {number}"))
                await until(lambda n=number: up.posts == 1 and len(waiting) == n)  # type: ignore[misc]
            for gate in gates:
                gate.set()
            said = [await client.answer() for client in (a, b, c)]
            assert [one.status for one in said] == [200] * 3 and most == 1
            assert [request.named[b"x-number"] for request in up.requests] == [b"0", b"1", b"2"]
            assert int(said[2].named["x-headway-queued-ms"]) >= 0
            await gateway.settled(3)


@on_uvloop
async def test_a_full_pool_is_left_for_its_fallback_after_a_while_and_an_unhealthy_one_at_once() -> None:
    async with Upstream(hang()) as busy, Upstream() as spare:
        full = pool([busy], endpoints=(EndpointSpec(busy.url, max_concurrency=1),))
        model = model_to("m", "p", fallback=("q",), fallback_after=0.2)
        async with (
            Running(config(full, pool([spare], "q"), models=[model])) as gateway,
            gateway.client() as first,
            gateway.client() as second,
        ):
            first.send(post())
            await busy.arrived.wait()
            said = await second.ask()
            assert (said.status, said.named["x-headway-pool"]) == (200, "q")
            assert int(said.named["x-headway-queued-ms"]) >= 150
    async with Upstream() as spare:
        dead = pool([f"http://127.0.0.1:{free_port()}"])
        async with Running(config(dead, pool([spare], "q"), models=[model])) as gateway, gateway.client() as client:
            for _ in range(3):
                said = await client.ask()
                assert (said.status, said.named["x-headway-pool"]) == (200, "q")


@on_uvloop
async def test_a_full_queue_refuses_at_once_unless_there_is_a_fallback() -> None:
    async with Upstream(hang()) as busy, Upstream() as spare:
        full = pool([busy], endpoints=(EndpointSpec(busy.url, max_concurrency=1),))
        for fallback in ((), ("q",)):
            busy.arrived.clear()
            model = model_to("m", "p", fallback=fallback, fallback_after=5.0)
            async with (
                Running(config(full, pool([spare], "q"), models=[model])) as gateway,
                gateway.client() as first,
                gateway.client() as second,
            ):
                gateway.gateway.proxy.lanes["p"].admit_by([ClassRule(limit=0)], None)
                first.send(post())
                await busy.arrived.wait()
                said = await second.ask()
                if fallback:
                    assert (said.status, said.named["x-headway-pool"]) == (200, "q")
                else:
                    assert (said.status, said.error["code"]) == (429, "queue_full")
                    assert said.named["x-headway-reason"] == "queue_full" and int(said.named["retry-after"]) >= 1


@on_uvloop
async def test_who_waits_when_every_endpoint_goes_down_is_told_at_once() -> None:
    async with Upstream(hang()) as busy:
        full = pool([busy], endpoints=(EndpointSpec(busy.url, max_concurrency=1),))
        async with Running(config(full)) as gateway, gateway.client() as first, gateway.client() as second:
            first.send(post())
            await busy.arrived.wait()
            second.send(post())
            lane = gateway.gateway.proxy.lanes["p"]
            await until(lambda: len(lane.desk) == 1)
            for _ in range(2):
                lane.fleet.see(0, Evidence.REFUSED, gateway.gateway.now())
            first.writer.close()
            said = await second.answer()
            assert (said.status, said.error["code"]) == (503, "no_endpoint")


@on_uvloop
async def test_a_request_is_written_afresh_with_the_endpoints_own_host_and_path() -> None:
    async with Upstream() as up:
        made = pool([up.url + "/base"])
        async with Running(config(made)) as gateway, gateway.client() as client:
            body = b'{ "model" : "m","messages":[] ,"x":1.10}'
            await client.ask("/v1/chat/completions?a=b%20c", body, "x-keep: yes", "Connection: x-drop", "X-Drop: 1")
            got = up.requests[0]
            assert got.line == b"POST /base/v1/chat/completions?a=b%20c HTTP/1.1"
            assert got.named[b"host"] == up.url[7:].encode() and got.body == body
            assert got.named[b"x-keep"] == b"yes" and b"x-drop" not in got.named


@on_uvloop
async def test_simultaneous_equal_requests_spread_evenly() -> None:
    async with (
        Upstream(hang()) as a,
        Upstream(hang()) as b,
        Upstream(hang()) as c,
        Upstream(hang()) as d,
        Running(config(pool([a, b, c, d], pick=Pick("least_tokens")))) as gateway,
    ):
        clients = [gateway.client() for _ in range(32)]
        for client in clients:
            await client.__aenter__()
            client.send(post())
        await until(lambda: sum(up.posts for up in (a, b, c, d)) == 32)
        assert [up.posts for up in (a, b, c, d)] == [8, 8, 8, 8]
        for client in clients:
            client.writer.close()
        await gateway.settled(32)


@on_uvloop
async def test_a_connection_that_is_made_as_its_client_leaves_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Upstream() as up, Running(config(pool([up]))) as gateway, gateway.client() as client:
        made: list[UpstreamConnection] = []
        connect = EndpointPool.connect

        async def connect_and_lose_the_client(self: EndpointPool) -> UpstreamConnection:
            made.append(await connect(self))
            for connection in gateway.gateway.server.connections:  # its task ends now, its story is told a turn later
                asyncio.get_running_loop().call_soon(connection.eof_received)
            return made[-1]

        monkeypatch.setattr(EndpointPool, "connect", connect_and_lose_the_client)
        client.send(post())
        await gateway.settled(1)
        assert gateway.last.ended == "client_gone" and up.posts == 0
        await until(lambda: made[0].transport.is_closing(), "the end of the unused connection")


@on_uvloop
async def test_who_waits_for_a_fallback_since_the_first_pool_is_down_gets_the_place_that_becomes_free_there() -> None:
    gate = asyncio.Event()

    async def gated(line: Line, request: Received) -> bool:
        await gate.wait()
        await line.send(answer(b"{}"))
        return True

    async with Upstream() as down, Upstream(gated) as spare:
        narrow = pool([spare], "q", endpoints=(EndpointSpec(spare.url, max_concurrency=1),))
        model = model_to("m", "p", fallback=("q",), fallback_after=0.05)
        async with (
            Running(config(pool([down]), narrow, models=[model])) as gateway,
            gateway.client() as first,
            gateway.client() as second,
        ):
            lanes = gateway.gateway.proxy.lanes
            for _ in range(2):
                lanes["p"].fleet.see(0, Evidence.REFUSED, gateway.gateway.now())
            first.send(post())
            await spare.arrived.wait()
            second.send(post())
            await until(lambda: len(lanes["q"].desk) == 1, "a request that waits at the fallback")
            gate.set()
            for client in (first, second):
                said = await client.answer()
                assert (said.status, said.named["x-headway-pool"]) == (200, "q")


@on_uvloop
async def test_a_turn_that_comes_as_its_client_leaves_goes_to_the_next() -> None:
    async with Upstream(hang()) as busy:
        full = pool([busy], endpoints=(EndpointSpec(busy.url, max_concurrency=1),))
        async with (
            Running(config(full)) as gateway,
            gateway.client() as first,
            gateway.client() as second,
            gateway.client() as third,
        ):
            lane = gateway.gateway.proxy.lanes["p"]
            first.send(post())
            await busy.arrived.wait()
            second.send(post())
            await until(lambda: len(lane.desk) == 1)
            own = second.writer.get_extra_info("sockname")
            connections = gateway.gateway.server.connections
            leaving = next(c for c in connections if c.transport.get_extra_info("peername") == own)
            third.send(post())
            await until(lambda: len(lane.desk) == 2)
            (relay,) = lane.relays
            relay.abandon()  # the place is free: the second one's turn has come …
            # … and its client leaves when the turn's task has ended, and before its story goes on.
            asyncio.get_running_loop().call_soon(leaving.eof_received)
            await until(lambda: busy.posts == 2, "the third request at its endpoint")


@on_uvloop
async def test_who_waits_hears_of_room_that_no_answer_made_and_of_the_end_of_all_hope() -> None:
    async with Upstream(hang()) as busy, Upstream() as new:
        full = EndpointSpec(busy.url, max_concurrency=1)
        async with (
            Running(config(pool([busy], endpoints=(full,)))) as gateway,
            gateway.client() as first,
            gateway.client() as second,
            gateway.client() as third,
        ):
            first.send(post())
            await busy.arrived.wait()
            second.send(post())
            lane = gateway.gateway.proxy.lanes["p"]
            await until(lambda: len(lane.desk) == 1)
            gateway.next_config = config(pool([busy, new], endpoints=(full, EndpointSpec(new.url, max_concurrency=1))))
            assert (await gateway.gateway.reload())[0]
            assert (await asyncio.wait_for(second.answer(), 5.0)).named["x-headway-endpoint"] == new.url
            new.script[0] = hang()
            second.send(post())
            await until(lambda: new.posts == 2)
            third.send(post())
            await until(lambda: len(lane.desk) == 1)
            answer = asyncio.ensure_future(third.answer())

            def is_told_when_all_are_down() -> bool:
                for row in (0, 1):  # again and again: a health check under way may find one of them well
                    lane.fleet.see(row, Evidence.REFUSED, gateway.gateway.now())
                return answer.done()

            await until(is_told_when_all_are_down)
            assert answer.result().status == 503


@on_uvloop
async def test_who_comes_later_goes_behind_those_who_wait() -> None:
    async with Upstream(hang()) as busy:
        full = pool([busy], endpoints=(EndpointSpec(busy.url, max_concurrency=1),))
        async with (
            Running(config(full)) as gateway,
            gateway.client() as first,
            gateway.client() as second,
            gateway.client() as third,
        ):
            lane = gateway.gateway.proxy.lanes["p"]
            first.send(post())
            await busy.arrived.wait()
            second.send(post(chat(user="second")))
            await until(lambda: len(lane.desk) == 1)
            lane.fleet.limit[0] = 3.0  # there is room now, and nobody has been told yet
            third.send(post(chat(user="third")))
            await until(lambda: busy.posts == 3, "both requests at their endpoint")
            assert [b'"second"' in request.body for request in busy.requests[1:]] == [True, False]


@on_uvloop
async def test_engines_that_schedule_by_priority_are_told_it_and_clients_cannot_say_it_themselves() -> None:
    async with Upstream() as up:
        made = config(pool([up], engine="vllm", priority=True))
        async with Running(made) as gateway, gateway.client() as client:
            own = {"priority": -9}
            for klass, said, told in (("interactive", {}, None), ("interactive", own, 0), ("async", {}, 10),
                                      ("async", own, 10)):  # fmt: skip
                line = f"x-headway-class: {klass}"
                assert (await client.ask("/v1/chat/completions", chat(**said), line)).status == 200
                got = json.loads(up.requests[-1].body)
                assert got.pop("priority", None) == told and got == json.loads(chat())
