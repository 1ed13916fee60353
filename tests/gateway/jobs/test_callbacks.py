"""Callbacks: what is sent, to whom it may be, and how long it is tried."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable
from math import inf
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import ClientTimeout, web
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from gateway.config.types import Jobs, Secret
from gateway.jobs import callbacks as module
from gateway.jobs.base import Store, StoreUnavailable
from gateway.jobs.callbacks import LARGEST, LEASE, TRIES, Callbacks, event, headers_of, is_internal, signature
from gateway.jobs.model import Call, Job, Result
from tests.support.loop import until

SECRET = "whsec_c2VjcmV0IG9mIHR3ZW50eSBieXRlcw=="


def job(url: str = "", body: bytes = b'{"id":"x"}', **more: Any) -> Job:
    values: dict[str, Any] = {"tenant": "acme", "state": "completed", "ended_at": 12.0, "callback": url,
                              "result": Result(200, body)}  # fmt: skip
    return Job("job_1", klass="async", model="m", path="/v1/chat/completions", created_at=10.0, deadline=99.0,
               **{**values, **more})  # fmt: skip


class Due:
    """A store that has callbacks due, and nothing else."""

    def __init__(self, *jobs: Job):
        self.calls = [Call(one, 0) for one in jobs]
        self.said: list[tuple[str, float | None]] = []
        self.away = False

    async def due_callbacks(self, limit: int, lease_until: float, at: float) -> list[Call]:
        given, self.calls = self.calls[:limit], self.calls[limit:]
        return given

    async def called(self, job_id: str, next_at: float | None) -> None:
        if self.away:
            raise StoreUnavailable("away")
        self.said.append((job_id, next_at))


class Receiver:
    """A client's server. `async with Receiver() as receiver:`."""

    def __init__(self, status: int = 200, **headers: str):
        self.status = status
        self.headers = headers
        self.got: list[tuple[dict[str, str], bytes]] = []

    async def _take(self, request: web.Request) -> web.Response:
        self.got.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.Response(status=self.status, headers=self.headers)

    async def __aenter__(self) -> Receiver:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()


async def called(due: Due, rules: Jobs, done: Callable[[], object]) -> Callbacks:
    caller = Callbacks(cast(Store, due), lambda: rules, Random(1))
    caller.start()
    try:
        await until(done, "the callback")
    finally:
        await caller.stop()
    return caller


def rules(*hosts: str, secret: str | None = None) -> Jobs:
    return Jobs(Secret("sqlite:x"), callbacks=hosts, secret=Secret(secret) if secret else None)


async def test_a_callback_brings_the_job_and_openais_client_can_tell_it_is_ours() -> None:
    async with Receiver() as receiver:
        due = Due(job(f"http://127.0.0.1:{receiver.port}/done?x=1"))
        caller = await called(due, rules("127.0.0.1", secret=SECRET), lambda: due.said)
    ((headers, body),) = receiver.got
    assert due.said == [("job_1", None)] and caller.told == {"delivered": 1}
    told = json.loads(body)
    assert (told["object"], told["type"], told["data"]["id"]) == ("event", "job.completed", "job_1")
    assert told["data"]["response"]["body"] == {"id": "x"}
    OpenAI(api_key="none", webhook_secret=SECRET).webhooks.verify_signature(body, headers)


def test_a_changed_body_has_another_signature() -> None:
    assert signature(SECRET, "evt_1", 5, b"{}") != signature(SECRET, "evt_1", 5, b"{ }")
    assert signature("plain", "evt_1", 5, b"{}") != signature("plain", "evt_1", 6, b"{}")
    assert signature("whsec_ not base64", "evt_1", 5, b"{}").startswith("v1,")


def test_without_a_secret_nothing_claims_to_be_signed() -> None:
    assert "webhook-signature" not in headers_of("job_1", b"{}", rules("a"), 5)


def test_a_large_response_is_left_out_and_says_so() -> None:
    told = json.loads(event(job(body=b'"' + b"x" * LARGEST + b'"')))
    assert told["data"]["response"] is None and told["data"]["response_omitted"] is True


@pytest.mark.parametrize("status", [301, 400, 404, 429, 500, 503])
async def test_what_is_not_2xx_is_tried_again_later(status: int) -> None:
    async with Receiver(status, location="http://127.0.0.1:1/elsewhere") as receiver:
        due = Due(job(f"http://127.0.0.1:{receiver.port}/"))
        caller = await called(due, rules("127.0.0.1"), lambda: due.said)
    assert len(receiver.got) == 1, "no redirect is followed"
    assert due.said[0][1] is not None and caller.told == {"failed": 1}


async def test_after_an_outage_a_lease_begins_when_the_store_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now, leases = [1000.0], []

    class Back(Due):
        async def due_callbacks(self, limit: int, lease_until: float, at: float) -> list[Call]:
            leases.append((lease_until, at))
            if len(leases) == 1:
                now[0] += 300.0
                raise StoreUnavailable("away")
            return []

    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: now[0], monotonic=time.monotonic))
    await called(Back(), rules(), lambda: len(leases) > 1)
    assert leases[1] == (1300.0 + LEASE, 1300.0)


async def test_who_says_gone_is_not_called_again() -> None:
    async with Receiver(410) as receiver:
        due = Due(job(f"http://127.0.0.1:{receiver.port}/"))
        await called(due, rules("127.0.0.1"), lambda: due.said)
    assert due.said == [("job_1", None)]


async def test_after_many_tries_it_is_given_up() -> None:
    due = Due()
    due.calls = [Call(job("http://127.0.0.1:1/"), TRIES - 1)]
    caller = await called(due, rules("127.0.0.1"), lambda: due.said)
    assert (due.said, caller.told) == ([("job_1", None)], {"given_up": 1})


async def test_a_host_that_is_no_longer_listed_is_not_called() -> None:
    async with Receiver() as receiver:
        due = Due(job(f"http://127.0.0.1:{receiver.port}/"))
        caller = await called(due, rules("other.example"), lambda: due.said)
    assert (receiver.got, due.said, caller.told) == ([], [("job_1", None)], {"forbidden": 1})


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::1"])
async def test_a_name_below_a_pattern_that_leads_inside_is_not_called(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(address, monkeypatch)
    async with Receiver() as receiver:
        due = Due(job(f"http://inside.example.com:{receiver.port}/"))
        caller = await called(due, rules("*.example.com"), lambda: due.said)
    assert (receiver.got, caller.told) == ([], {"forbidden": 1})


async def test_a_name_that_is_listed_itself_may_lead_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to("127.0.0.1", monkeypatch)
    async with Receiver() as receiver:
        due = Due(job(f"http://inside.example.com:{receiver.port}/"))
        await called(due, rules("inside.example.com"), lambda: due.said)
    assert len(receiver.got) == 1


def resolve_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def lookup(host: str, port: int, **_: object) -> Awaitable[list[Any]]:
        answer = asyncio.get_running_loop().create_future()
        answer.set_result([(family, socket.SOCK_STREAM, 6, "", (address, port))])
        return answer

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)


async def test_a_store_that_is_away_afterwards_ends_nothing() -> None:
    async with Receiver() as receiver:
        due = Due(job(f"http://127.0.0.1:{receiver.port}/"))
        due.away = True
        caller = await called(due, rules("127.0.0.1"), lambda: len(receiver.got))
    assert caller.told["failed"] == 0


async def test_a_receiver_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", ClientTimeout(total=0.1))
    silent = await asyncio.start_server(lambda reader, writer: asyncio.sleep(5), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    due = Due(job(f"http://127.0.0.1:{port}/"))
    caller = await called(due, rules("127.0.0.1"), lambda: due.said)
    silent.close()
    assert caller.told == {"failed": 1}


async def test_a_receiver_that_says_nothing_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty calls to it, eight at a time, were five time-outs for whoever stood behind them."""
    monkeypatch.setattr(module, "TIMEOUT", ClientTimeout(total=0.3))
    asked = 0

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(5)

    silent = await asyncio.start_server(take, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with Receiver() as receiver:
        due = Due(*(job(f"http://127.0.0.1:{port}/") for _ in range(40)),
                  job(f"http://127.0.0.1:{receiver.port}/", tenant="bob"))  # fmt: skip
        caller = await called(due, rules("127.0.0.1"), lambda: len(due.said) == 41)
    silent.close()
    assert caller.told == {"failed": 40, "delivered": 1}
    assert len(receiver.got) == 1 and asked <= module.AT_ONCE + 1


@pytest.mark.parametrize(("address", "internal"), [
    ("127.0.0.1", True), ("0.0.0.0", True), ("10.1.2.3", True), ("172.16.0.1", True), ("192.168.1.1", True),
    ("169.254.169.254", True), ("100.64.0.1", True), ("224.0.0.1", True), ("255.255.255.255", True), ("::1", True),
    ("::", True), ("fe80::1%eth0", True), ("fd00::1", True), ("::ffff:127.0.0.1", True), ("64:ff9b::7f00:1", True),
    ("2002:7f00:1::", True), ("ff02::1", True), ("8.8.8.8", False), ("2606:4700::1111", False),
    ("::ffff:8.8.8.8", False), ("::127.0.0.1", True), ("::ffff:0:127.0.0.1", True), ("64:ff9b:1::7f00:1", True),
    ("fec0::1", True),
])  # fmt: skip
def test_which_addresses_are_internal(address: str, internal: bool) -> None:
    assert is_internal(address) is internal


@given(st.ip_addresses(v=4, network="127.0.0.0/8") | st.ip_addresses(v=4, network="10.0.0.0/8"))
def test_an_internal_address_is_internal_in_whatever_guise(address: Any) -> None:
    number = int(address)
    assert is_internal(str(address))
    assert is_internal(f"::ffff:{address}")
    assert is_internal(f"64:ff9b::{number >> 16:x}:{number & 0xFFFF:x}")
    assert is_internal(f"2002:{number >> 16:x}:{number & 0xFFFF:x}::1")


def test_waits_grow_and_end() -> None:
    caller = Callbacks(cast(Store, Due()), lambda: rules("a"), Random(1))
    pauses = [caller._pause(tries) for tries in range(TRIES)]
    assert pauses[0] < 3.0 < pauses[3] and max(pauses) < inf
    assert 3600.0 < sum(pauses) < 86_400.0
