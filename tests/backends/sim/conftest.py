"""A simulated server in this process, and a bare connection to it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from backends.sim.engine import EngineOptions
from backends.sim.profiles import profile
from backends.sim.server import ServerOptions, SimServer

Start = Callable[..., Awaitable[SimServer]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start servers: `start(speed=..., server={...}, **engine options)`."""
    running: list[SimServer] = []

    async def one(speed: float = 50.0, server: dict[str, Any] | None = None, **engine: Any) -> SimServer:
        which = profile("h100_llama-3.1-8b_bf16_tp1")
        made = SimServer(ServerOptions(which, speed=speed, engine=EngineOptions(**engine), **(server or {})))
        await made.start()
        running.append(made)
        return made

    yield one
    for server in running:
        await server.stop()


class Wire:
    """One connection, spoken to in bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, server: SimServer) -> "Wire":
        return cls(*await asyncio.open_connection("127.0.0.1", server.port))

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        lines = [f"{method} {path} HTTP/1.1", "host: sim", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def head(self) -> tuple[int, dict[str, str]]:
        raw = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in raw[1:] if line)
        return int(raw[0].split(" ")[1]), headers

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """A whole answer; a stream's chunks put together."""
        status, headers = await self.head()
        if headers.get("transfer-encoding") != "chunked":
            return status, headers, await self.reader.readexactly(int(headers["content-length"]))
        body = b""
        while chunk := await self.chunk():
            body += chunk
        return status, headers, body

    async def chunk(self) -> bytes:
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    def close(self) -> None:
        self.writer.close()


async def ask(server: SimServer, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """One request on its own connection: status, and the JSON or the bytes of the answer."""
    wire = await Wire.open(server)
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    wire.send(method, path, raw, **{"content_type": "application/json", **headers})
    status, got, answer = await wire.answer()
    wire.close()
    return status, json.loads(answer) if got.get("content-type") == "application/json" else answer


def events(body: bytes) -> list[Any]:
    """The JSON of a stream's data lines; `[DONE]` as that text."""
    lines = [line[6:] for line in body.decode().split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def until(done: Callable[[], bool]) -> None:
    """Let the loop run until `done`: for what another connection brings about."""
    while not done():  # noqa: ASYNC110 - there is no event to wait for on the other side of a socket
        await asyncio.sleep(0.001)
