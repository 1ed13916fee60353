"""A small client for one request at a time that shows what came, when, and how it ended.

It opens a connection for each request and hides nothing: no retries, no decoding, the body as it was sent.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from loadtest.http1 import AnswerError, AnswerReader

PATIENCE = 120.0  # seconds for one answer


@dataclass(slots=True)
class Answer:
    """One answer. Times are seconds since the request was sent; `whole` says that it ended as HTTP wants it."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    first: float = float("nan")  # the first event with content, or the first byte of a plain answer
    took: float = float("nan")
    whole: bool = False
    fault: str = ""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[bytes]:
        return [event for event in self.body.split(b"\n\n") if event]

    @property
    def has_content(self) -> bool:
        return self.first == self.first

    @property
    def is_done(self) -> bool:
        return self.whole and self.body.endswith(b"data: [DONE]\n\n")

    @property
    def has_error_event(self) -> bool:
        return bool(self.events) and b'"error"' in self.events[-1]

    @property
    def tokens(self) -> int:
        """What the usage at the end of the stream says, else -1."""
        for event in reversed(self.events[-3:]):
            if b'"usage":{' in event:
                return int(json.loads(event.removeprefix(b"data: "))["usage"]["completion_tokens"])
        return -1


class _Sink:
    def __init__(self, answer: Answer, sent: float):
        self.answer = answer
        self._sent = sent

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.answer.status = status
        self.answer.headers = {name.decode(): value.decode("latin-1") for name, value in headers.items()}

    def body(self, piece: bytes) -> None:
        answer = self.answer
        answer.body += piece
        if not answer.has_content and (b"text/event-stream" not in answer.headers.get("content-type", "").encode()
                                       or b'"choices":[{' in piece or b"text_output" in piece):  # fmt: skip
            answer.first = time.monotonic() - self._sent


async def ask(url: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None,
              until: Callable[[Answer], bool] | None = None, patience: float = PATIENCE) -> Answer:  # fmt: skip
    """GET without a body, POST with one (bytes go as they are, all else as JSON). Never raises for what a server does.

    `until` sees the answer after each read; the connection is dropped as soon as it says True.
    """
    answer = Answer()
    sent = time.monotonic()
    try:
        async with asyncio.timeout(patience):
            await _exchange(urlsplit(url), path, body, headers or {}, answer, sent, until)
    except TimeoutError:
        answer.fault = f"nothing more within {patience:g} s"
    except (OSError, AnswerError) as error:
        answer.fault = repr(error)
    answer.took = time.monotonic() - sent
    return answer


async def _exchange(where: Any, path: str, body: Any, headers: Mapping[str, str], answer: Answer, sent: float,
                    until: Callable[[Answer], bool] | None) -> None:  # fmt: skip
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        writer.write(_request(where.netloc, path, body, headers))
        parser = AnswerReader(_Sink(answer, sent))
        while not parser.complete:
            data = await reader.read(65536)
            if not data:
                answer.whole = parser.closed()
                return
            parser.feed(data)
            if until is not None and until(answer):
                writer.transport.abort()
                return
        answer.whole = True
    finally:
        writer.close()


def _request(host: str, path: str, body: Any, headers: Mapping[str, str]) -> bytes:
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"host: {host}"]
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


async def wait_for(condition: Callable[[], Any], patience: float, every: float = 0.05) -> float:
    """Seconds until the awaitable that `condition` makes gave something true; infinite if it never did."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < patience:
        if await condition():
            return time.monotonic() - began
        await asyncio.sleep(every)
    return float("inf") if passed >= patience else passed
