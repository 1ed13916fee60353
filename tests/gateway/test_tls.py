"""TLS on the listener and towards model servers, as configured."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl

import pytest

from gateway.config.types import Tls, UpstreamTls
from gateway.tls import listener_tls, upstream_tls
from tests.support.client import Client, chat
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop
from tests.support.tls import client_context, path, server_context
from tests.support.upstream import Upstream, sse, whole

TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}'


@on_uvloop
async def test_tls_on_the_listener_and_to_the_model_server_as_configured() -> None:
    async with Upstream(whole(sse(TOKEN)), tls=server_context(ask_client=True)) as up:
        url = up.url.replace("127.0.0.1", "localhost")
        upstream = UpstreamTls(ca=path("ca.pem"), cert=path("client.pem"), key=path("client.key"))
        made = config(pool([url], tls=upstream))
        tls = Tls(path("server.pem"), path("server.key"), path("ca.pem"))
        made = dataclasses.replace(made, listen=dataclasses.replace(made.listen, tls=tls))
        async with Running(made) as gateway:
            async with Client(gateway.port, client_context("client")) as client:
                said = await client.ask(body=chat(stream=True))
                assert said.body == TOKEN + b"\n\n" and said.whole
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                async with Client(gateway.port, client_context()) as client:
                    await client.ask()


@on_uvloop
async def test_a_model_server_with_a_wrong_certificate_is_502_and_insecure_believes_it() -> None:
    async with Upstream(tls=server_context("stranger")) as up:
        made = config(pool([up], tls=UpstreamTls(ca=path("ca.pem"))))
        async with Running(made) as gateway, gateway.client() as client:
            assert (await client.ask()).status in (502, 503) and not up.requests
        async with Running(config(pool([up], tls=UpstreamTls(insecure=True)))) as gateway, gateway.client() as client:
            assert (await client.ask()).status == 200


def test_contexts_speak_http_1_only_and_verify() -> None:
    context = listener_tls(Tls(path("server.pem"), path("server.key")))
    assert context.verify_mode is ssl.CERT_NONE and context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert listener_tls(Tls(path("server.pem"), path("server.key"), path("ca.pem"))).verify_mode is ssl.CERT_REQUIRED
    assert upstream_tls(None).check_hostname and upstream_tls(UpstreamTls(ca=path("ca.pem"))).check_hostname
    with pytest.raises(OSError):
        listener_tls(Tls("/nowhere.pem", "/nowhere.key"))
