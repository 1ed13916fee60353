"""A client that speaks in bytes and reads answers strictly, down to how they end."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import dataclass
from ssl import SSLContext
from types import TracebackType
from typing import Any


@dataclass(slots=True)
class Answer:
    """One answer. `whole` tells whether its framing was closed as HTTP/1.1 wants it."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes
    whole: bool
    raw_head: bytes

    @property
    def named(self) -> dict[str, str]:
        return dict(self.fields)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found = self.json()["error"]
        assert isinstance(found, dict)
        return found


class Client:
    """One connection. `async with Client(port) as client:`."""

    def __init__(self, port: int, tls: SSLContext | None = None, *, receive_buffer: int | None = None):
        self.port = port
        self._tls = tls
        self._receive_buffer = receive_buffer

    async def __aenter__(self) -> Client:
        raw = socket.socket()
        if self._receive_buffer is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self.port))
        self.reader, self.writer = await asyncio.open_connection(
            sock=raw, ssl=self._tls, server_hostname="localhost" if self._tls else None, limit=1 << 20
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:  # fmt: skip
        self.writer.close()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def reset(self) -> None:
        """Leave with a RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def ask(self, path: str = "/v1/chat/completions", body: Any = None, *fields: str) -> Answer:
        self.send(post(body, path, *fields))
        return await self.answer()

    async def get(self, path: str, *fields: str) -> Answer:
        lines = "".join(f"{field}\r\n" for field in fields)
        self.send(f"GET {path} HTTP/1.1\r\nhost: gateway\r\n{lines}\r\n".encode())
        return await self.answer()

    async def head(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status and fields of the next answer, 1xx included."""
        raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        fields = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines)]
        return int(first.split(" ")[1]), fields, raw

    async def answer(self, *, bodiless: bool = False) -> Answer:
        status, fields, raw = await self.head()
        named = dict(fields)
        whole, body = True, b""
        if bodiless or status in (204, 304) or status < 200:
            pass
        elif "content-length" in named:
            assert "transfer-encoding" not in named
            try:
                body = await self.reader.readexactly(int(named["content-length"]))
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                whole, body = False, getattr(error, "partial", b"")
        elif named.get("transfer-encoding") == "chunked":
            body, whole = await self._chunks()
        else:
            body = await self.reader.read()
        return Answer(status, fields, body, whole, raw)

    async def _chunks(self) -> tuple[bytes, bool]:
        parts: list[bytes] = []
        try:
            while True:
                size = int(await self.reader.readuntil(b"\r\n"), 16)
                data = await self.reader.readexactly(size + 2)
                assert data[-2:] == b"\r\n"
                if size == 0:
                    return b"".join(parts), True
                parts.append(data[:-2])
        except (asyncio.IncompleteReadError, ConnectionError):
            return b"".join(parts), False

    async def is_closed(self) -> bool:
        """True once the gateway has closed; False if anything else comes."""
        try:
            return await asyncio.wait_for(self.reader.read(1), 5.0) == b""
        except ConnectionError:
            return True


def post(body: Any = None, path: str = "/v1/chat/completions", *fields: str, version: str = "1.1") -> bytes:
    """A request as bytes; `body` is JSON to be, or bytes."""
    data = chat() if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = "".join(f"{field}\r\n" for field in fields)
    head = f"POST {path} HTTP/{version}\r\nhost: gateway\r\n{lines}content-length: {len(data)}\r\n\r\n"
    return head.encode("latin-1") + data


def chat(model: str = "m", stream: bool = False, **more: Any) -> bytes:
    """The body of a chat request."""
    said = {"model": model, "messages": [{"role": "user", "content": "hi"}], **({"stream": True} if stream else {})}
    return json.dumps({**said, **more}).encode()
