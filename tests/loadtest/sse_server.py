"""A tiny OpenAI-like server for the load tests: what it does wrong is chosen by the model name of the request.

It is one asyncio protocol on loopback and not a simulation of anything: `good` answers `max_tokens` events of
one token each, `gap` seconds apart (0: all at once); the other names in `BEHAVIOURS` break in one way each.
Run as a program it prints its URL, so that a test can load it from another process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import cast

BEHAVIOURS = ("good", "cut", "error", "no_done", "no_finish", "refuse", "silent", "hang", "close_after", "plain")


def event(value: object, newline: str = "\n") -> bytes:
    return f"data: {json.dumps(value)}{newline}{newline}".encode()


def token(text: str = "tok ", finish: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


USAGE_ROW = {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3}}


class SseServer(asyncio.Protocol):
    """One connection. `requests` of the shared list are (model, body)."""

    def __init__(self, requests: list[tuple[str, dict[str, object]]], gap: float) -> None:
        self.requests, self.gap = requests, gap
        self.held = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one without subclassing it

    def data_received(self, data: bytes) -> None:
        self.held += data
        while True:
            head, found, rest = self.held.partition(b"\r\n\r\n")
            size = next((int(h[15:]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")), 0)
            if not found or len(rest) < size:
                return
            body, self.held = rest[:size], rest[size:]
            self.answer(json.loads(body or b"{}"))

    def chunk(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(b"%x\r\n%s\r\n" % (len(data), data))

    def answer(self, body: dict[str, object]) -> None:
        assert self.transport is not None
        model = str(body.get("model", "good"))
        self.requests.append((model, body))
        if model == "hang":
            return
        if model == "refuse":
            self.transport.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}")
            return
        if model == "plain" or not body.get("stream"):
            value = json.dumps({"choices": [{}], "usage": {**USAGE_ROW, "completion_tokens": body["max_tokens"]}})
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(value), value.encode())
            )
            return
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Headway-Endpoint: http://e1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        self.chunk(event({"choices": [{"delta": {"role": "assistant", "content": ""}}]}))
        self.step(model, int(str(body.get("max_tokens", 1))))

    def step(self, model: str, left: int) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        if model == "silent":
            self.finish(model, 0)
            return
        if left > 1:
            self.chunk(event(token()))
            if self.gap:
                asyncio.get_running_loop().call_later(self.gap, self.step, model, left - 1)
            else:
                self.step(model, left - 1)
            return
        self.finish(model, 1)

    def finish(self, model: str, tokens: int) -> None:
        assert self.transport is not None
        if model == "cut":
            self.transport.close()
            return
        if model == "error":
            self.chunk(event({"error": {"message": "engine died", "type": "internal"}}))
        if tokens:
            self.chunk(event(token(finish=None if model == "no_finish" else "length")))
        if model != "no_done":
            self.chunk(b"data: [DONE]\n\n")
        self.transport.write(b"0\r\n\r\n")
        if model == "close_after":
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None


async def start(gap: float = 0.0, port: int = 0) -> tuple[asyncio.Server, str, list[tuple[str, dict[str, object]]]]:
    """The server, its URL, and the list that grows with each request."""
    requests: list[tuple[str, dict[str, object]]] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SseServer(requests, gap), "127.0.0.1", port, backlog=2000)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests


async def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--gap", type=float, default=0.0)
    options.add_argument("--port", type=int, default=0)
    chosen = options.parse_args()
    server, url, _ = await start(chosen.gap, chosen.port)
    print(url, flush=True)
    async with server:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the parent lets go


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(main())
    except ImportError:
        asyncio.run(main())
