"""The model server of the evidence about jobs: answers after a while that can be set, and counts who asked how often.

An answer repeats the last message, so that it can be told whose it is. `GET /runs` gives, by request id, how many
times a request was answered or at least begun; `POST /pause {"seconds": …}` sets how long an answer takes.

    python -m tests.evidence.jobs_server      prints its port, then serves until stopped
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from typing import cast

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
REQUEST_ID = re.compile(rb"\r\nx-request-id: *([!-~]+)", re.IGNORECASE)


class State:
    """Of the whole server."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.pause = 0.01


class Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, state: State):
        self.state = state
        self.held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.held += data
        end = self.held.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.held[:end]
        length = LENGTH.search(head)
        size = end + 4 + (int(length[1]) if length else 0)
        if len(self.held) >= size:
            body, self.held = self.held[end + 4 : size], self.held[size:]
            self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET /runs"):
            self.send(self.state.runs)
        elif head.startswith(b"POST /pause"):
            self.state.pause = float(json.loads(body)["seconds"])
            self.send({})
        elif head.startswith(b"GET "):
            self.send({})
        else:
            name = REQUEST_ID.search(head)
            self.state.runs[name[1].decode() if name else "?"] += 1
            asyncio.get_running_loop().call_later(self.state.pause, self.complete, body)

    def complete(self, body: bytes) -> None:
        text = json.loads(body)["messages"][-1]["content"][:100]
        message = {"role": "assistant", "content": text}
        self.send({"object": "chat.completion", "model": "m",
                   "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                   "usage": {"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 12}})  # fmt: skip

    def send(self, value: object) -> None:
        body = json.dumps(value).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        if not self.transport.is_closing():  # the gateway was killed meanwhile
            self.transport.write(head + body)


async def serve() -> None:
    state = State()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(state), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        uvloop.run(serve())
    except KeyboardInterrupt:
        sys.exit(0)
