"""The bench's model servers: many ports in one process, so cheap that they are never what is measured.

Each answers `POST /v1/…` with a small chat completion or, where the header `x-bench: TOKENS RATE FIRST` asks for
tokens, with TOKENS server-sent events, RATE of them a second, the first after FIRST seconds (a plain answer waits FIRST
too). `GET /health`, `/v1/models` and `/metrics` answer as vLLM does; the metrics page has a real one's size, because
reading it is part of what a gateway spends. Only sized request bodies are understood, one request at a time.

    python -m tests.bench.upstream COUNT      prints the ports on one line, then serves until stopped
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from typing import cast

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
BENCH = re.compile(rb"\r\nx-bench: *(\d+) ([\d.]+) ([\d.]+)", re.IGNORECASE)
MODEL = b"bench"


def sized(kind: bytes, body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\nserver: uvicorn\r\ncontent-length: %d\r\ncontent-type: %b\r\n\r\n"
    return head % (status, len(body), kind) + body


def event(data: bytes) -> bytes:
    body = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(body), body)


def delta(content: bytes, finish: bytes = b"null") -> bytes:
    return event(
        b'{"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1790000000,"model":"bench",'
        b'"choices":[{"index":0,"delta":{"content":"%b"},"logprobs":null,"finish_reason":%b}]}' % (content, finish)
    )


COMPLETION = sized(
    b"application/json",
    b'{"id":"chatcmpl-0123456789abcdef","object":"chat.completion","created":1790000000,"model":"bench","choices":[{"index":'
    b'0,"message":{"role":"assistant","content":"It is a small answer."},"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":200,"total_tokens":206,"completion_tokens":6}}',
)
MODELS = sized(b"application/json", b'{"object":"list","data":[{"id":"bench","object":"model","owned_by":"vllm"}]}')
NOT_FOUND = sized(b"application/json", b'{"detail":"Not Found"}', b"404 Not Found")
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
TOKEN = delta(b" word")
LAST = delta(b"", b'"stop"') + event(b"[DONE]") + b"0\r\n\r\n"


def metrics_page() -> bytes:
    """A page with vLLM's names and a real one's size: the gauges a gateway reads among 50 KB of histograms."""
    label = '{engine="0",model_name="bench"}'
    lines = []
    for name, value in (("num_requests_running", 1), ("num_requests_waiting", 0), ("kv_cache_usage_perc", 0.01)):
        lines += [f"# HELP vllm:{name} A gauge.", f"# TYPE vllm:{name} gauge", f"vllm:{name}{label} {float(value)}"]
    cache = '{block_size="16",engine="0",num_gpu_blocks="27000",cache_dtype="auto"}'
    lines += ["# TYPE vllm:cache_config_info gauge", f"vllm:cache_config_info{cache} 1.0"]
    for number in range(26):
        name = f"vllm:request_phase_{number}_time_seconds"
        lines += [f"# HELP {name} Histogram of one phase of a request in seconds.", f"# TYPE {name} histogram"]
        for step in range(20):
            lines.append(f'{name}_bucket{{engine="0",le="{0.001 * 2**step}",model_name="bench"}} {float(step * 100)}')
        lines += [f"{name}_count{label} 2000.0", f"{name}_sum{label} 123.456"]
    return sized(b"text/plain; version=0.0.4; charset=utf-8", "\n".join(lines).encode() + b"\n")


class Connection(asyncio.Protocol):
    """One connection to one of the servers."""

    page = metrics_page()

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.head = b""
        self.missing = 0     # body bytes still to come of the request being read
        self.left = 0        # events still to send of the stream being written
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)   # uvloop's is one in all but its base class
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self.missing:
            self.missing -= len(data)
        else:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            length = LENGTH.search(self.head, 0, end)
            self.missing = (int(length[1]) if length else 0) - (len(self.head) - end - 4)
            self.head = self.head[: end + 2]
        if self.missing <= 0:
            head, self.head, self.missing = self.head, b"", 0
            self.answer(head)

    def answer(self, head: bytes) -> None:
        if head.startswith(b"GET "):
            pages = {b"/health": sized(b"text/plain", b""), b"/v1/models": MODELS, b"/metrics": self.page}
            self.transport.write(pages.get(head.split(b" ", 2)[1], NOT_FOUND))
            return
        asked = BENCH.search(head)
        tokens, rate, first = (int(asked[1]), float(asked[2]), float(asked[3])) if asked else (0, 0.0, 0.0)
        if not tokens:
            if first:
                self.timer = self.loop.call_later(first, self.transport.write, COMPLETION)
            else:
                self.transport.write(COMPLETION)
            return
        self.transport.write(STREAM_HEAD)
        self.left, self.gap = tokens, 1 / rate
        self.next = self.loop.time() + first
        self.timer = self.loop.call_at(self.next, self.send)

    def send(self) -> None:
        self.left -= 1
        if not self.left:
            self.transport.write(TOKEN + LAST)
            return
        self.transport.write(TOKEN)
        self.next += self.gap
        self.timer = self.loop.call_at(self.next, self.send)


async def serve(count: int) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Connection, "127.0.0.1", 0, backlog=4096) for _ in range(count)]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
