"""Requests damaged at random: none is an error of ours, and what is handed on is a whole request with one framing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import cast

from gateway.wire.above import Sink, Verdict
from gateway.wire.connection import ServerConnection
from gateway.wire.head import RequestHead
from gateway.wire.reply import Reply
from gateway.wire.server import Server
from tests.support.client import post
from tests.support.listening import LIMITS, Echo, Waiting
from tests.support.loop import on_uvloop

SEEDS = [
    post(b'{"model":"m"}', "/a", "Connection: keep-alive", "X-Request-Id: r"),
    b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET /c?d=e HTTP/1.1\r\nHost: [::1]:80\r\nExpect: 100-continue\r\n\r\n",
    b"POST /d HTTP/1.0\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc",
]
PARTS = [b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b"0", b"-1", b"\xff", b"Content-Length: 1\r\n",
         b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"\x0b", b"GET /x HTTP/1.1\r\n"]  # fmt: skip


class Wireless:
    """A transport without a wire."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def get_extra_info(self, name: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


def damaged(random: Random) -> bytes:
    raw = b"".join(random.choice(SEEDS) for _ in range(random.randint(1, 3)))
    for _ in range(random.randint(0, 4)):
        at = random.randrange(len(raw) + 1)
        match random.randrange(4):
            case 0:
                raw = raw[:at] + random.choice(PARTS) + raw[at:]
            case 1:
                raw = raw[:at] + raw[at + random.randint(1, 8) :]
            case 2:
                raw = raw[:at] + bytes([random.randrange(256)]) + raw[at + 1 :]
            case _:
                raw = raw[:at] + raw[random.randrange(len(raw) + 1) :]
    return raw


class Piecewise(Echo):
    """An echo that takes every body with a sink, and counts those that have not ended."""

    open = 0

    def screen(self, head: RequestHead) -> Verdict | Sink | None:
        return _Piecewise(self, head) if head.method == b"POST" else None


class _Piecewise(Sink):
    limit = LIMITS.body

    def __init__(self, front: Piecewise, head: RequestHead):
        self._front = front
        self._head = head
        self._body = b""

    def begin(self, resume: Callable[[], None]) -> None:
        self._front.open += 1

    def write(self, data: bytes) -> bool:
        self._body += data
        return len(self._body) % 2 == 0

    def finish(self, reply: Reply) -> Waiting | None:
        self._front.open -= 1
        return self._front.handle(self._head, self._body, reply, "")

    def abort(self) -> None:
        self._front.open -= 1


async def converse(raw: bytes, random: Random, front: Echo | None = None) -> tuple[Echo, Wireless, Server]:
    """What one connection makes of these bytes, fed in random pieces, and of their end."""
    front, transport = front or Echo(), Wireless()
    server = Server(front, LIMITS)
    connection = ServerConnection(server)
    connection.connection_made(cast(asyncio.Transport, transport))
    while raw:
        at = random.randint(1, max(1, min(len(raw), 60)))
        connection.data_received(raw[:at])
        raw = raw[at:]
        await asyncio.sleep(0)
    connection.eof_received()
    connection.connection_lost(None)
    return front, transport, server


@on_uvloop
async def test_damaged_requests_are_refused_or_understood_and_never_an_error_of_ours() -> None:
    random = Random(20261120)
    outcomes = {"handled": 0, "refused": 0}
    for _ in range(4000):
        raw = damaged(random)
        front, transport, server = await converse(raw, random)
        assert transport.written == b"" or transport.written.startswith(b"HTTP/1.1 "), raw
        assert b"HTTP/1.1 500" not in transport.written, raw
        assert len(front.refused) <= 1 and server.buffered == 0 and not server.connections, raw
        for method, target, body in front.handled:
            assert method.isascii() and target.startswith(b"/") and len(body) <= len(raw), raw
        outcomes["handled"] += len(front.handled)
        outcomes["refused"] += len(front.refused)
    assert min(outcomes.values()) > 500, outcomes


@on_uvloop
async def test_any_pieces_of_the_same_bytes_give_the_same_answers() -> None:
    random = Random(7)
    for _ in range(500):
        raw = damaged(random)
        first = await converse(raw, random)
        second = await converse(raw, random)
        assert first[0].handled == second[0].handled and first[0].refused == second[0].refused, raw


@on_uvloop
async def test_a_sink_gets_what_a_whole_request_would_have_had_and_always_hears_the_end() -> None:
    random = Random(11)
    for _ in range(2000):
        raw = damaged(random)
        whole = (await converse(raw, random))[0]
        pieces = Piecewise()
        await converse(raw, random, pieces)
        assert (pieces.handled, pieces.refused, pieces.open) == (whole.handled, whole.refused, 0), raw
