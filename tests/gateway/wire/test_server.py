"""The listener: what all its connections share, draining, and TLS."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace

import pytest

from tests.support.client import Client, post
from tests.support.listening import LIMITS, Listening, statuses
from tests.support.loop import on_uvloop, until
from tests.support.tls import client_context, server_context

FAST = replace(LIMITS, header_time=0.3)


@on_uvloop
async def test_bodies_of_all_requests_together_are_bounded() -> None:
    async with Listening(replace(LIMITS, buffered=1000)) as server:
        async with server.client() as first, server.client() as second:
            first.send(post(b"x" * 800, "/wait"))
            await until(lambda: server.front.waiting)
            assert await statuses(second, post(b"x" * 300, "/a")) == [503]
            server.front.waiting[0][1].send(200, b"", b"")
            assert (await first.answer()).status == 200 and server.server.buffered == 0
        async with server.client() as third:
            third.send(post(b"x" * 300, "/a"))
            assert (await third.answer()).status == 200


@on_uvloop
async def test_connections_over_the_limit_are_closed_at_once() -> None:
    async with Listening(replace(LIMITS, connections=2)) as server:
        async with server.client() as one, server.client() as two:
            for client in (one, two):
                assert (await client.get("/a")).status == 200
            async with server.client() as three:
                assert await three.is_closed()
        await until(lambda: not server.server.connections)
        async with server.client() as four:
            assert (await four.get("/a")).status == 200


@on_uvloop
async def test_while_draining_answers_close_their_connections_and_idle_ones_can_be_closed() -> None:
    async with Listening() as server, server.client() as idle, server.client() as busy:
        assert (await idle.get("/a")).status == 200
        busy.send(post(b"", "/wait"))
        await until(lambda: server.front.waiting)
        server.server.stop_accepting()
        server.server.close_idle(float("inf"))
        assert await idle.is_closed()
        server.front.waiting[0][1].send(200, b"", b"")
        said = await busy.answer()
        assert (said.status, said.named["connection"]) == (200, "close") and await busy.is_closed()
        with pytest.raises(ConnectionError):
            await server.client().__aenter__()


@on_uvloop
async def test_tls_serves_and_can_insist_on_client_certificates() -> None:
    async with Listening(tls=server_context()) as server, Client(server.port, client_context()) as client:
        client.send(post(b"x" * 300_000, "/a"))
        assert len((await client.answer()).body) == 300_008
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await client.answer()).status == 200 and await client.is_closed()
    async with Listening(tls=server_context(ask_client=True)) as server:
        async with Client(server.port, client_context("client")) as client:
            assert (await client.get("/a")).status == 200
        for certificate in (None, "stranger"):
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                async with Client(server.port, client_context(certificate)) as client:
                    await client.get("/a")
        assert len(server.front.handled) == 1


@on_uvloop
async def test_a_tls_handshake_that_does_not_come_is_bounded_like_a_head() -> None:
    async with Listening(FAST, tls=server_context()) as server, server.client() as client:
        assert await client.is_closed()
