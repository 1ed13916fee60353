"""Looks on while a stream passes: when it starts, its first token, how many came, what the engine says it used.

It reads server-sent events fed in any pieces and never copies what it need not. Until the first event with content
it reads event by event; after that it only counts, and looks closer at a piece that mentions an error or usage.
It speaks the dialects by their marks, not by their schemas: OpenAI chat, completions and responses, Anthropic
messages, Triton and TGI streams.

Why an answer ended stands in one of its last events, so the last few pieces are kept as they came and searched only
when somebody asks: to keep one costs a tenth of what a search in it does (35 ns, 300 ns for an event of 225 bytes).

An engine that dies mid-stream sends an error event and then, as if nothing had happened, `[DONE]` (seen on vLLM 0.32):
so what follows an error event is dropped, and the stream has failed.
"""

from __future__ import annotations

import re
from collections import deque
from enum import Enum

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r|\r\n\n|\n\r\n")
_ERROR = re.compile(
    rb'(?:^|[\r\n])event:[ ]?(?:error|response\.failed)\b|(?:^|[\r\n])data:[ ]?\{\s*"error"\s*:\s*[{"]'
    rb'|(?:^|[\r\n])data:[ ]?\{[^\r\n]*"object"\s*:\s*"error"'
)
_CONTENT = re.compile(
    rb'"(?:content|reasoning_content|reasoning|text|refusal|arguments|partial_json|thinking|delta|text_output|name)"'
    rb'\s*:\s*"(?!")|"(?:text|generated_text)"\s*:\s*"(?!")'
)
# Marks of a dialect (there, an event without content is a role, a start, an end), or data that says nothing.
_DIALECT = re.compile(
    rb'"(?:choices|type|object|usage|content|text|text_output|generated_text|model_name)"\s*:'
    rb"|data:[ ]?(?:\[DONE\]|[\r\n]|\Z)"
)
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_STATUS = re.compile(rb'"(?:code|status)"\s*:\s*"?([45]\d\d)\b')
_NUMBERS = re.compile(
    rb'"(prompt_tokens|input_tokens|completion_tokens|output_tokens|cached_tokens|cache_read_input_tokens)"\s*:\s*(\d{1,9})'
)
_MEANS = {b"prompt_tokens": 0, b"input_tokens": 0, b"completion_tokens": 1, b"output_tokens": 1, b"cached_tokens": 2,
          b"cache_read_input_tokens": 2}  # fmt: skip
# Why an answer ended: what a piece that says so has in it, and how it is said. The surest first, since an engine may
# tell the stop string beside OpenAI's word for it.
_FINISH = tuple(
    (mark, re.compile(pattern)) for mark, pattern in (
        (b"inish", rb'"(?:finish_reason|finishReason)"\s*:\s*"(\w{1,32})"'),
        (b"stop_reason", rb'"stop_reason"\s*:\s*"(\w{1,32})"'),
        (b'"response.', rb'"type"\s*:\s*"response\.(completed|incomplete|failed|cancelled)"'),
        (b'"status"', rb'"status"\s*:\s*"(completed|incomplete|failed|cancelled)"'),
    )
)  # fmt: skip
_LATE = 6  # pieces or events that may come after the one that says so: usage, an end mark, a few comments
_PARTIAL = 256 * 1024  # an event longer than this is passed without being understood
TAIL = 4096  # how much of the end of a plain answer is searched for its usage
_LAST = 2048  # ... and for why it ended


class Kind(Enum):
    """What one event is."""

    COMMENT = 1  # nothing but comment lines
    ERROR = 2
    CONTENT = 3
    OTHER = 4  # a role, a start mark, usage, an end mark


def kind_of(event: bytes) -> Kind:
    """Classify one whole event (its blank line may be included)."""
    if (event.find(b"rror") >= 0 or event.find(b"response.failed") >= 0) and _ERROR.search(event):
        return Kind.ERROR
    if event[:5] != b"data:" and all(not line or line[:1] == b":" for line in event.splitlines()):
        return Kind.COMMENT
    if _CONTENT.search(event) and not event.startswith((b"event: message_start", b"event: response.created")):
        return Kind.CONTENT
    if b"tool_calls" in event or b'"token"' in event:
        return Kind.CONTENT
    if event.find(b"data:") >= 0 and _DIALECT.search(event) is None:
        return Kind.CONTENT  # of a server with a form of its own: what it sends is its answer
    return Kind.OTHER


def status_of(event: bytes) -> int:
    """The HTTP status an error event names, or 500."""
    match = _STATUS.search(event)
    return int(match[1]) if match else 500


class Meter:
    """One per try. `feed` returns what may be forwarded; the counters say the rest. Lengths are tokens.

    `began` turns true with the first event that is neither a comment nor an error; `first` when content comes.
    """

    began = False
    first = False
    failed = False
    error_event = b""
    events = 0  # content events: about one token each
    prompt = -1
    completion = -1
    cached = -1
    _partial = b""

    def __init__(self) -> None:
        self._late: deque[bytes] = deque(maxlen=_LATE)

    @property
    def finish(self) -> str:
        """Why the answer ended, in its engine's word ("stop", "length", "tool_calls", "end_turn", "completed"), or "".

        Of several answers in one, the last that said so.
        """
        for piece in (self._partial, *reversed(self._late)) if self._partial else reversed(self._late):
            for mark, pattern in _FINISH:
                if piece.find(mark) >= 0:
                    found = pattern.findall(piece)
                    if found:
                        return str(found[-1], "ascii", "replace")
        return ""

    @property
    def tokens(self) -> int:
        """Output tokens: the engine's count when it told, else the events seen."""
        return self.completion if self.completion >= 0 else self.events

    def feed(self, data: bytes) -> bytes:
        """Look at the next piece. What comes back is `data`, or less of it once the stream has failed."""
        if self.failed:
            return b""
        if not self.first or self._partial or data[-2:] != b"\n\n":
            return self._read_events(data)
        # (`find`, not `in`: on bytes that makes an exception and drops it, at twice the price.)
        if data.find(b"rror") >= 0 or data.find(b"response.failed") >= 0:
            return self._read_events(data)
        # The common case: whole events, of which there is nothing to know but their number.
        self.events += data.count(b"data:")
        self._late.append(data)
        if data.find(b'"usage"') >= 0:
            self._read_usage(data)
        if data[-8:-2] == b"[DONE]":
            self.events -= 1
        return data

    def _read_events(self, data: bytes) -> bytes:
        """Event by event. Bytes of an unfinished event are forwarded at once and remembered for its meaning."""
        known = len(self._partial)
        text = self._partial + data if known else data
        at, look = 0, max(0, known - 3)  # what is remembered holds no end, but may hold most of one
        while True:
            end = _EVENT_END.search(text, look)
            if end is None:
                break
            event = text[at : end.end()]
            if self._take(event):
                # Drop what follows the error event. Of the event itself some bytes may have been forwarded already.
                return text[known : end.end()]
            at = look = end.end()
        self._partial = text[at:] if len(text) - at <= _PARTIAL else b""
        return data

    def _take(self, event: bytes) -> bool:
        """Note one event. True when it is an error: the stream has failed."""
        kind = kind_of(event)
        if kind is Kind.COMMENT:
            return False
        if kind is Kind.ERROR:
            self.failed = True
            self.error_event = event
            self._partial = b""
            return True
        self.began = True
        self._late.append(event)
        if kind is Kind.CONTENT:
            self.first = True
            self.events += 1
        if b'"usage"' in event:
            self._read_usage(event)
        return False

    def _read_usage(self, data: bytes) -> None:
        match = _USAGE.search(data)
        if match is not None:
            self.read_numbers(data[match.end() :])

    def read_numbers(self, usage: bytes) -> None:
        """Take what a usage object says; a later one adds to an earlier one (Anthropic splits them)."""
        for name, digits in _NUMBERS.findall(usage):
            value, means = int(digits), _MEANS[name]
            if means == 0:
                self.prompt = value if value > self.prompt else self.prompt
            elif means == 1:
                self.completion = value if value > self.completion else self.completion
            else:
                self.cached = value if value > self.cached else self.cached

    def read_plain(self, tail: bytes) -> None:
        """The end of an answer that was no stream: its usage, if it has one, and why it ended."""
        self._late.append(tail[-_LAST:])
        at = tail.rfind(b'"usage"')
        if at >= 0:
            self.read_numbers(tail[at:])

    @property
    def holds_partial(self) -> bool:
        """True inside an event: what was forwarded so far is not a whole event."""
        return bool(self._partial.strip())
