"""The pool of one endpoint's connections: warm ones first, stale ones never, names resolved beside the path."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from typing import Any

import pytest

from gateway.core.errors import UpstreamError
from gateway.wire.pool import EndpointPool
from tests.gateway.wire.test_upstream import ask
from tests.support.loop import on_uvloop, until
from tests.support.ports import free_port
from tests.support.tls import client_context, server_context
from tests.support.upstream import Upstream, answer, whole

KEEP = b"keep-alive: timeout=%d"


@on_uvloop
async def test_the_warmest_connection_is_taken_first_and_none_twice() -> None:
    async with Upstream(whole(answer(b"ok"))) as up:
        pool = EndpointPool(up.url)
        (_, first), (_, second) = await asyncio.gather(ask(pool), ask(pool))
        assert first is not second
        warmest = pool.take()
        other = pool.take()
        assert {warmest, other} == {first, second} and pool.take() is None
        assert warmest is not None and other is not None and warmest.idle_since >= other.idle_since


@on_uvloop
async def test_a_connection_idle_for_longer_than_servers_keep_it_is_not_used_again() -> None:
    async with Upstream(whole(answer(b"ok"))) as up:
        pool = EndpointPool(up.url, keepalive=0.05)
        _, connection = await ask(pool)
        await asyncio.sleep(0.06)
        assert pool.take() is None and connection.transport.is_closing()
        _, connection = await ask(pool)
        pool.reap(time.monotonic() + 1.0)
        assert connection.transport.is_closing() and pool.take() is None
    async with Upstream(whole(answer(b"ok", 200, KEEP % 1))) as up:  # the server says that it keeps it for one second
        pool = EndpointPool(up.url)
        await ask(pool)
        assert pool.take() is None


@on_uvloop
async def test_a_connection_the_server_closed_while_idle_is_not_taken() -> None:
    async with Upstream(whole(answer(b"ok"))) as up:
        pool = EndpointPool(up.url)
        _, connection = await ask(pool)
        up.lines[0].writer.close()
        await until(lambda: not connection.usable)
        assert pool.take() is None


@on_uvloop
async def test_a_closed_pool_closes_idle_connections_now_and_busy_ones_after_their_answer() -> None:
    go = asyncio.Event()

    async def slow(line: Any, request: object) -> bool:
        await go.wait()
        await line.send(answer(b"late"))
        return True

    async with Upstream(whole(answer(b"ok")), slow) as up:
        pool = EndpointPool(up.url)
        (_, idle) = await ask(pool)
        taken = pool.take()
        busy = asyncio.create_task(ask(pool))
        await until(lambda: up.posts == 2)
        pool.give(idle)
        pool.close()
        assert taken is idle and idle.transport.is_closing()
        go.set()
        taker, connection = await busy
        assert taker.body == b"late" and connection.transport.is_closing()


@on_uvloop
async def test_a_refused_and_a_timed_out_connection_have_their_own_causes() -> None:
    with pytest.raises(UpstreamError) as caught:
        await EndpointPool(f"http://127.0.0.1:{free_port()}").connect()
    assert (caught.value.cause, caught.value.sent) == ("refused", False)
    with socket.socket() as full:  # a listener whose queue is full does not answer
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        with pytest.raises(UpstreamError) as caught:
            await EndpointPool(f"http://127.0.0.1:{full.getsockname()[1]}", connect_timeout=0.2).connect()
        assert caught.value.cause == "connect_timeout"
        for one in crowd:
            one.close()


async def resolving(monkeypatch: pytest.MonkeyPatch, port: int, addresses: list[str] | Exception) -> EndpointPool:
    """A pool for a name that resolves like this."""

    async def getaddrinfo(*args: object, **kwargs: object) -> list[Any]:
        if isinstance(addresses, Exception):
            raise addresses
        return [
            (socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses
        ]

    class Loop:
        def __init__(self, loop: Any) -> None:
            self._loop = loop

        def __getattr__(self, name: str) -> Any:
            return getaddrinfo if name == "getaddrinfo" else getattr(self._loop, name)

    loop = Loop(asyncio.get_running_loop())
    monkeypatch.setattr("gateway.wire.pool.asyncio.get_running_loop", lambda: loop)
    return EndpointPool(f"http://model.test:{port}")


def test_every_address_of_a_name_is_tried_and_metadata_addresses_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    @on_uvloop
    async def run() -> None:
        async with Upstream(whole(answer(b"ok"))) as up:
            with monkeypatch.context() as patch:
                pool = await resolving(patch, up.port, ["127.0.0.2", "169.254.169.254", "127.0.0.1"])
                connection = await pool.connect()
            assert connection.transport.get_extra_info("peername")[0] == "127.0.0.1"
            connection.transport.close()
            for addresses in (["169.254.169.254", "fe80::1", "fd00:ec2::254"], OSError("no such name")):
                with monkeypatch.context() as patch:
                    pool = await resolving(patch, up.port, addresses)
                    with pytest.raises(UpstreamError) as caught:
                        await pool.connect()
                assert caught.value.cause == "dns" and not caught.value.sent

    run()


@on_uvloop
async def test_an_https_endpoint_is_believed_only_with_the_right_certificate() -> None:
    async with Upstream(whole(answer(b"ok")), tls=server_context()) as up:
        pool = EndpointPool(up.url.replace("127.0.0.1", "localhost"), tls=client_context())
        for _ in range(2):
            taker, _ = await ask(pool)
            assert taker.body == b"ok"
        assert [request.connection for request in up.requests] == [1, 1]
        pool.close()
        with pytest.raises(UpstreamError):
            await EndpointPool(up.url, tls=ssl.create_default_context()).connect()
    async with Upstream(whole(answer(b"ok")), tls=server_context("stranger")) as up:
        with pytest.raises(UpstreamError):
            await EndpointPool(up.url, tls=client_context()).connect()
    async with Upstream(whole(answer(b"ok")), tls=server_context(ask_client=True)) as up:
        taker, _ = await ask(EndpointPool(up.url, tls=client_context("client")))
        assert taker.body == b"ok"
