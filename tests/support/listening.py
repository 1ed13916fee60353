"""The listener by itself, with a front that echoes."""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType

from gateway.config.types import Limits
from gateway.sockets import bind
from gateway.wire.above import Sink, Verdict
from gateway.wire.head import RequestHead, WireError
from gateway.wire.reply import Reply
from gateway.wire.server import Server
from tests.support.client import Client

LIMITS = Limits()


class Waiting:
    """An answer that has not come yet."""

    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Echo:
    """Answers with method, path and body; `/wait` is answered by the test, `/no` by the head alone."""

    def __init__(self) -> None:
        self.handled: list[tuple[bytes, bytes, bytes]] = []
        self.waiting: list[tuple[Waiting, Reply]] = []
        self.refused: list[int] = []

    def screen(self, head: RequestHead) -> Verdict | Sink | None:
        return (lambda reply: reply.send(404, b"", b"no")) if head.path == b"/no" else None

    def handle(self, head: RequestHead, body: bytes, reply: Reply, peer: str) -> Waiting | None:
        self.handled.append((head.method, head.target, body))
        if head.path == b"/wait":
            waiting = Waiting()
            self.waiting.append((waiting, reply))
            return waiting
        if head.path == b"/stream":
            reply.start(200, b"", None, b"one,")
            reply.write(b"two,")
            reply.end(b"three")
            return None
        said = b"%b %b %b" % (head.method, head.target, body)
        is_empty = head.query == b"?204"
        reply.send(204 if is_empty else 200, b"", b"" if is_empty else said)
        return None

    def refuse(self, error: WireError, reply: Reply, path: bytes) -> None:
        self.refused.append(error.status)
        reply.send(error.status, b"", error.message.encode())


class Listening:
    """`async with Listening(...) as server:`."""

    def __init__(self, limits: Limits = LIMITS, tls: ssl.SSLContext | None = None, front: Echo | None = None):
        self.front = front or Echo()
        self.server = Server(self.front, limits)
        self._tls = tls

    async def __aenter__(self) -> Listening:
        sock = bind("127.0.0.1", 0)
        self.port = int(sock.getsockname()[1])
        await self.server.start(sock, self._tls)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:  # fmt: skip
        self.server.stop()
        await asyncio.sleep(0)

    def client(self, receive_buffer: int | None = None) -> Client:
        return Client(self.port, receive_buffer=receive_buffer)


async def statuses(client: Client, raw: bytes) -> list[int]:
    """Send, then every status until the connection closes."""
    client.send(raw)
    found = []
    try:
        while True:
            found.append((await client.answer()).status)
    except (asyncio.IncompleteReadError, ConnectionError):
        return found
