"""Meter one OpenAI-style answer: when content came, how many tokens, and whether it ended as it should.

The first token is the first event that carries content: a role-only event, a comment line and an
event with empty text are not it. An answer counts as good only if nothing was missing: status 200,
no error event, a `finish_reason`, `[DONE]`, and the end of the HTTP body. `[DONE]` after an error
event does not make it good again.

Content is found with a byte pattern, not a JSON parser: inside a JSON string every quote is escaped,
so `"content":"x` can only be a key and its value. Only events with `usage` or `error` are parsed.
Events are split as the HTML standard's server-sent events section says (LF, CRLF or CR; comments).
"""

from __future__ import annotations

import json
import re
from array import array
from typing import Any

MAX_PLAIN = 16 * 1024 * 1024  # bytes of a plain (not streamed) answer that are kept
_CONTENT = re.compile(rb'"(?:content|text|reasoning_content|reasoning|arguments|delta|text_output)"\s*:\s*"[^"]')
_FINISH = re.compile(rb'"(?:finish_reason|stop_reason)"\s*:\s*"')


class EventSplitter:
    """Splits a stream of bytes into the payloads of its events; pieces may be cut anywhere."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The (event name, data) of each event that `data` completes."""
        if self._held:
            data, self._held = self._held + data, b""
        if b"\r" in data:
            cut = b""
            if data.endswith(b"\r"):  # perhaps the first half of CRLF
                data, cut = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + cut
        *blocks, self._held = data.split(b"\n\n")
        events = []
        for block in blocks:
            if block.startswith(b"data: ") and b"\n" not in block:
                events.append((b"", block[6:]))
            else:
                event = _parse_block(block)
                if event is not None:
                    events.append(event)
        return events


def _parse_block(block: bytes) -> tuple[bytes, bytes] | None:
    name, data = b"", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    return (name, b"\n".join(data)) if data else None


class AnswerMeter:
    """What is known of one answer so far. Feed it; then ask `failure`.

    `arrivals` are the moments (s, the caller's clock) of the events with content, in order.
    `tokens` is the server's own count when it sent `usage`, else the number of such events.
    """

    __slots__ = (
        "_plain", "_splitter", "arrivals", "cached_tokens", "done", "endpoint", "error", "finished", "first_byte",
        "prompt_tokens", "status", "streamed", "usage_tokens",
    )  # fmt: skip

    def __init__(self) -> None:
        self.status = 0
        self.streamed = False
        self.endpoint = ""
        self.arrivals: array[float] = array("d")
        self.first_byte: float | None = None
        self.error: str | None = None
        self.finished = False
        self.done = False
        self.usage_tokens: int | None = None
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None
        self._splitter = EventSplitter()
        self._plain: list[bytes] = []

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """The answer's head. Header names are lower case."""
        self.status = status
        self.endpoint = headers.get(b"x-headway-endpoint", b"").decode("latin-1")
        self.streamed = status == 200 and headers.get(b"content-type", b"").startswith(b"text/event-stream")

    def feed(self, piece: bytes, now: float) -> None:
        """A piece of the body that arrived at `now`."""
        if self.first_byte is None:
            self.first_byte = now
        if not self.streamed:
            self._plain.append(piece)
            return
        for name, payload in self._splitter.feed(piece):
            self._event(name, payload, now)

    def _event(self, name: bytes, payload: bytes, now: float) -> None:
        if payload == b"[DONE]":
            self.done = True
            return
        if b'"error"' in payload or name == b"error":
            self._read_error(payload, name)
        if self.error is None and _CONTENT.search(payload):
            self.arrivals.append(now)
        if _FINISH.search(payload):
            self.finished = True
        if name == b"message_stop":  # how /v1/messages says [DONE]
            self.done = True
        if b'"usage"' in payload:
            self._read_usage(_parse(payload))

    def _read_error(self, payload: bytes, name: bytes) -> None:
        error = _parse(payload).get("error")
        if self.error is None and (error or name == b"error"):
            self.error = "error event" + _kind(error)

    def _read_usage(self, value: dict[str, Any]) -> None:
        usage = value.get("usage")
        if isinstance(usage, dict):
            self.usage_tokens = _count(usage.get("completion_tokens"), self.usage_tokens)
            self.prompt_tokens = _count(usage.get("prompt_tokens"), self.prompt_tokens)
            details = usage.get("prompt_tokens_details")
            if isinstance(details, dict):
                self.cached_tokens = _count(details.get("cached_tokens"), self.cached_tokens)

    @property
    def tokens(self) -> int:
        """Tokens of the answer so far."""
        return self.usage_tokens if self.usage_tokens is not None else len(self.arrivals)

    def failure(self, body_complete: bool) -> str:
        """Why this answer does not count as good; "" if it does. Ask once, at the end."""
        if self.status != 200:
            return self._refusal() if self.status else "no answer"
        if self.error is not None:
            return self.error
        if not body_complete:
            return "broken stream" if self.streamed else "broken answer"
        if not self.streamed:
            return self._plain_failure()
        if not self.finished:
            return "no finish_reason"
        if not self.done:
            return "no [DONE]"
        return "" if self.arrivals else "no content"

    def _refusal(self) -> str:
        error = _parse(b"".join(self._plain[:4])).get("error")
        return f"status {self.status}" + _kind(error)

    def _plain_failure(self) -> str:
        value = _parse(b"".join(self._plain)) if sum(map(len, self._plain)) <= MAX_PLAIN else {}
        self._plain.clear()
        self._read_usage(value)
        if value.get("error"):
            return "error in a 200"
        return "" if value else "not a JSON object"


def _kind(error: object) -> str:
    """An error's code or type as a short suffix; "" without one."""
    if not isinstance(error, dict):
        return ""
    kind = error.get("code") or error.get("type")
    return f" ({kind[:40]})" if isinstance(kind, str) else ""


def _count(value: object, otherwise: int | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        value = json.loads(payload)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
