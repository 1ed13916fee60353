"""Tests of loadtest/client.py and loadtest/blocking.py: one exchange, over real loopback sockets, ending every way."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import pytest

from loadtest.blocking import BlockingClient
from loadtest.client import Client, Exchange, Target
from tests.loadtest.sse_server import start

BODY = {"model": "good", "max_tokens": 5, "stream": True}


def body(**changes: object) -> bytes:
    return json.dumps({**BODY, **changes}).encode()


async def ask(client: Client, *bodies: bytes) -> list[Exchange]:
    """Each body in turn, waiting for the answer."""
    done = []
    for one in bodies:
        ended: asyncio.Future[Exchange] = asyncio.get_running_loop().create_future()
        client.send(Exchange(one, ended.set_result))
        done.append(await asyncio.wait_for(ended, 20))
    return done


async def ask_blocking(url: str, *bodies: bytes, timeout: float = 20.0) -> list[Exchange]:
    client = BlockingClient(Target.parse(url, "/v1", {}), time.monotonic, timeout)
    done: list[Exchange] = []
    for one in bodies:
        await asyncio.to_thread(client.send, Exchange(one, done.append))
    client.close()
    return done


async def ask_async(url: str, *bodies: bytes) -> list[Exchange]:
    client = Client(Target.parse(url, "/v1", {}), time.monotonic)
    done = await ask(client, *bodies)
    client.close()
    return done


both = pytest.mark.parametrize("send", [ask_async, ask_blocking])


@both
async def test_a_stream_is_metered_and_its_connection_used_again(send: Callable[..., object]) -> None:
    server, url, requests = await start()
    first, second, plain = await send(url, body(), body(max_tokens=3), body(stream=False))  # type: ignore[misc]
    assert (first.failure, second.failure, plain.failure) == ("", "", "")
    assert (first.meter.tokens, second.meter.tokens, plain.meter.tokens) == (5, 3, 5)
    assert first.meter.endpoint == "http://e1"
    assert first.began <= first.meter.arrivals[0] <= first.ended
    assert [model for model, _ in requests] == ["good"] * 3
    server.close()


@both
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("cut", "broken stream"),
        ("error", "error event (internal)"),
        ("no_done", "no [DONE]"),
        ("no_finish", "no finish_reason"),
        ("refuse", "status 503"),
        ("silent", "no finish_reason"),
        ("close_after", ""),
    ],
)
async def test_an_answer_that_is_not_whole_is_a_failure_with_its_reason(
    send: Callable[..., object], model: str, reason: str
) -> None:
    server, url, _ = await start()
    bad, good = await send(url, body(model=model), body())  # type: ignore[misc]
    assert bad.failure == reason
    assert good.failure == ""
    server.close()


@both
async def test_a_refused_connection_is_a_failure_not_an_exception(send: Callable[..., object]) -> None:
    server, url, _ = await start()
    server.close()
    await server.wait_closed()
    (one,) = await send(url, body())  # type: ignore[misc]
    assert one.failure == "connect failed (ConnectionRefusedError)" and one.ended >= one.began > 0


class Closer(asyncio.Protocol):
    """Answers the first request of a connection, and closes at the second without a byte."""

    answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.seen = 0

    def data_received(self, data: bytes) -> None:
        self.seen += 1
        if self.seen > 1:
            self.transport.close()
        else:
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n" + b'{"a":1}')


@both
async def test_a_request_that_raced_a_closing_connection_is_sent_once_more_and_counted(
    send: Callable[..., object],
) -> None:
    server = await asyncio.get_running_loop().create_server(Closer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    first, second = await send(url, b"{}", b"{}")  # type: ignore[misc]
    assert (first.failure, first.resent) == ("", False)
    assert (second.failure, second.resent) == ("", True)
    server.close()


class Rude(asyncio.Protocol):
    """Closes without a byte, every time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.transport.close()


@both
async def test_a_new_connection_that_is_closed_without_an_answer_is_a_failure(send: Callable[..., object]) -> None:
    server = await asyncio.get_running_loop().create_server(Rude, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    (one,) = await send(url, b"{}")  # type: ignore[misc]
    assert one.failure == "connection closed" and not one.resent
    server.close()


async def test_an_exchange_that_takes_too_long_is_given_up() -> None:
    server, url, _ = await start()
    client = Client(Target.parse(url, "/v1", {}), time.monotonic)
    ended: asyncio.Future[Exchange] = asyncio.get_running_loop().create_future()
    client.send(Exchange(body(model="hang"), ended.set_result))
    while not ended.done():
        await asyncio.sleep(0.01)
        client.expire(time.monotonic() + 1)  # as if the limit had passed
    assert ended.result().failure == "timed out"
    (blocked,) = await ask_blocking(url, body(model="hang"), timeout=0.05)
    assert blocked.failure == "timed out"
    server.close()


async def test_closing_the_client_ends_every_exchange_once() -> None:
    server, url, _ = await start()
    client = Client(Target.parse(url, "/v1", {}), time.monotonic)
    ended: list[Exchange] = []
    for _ in range(3):
        client.send(Exchange(body(model="hang"), ended.append))
    while client.opened < 3:  # noqa: ASYNC110  the client counts, it does not signal
        await asyncio.sleep(0.005)
    client.send(Exchange(body(), ended.append))  # still connecting when the client is closed
    client.close()
    await asyncio.sleep(0.02)
    assert [one.failure for one in ended] == ["unfinished"] * 4
    server.close()


async def test_more_connections_than_allowed_are_a_failure_of_the_generator() -> None:
    server, url, _ = await start()
    client = Client(Target.parse(url, "/v1", {}), time.monotonic, max_open=1)
    ended: list[Exchange] = []
    client.send(Exchange(body(model="hang"), ended.append))
    client.send(Exchange(body(), ended.append))
    assert [one.failure for one in ended] == ["generator: too many connections"]
    client.close()
    server.close()


def test_a_target_is_checked_and_its_request_head_is_fixed() -> None:
    target = Target.parse("http://127.0.0.1:81/base/", "/v1/x", {"authorization": "Bearer k"})
    assert target.prefix == (
        b"POST /base/v1/x HTTP/1.1\r\nhost: 127.0.0.1:81\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer k\r\n"
    )
    assert target.is_loopback and (target.host, target.port, target.tls) == ("127.0.0.1", 81, None)
    assert Target.parse("https://example.org", "/", {}).port == 443
    assert not Target.parse("http://10.0.0.1", "/", {}).is_loopback
    for url in ("127.0.0.1:80", "ftp://a", "http://"):
        with pytest.raises(ValueError, match="is not an http"):
            Target.parse(url, "/", {})
    with pytest.raises(ValueError, match="not allowed"):
        Target.parse("http://a", "/", {"x": "a\r\nb: c"})
