"""The demo's clients: a few requests a second of three kinds, sent as anybody would send them.

The idea: what an afternoon looks like in small. Most requests come from assistants whose long system prompt is the same
each time (a prefix cache is worth something), some bring a long document of their own (a prefill that is in the way),
some are short and not streamed. Arrivals are a Poisson process, so they come in bunches. Every client has a connection
of its own and speaks the least HTTP that does: at this rate nobody needs more.

Left to others: what became of the requests; the gateway's own log says that better (`demo_table`).
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

MOST = 256  # requests open at once: a gateway that hangs must not fill this process
PATIENCE = 120.0  # seconds for one answer
_LAST = 64  # bytes that hold the end of an answer, its framing included
_ASSISTANTS = 6
_SYSTEM_BYTES = 6_000  # about 1,500 tokens
_WORDS = (  # noqa: SIM905 (a list of them is a page)
    "the of and to in is that for it as was with be by on not he his but at are this have from which one had all will "
    "were there been their when more who would them some into time only could new other these may then first any now "
    "such like our over even most made after also did many before must through back years where much your way well"
).split()


@dataclass(frozen=True, slots=True)
class Sample:
    """One request to make: its path, its body as JSON, and what a whole answer's last bytes hold."""

    path: str
    body: bytes
    end: bytes


def samples(model: str, random: Random) -> Iterator[Sample]:
    """Requests without end. The same generator gives the same requests."""
    systems = [text(random, _SYSTEM_BYTES) for _ in range(_ASSISTANTS)]
    while True:
        kind = random.random()
        if kind < 0.6:
            messages = [_message("system", random.choice(systems)), _message("user", text(random, 400))]
            yield _chat(model, messages, random.randint(60, 200))
        elif kind < 0.85:
            document = text(random, random.randint(8_000, 24_000))
            yield _chat(model, [_message("user", document)], random.randint(30, 80))
        else:
            body = {"model": model, "prompt": text(random, 800), "max_tokens": random.randint(20, 60)}
            yield Sample("/v1/completions", json.dumps(body).encode(), b"}")


def _chat(model: str, messages: list[dict[str, str]], most: int) -> Sample:
    body = {"model": model, "messages": messages, "max_tokens": most, "stream": True}
    return Sample("/v1/chat/completions", json.dumps(body).encode(), b"data: [DONE]")


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def text(random: Random, size: int) -> str:
    """Words, about `size` bytes of them."""
    return " ".join(random.choices(_WORDS, k=size // 5 + 1))[:size]


async def ask(
    host: str, port: int, method: str, path: str, body: bytes = b"", request_id: str = ""
) -> tuple[int, bytes]:
    """One exchange on a connection of its own: the status, and the body as it came (chunked or not).

    Raises OSError, EOFError or ValueError where there is no answer.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        named = f"x-request-id: {request_id}\r\n" if request_id else ""
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n{named}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        status = int((await reader.readuntil(b"\r\n\r\n"))[9:12])  # after "HTTP/1.1 "
        return status, await reader.read()
    finally:
        writer.close()


async def ask_json(host: str, port: int, path: str) -> Any:
    """GET a page of JSON that comes with a length. Raises what `ask` does."""
    return json.loads((await ask(host, port, "GET", path))[1])


class Traffic:
    """Sends `rate` requests a second until cancelled. `answered` and `failed` are what the clients saw."""

    def __init__(self, host: str, port: int, model: str, rate: float, random: Random):
        self.answered = 0
        self.failed = 0
        self._address = (host, port)
        self._samples = samples(model, random)
        self._rate = rate
        self._random = random
        self._numbers = itertools.count(1)
        self._open: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._random.expovariate(self._rate))
                if len(self._open) < MOST:
                    task = asyncio.create_task(self._send(next(self._samples), f"demo-{next(self._numbers)}"))
                    self._open.add(task)
                    task.add_done_callback(self._open.discard)
        finally:
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    async def _send(self, sample: Sample, request_id: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                status, body = await ask(*self._address, "POST", sample.path, sample.body, request_id)
        except (OSError, EOFError, ValueError):
            status, body = 0, b""
        if status == 200 and sample.end in body[-_LAST:]:
            self.answered += 1
        else:
            self.failed += 1
