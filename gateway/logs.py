"""Structured logging: one JSON object a line. One line per request, and a line for everything else worth telling.

The idea: the hot path only encodes a line into a list; a timer of the caller's hands the batch over (`flush`), about
every 100 ms, and 64 KiB do so at once. Writing is done by one thread (`Output`), because nothing else keeps a stalled
reader from stalling the event loop: a blocking write to a full pipe waits for as long as its reader sleeps; O_NONBLOCK
belongs to the open file, which the shell and other processes share, so setting it breaks them; and asking first
whether a write would block is answered "no" for any regular file, also on a disk that hangs. The thread sleeps in
`write` with the interpreter's lock released. What it has not written is bounded; beyond that, and when writing
fails (disk full, reader gone), lines are dropped and counted, and nobody is ever told by an exception.

What can come from a client is made harmless: JSON escapes control bytes, the rest outside printable ASCII is escaped
too (a terminal obeys some of it), a path is cut short and loses its query. There are no bodies and no keys in a line.

Left to others: what to say (`proxy`, `app`), the timer, where the lines go.
"""

from __future__ import annotations

import json
import os
import select
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Condition, Thread

import msgspec

from gateway.core.types import UNKNOWN
from gateway.records import Admission, RequestRecord

LEVELS = ("debug", "info", "warning", "error")
BATCH = 64 << 10
PENDING = 4 << 20
LONGEST = 256
# Per kind of event: so many at once, then so many a second.
BURST = 10.0
PER_SECOND = 1.0

Batch = bytes | Callable[[], bytes]

_AT_ONCE = Admission(())


class Output:
    """A file descriptor or a file, written by a thread of its own. Starts with the first batch.

    `limit` bounds the bytes that wait; `dropped` counts the lines that were given up. A path is opened for each
    batch, so a file that was moved away (rotated) is made anew; a descriptor is never closed here.
    """

    def __init__(self, target: int | Path, *, limit: int = PENDING):
        self.dropped = 0
        self._target = target
        self._limit = limit
        self._waiting: deque[tuple[Batch, int, int]] = deque()
        self._size = 0
        self._busy = False
        self._closed = False
        self._torn = False
        self._wake = Condition()
        self._thread: Thread | None = None

    def offer(self, batch: Batch, size: int, lines: int) -> None:
        """Take a batch of whole lines (or what makes it, to be called in the thread), of about `size` bytes."""
        with self._wake:
            if self._closed or self._size + size > self._limit:
                self.dropped += lines
                return
            self._waiting.append((batch, size, lines))
            self._size += size
            if self._thread is None:
                self._thread = Thread(target=self._run, name="headway-log", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def wait_for_idle(self, timeout: float) -> bool:
        """Wait until everything offered was written or given up; False if that took longer than `timeout` seconds."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._waiting and not self._busy, timeout)

    def close(self, timeout: float = 1.0) -> None:
        """Write what is left, for at most `timeout` seconds: a blocked reader does not hold up the end."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._busy = False
                self._wake.notify_all()
                self._wake.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                batch, size, lines = self._waiting.popleft()
                self._busy = True
            written = self._try_to_write(batch)
            with self._wake:
                self._size -= size
                if not written:
                    self.dropped += lines

    def _try_to_write(self, batch: Batch) -> bool:
        try:
            data = batch if isinstance(batch, bytes) else batch()
            if isinstance(self._target, int):
                whole = stat.S_ISREG(os.fstat(self._target).st_mode)
                for piece in (data,) if whole else _pieces(data):
                    self._write_all(self._target, piece)
            else:
                fd = self._open(self._target, len(data))
                try:
                    self._write_all(fd, data)
                finally:
                    os.close(fd)
        except (OSError, ValueError):
            return False
        return True

    def _open(self, file: Path, size: int) -> int:
        """The file for one more batch of so many bytes. Raises OSError."""
        return os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _write_all(self, fd: int, data: bytes) -> None:
        # A batch that was cut in the middle of a line leaves a torn one; what follows starts on a fresh line.
        left = memoryview(b"\n" + data if self._torn else data)
        self._torn = False
        while left:
            try:
                done = os.write(fd, left)
            except BlockingIOError:
                # Someone else made the descriptor non-blocking. This thread has the time to wait.
                select.select([], [fd], [])
                continue
            except OSError:
                self._torn = self._torn or len(left) < len(data)
                raise
            left = left[done:]


def _pieces(data: bytes) -> Iterator[bytes]:
    """Runs of whole lines that a pipe takes in one piece, so that processes may share it. A longer line comes alone."""
    start, length = 0, len(data)
    while start < length:
        end = data.rfind(b"\n", start, start + select.PIPE_BUF) + 1
        if not end:
            end = data.find(b"\n", start) + 1 or length
        yield data[start:end]
        start = end


class _Line(msgspec.Struct, gc=False):
    """A request's line: the fields in this order, under these names. Seconds, tokens, bytes; null where unknown."""

    time: str
    level: str
    event: str
    request_id: str
    status: int
    ended: str
    method: str
    path: str
    model: str
    pool: str
    arm: str
    klass: str = msgspec.field(name="class")
    tenant: str
    stream: bool
    endpoint: str
    policy: str
    reason: str
    code: str
    tries: int
    queued: float
    waited_for: tuple[str, ...]
    displaced: int
    overhead: float
    ttft: float
    tpot: float
    predicted_ttft: float
    predicted_tpot: float
    duration: float
    prompt_tokens: float
    cached_tokens: float
    completion_tokens: float
    bytes_in: int
    bytes_out: int


class _Clock:
    """Unix time as RFC 3339 in UTC with milliseconds; the second's text is made once per second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def text(self, at: float) -> str:
        second = int(at)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{int((at - second) * 1000):03d}Z"


class RequestLog:
    """One line per request, encoded at once and handed over in batches. On at level debug and info, else off."""

    def __init__(self, output: Output, level: str = "info"):
        self._output = output
        self._clock = _Clock()
        self._encode = msgspec.json.Encoder().encode
        self._lines: list[bytes] = []
        self._size = 0
        self.set_level(level)

    @property
    def dropped(self) -> int:
        """Lines of this output that were given up so far, those of events included."""
        return self._output.dropped

    def set_level(self, level: str) -> None:
        self._on = LEVELS.index(level) <= LEVELS.index("info")

    def write(self, r: RequestRecord) -> None:
        """Note the line of a request that has ended. Never raises; the line comes with the next `flush`."""
        if not self._on:
            return
        predicted, admission = r.predicted, r.admission or _AT_ONCE
        line = _Line(
            self._clock.text(r.at), "info", "request", r.request_id, r.status, r.ended, r.method, _tidy_path(r.path),
            r.model, r.pool, r.arm, r.klass, r.tenant, r.stream, r.endpoint, r.policy, admission.why or r.reason,
            r.code, r.tries, r.queued, admission.waited_for, admission.displaced, r.overhead, r.ttft, r.tpot,
            UNKNOWN if predicted is None else predicted.ttft, UNKNOWN if predicted is None else predicted.tpot,
            r.duration, r.prompt_tokens, r.cached_tokens, r.completion_tokens, r.bytes_in, r.bytes_out,
        )  # fmt: skip
        try:
            text = self._encode(line)
        except ValueError:  # half of a surrogate pair, from bytes that were no text
            text = _dump(_plain(msgspec.to_builtins(line)))
        if not text.isascii() or b"\x7f" in text:
            text = _dump(json.loads(text))
        self._lines.append(text)
        self._size += len(text) + 1
        if self._size >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Hand over what was noted. Call it about every 100 ms and before the end."""
        if self._lines:
            lines, size = self._lines, self._size
            self._lines, self._size = [], 0
            lines.append(b"")
            self._output.offer(b"\n".join(lines), size, len(lines) - 1)


class Events:
    """Everything that is not a request: started, reloaded, an endpoint ejected, a bug.

    Each kind of event is limited (`BURST`, then `PER_SECOND`); the next line of that kind says how many were left
    out. An error is limited like the rest: a storm of errors fills a disk as well as any other.
    """

    def __init__(
        self,
        output: Output,
        level: str = "info",
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ):
        self._output = output
        self._monotonic, self._wall = clock, wall
        self._clock = _Clock()
        self._kinds: dict[str, list[float]] = {}  # event: [allowance, when it was worked out, suppressed]
        self.set_level(level)

    def set_level(self, level: str) -> None:
        self._lowest = LEVELS.index(level)

    def log(self, level: str, event: str, **fields: object) -> None:
        """One line, at once. `event` is a fixed word of ours; what varies goes into the fields."""
        if LEVELS.index(level) < self._lowest:
            return
        suppressed = self._admit(event)
        if suppressed is None:
            return
        line: dict[str, object] = {"time": self._clock.text(self._wall()), "level": level, "event": event}
        if suppressed:
            line["suppressed"] = suppressed
        line.update((name, _plain(value)) for name, value in fields.items())
        text = _dump(line) + b"\n"
        self._output.offer(text, len(text), 1)

    def _admit(self, event: str) -> int | None:
        """None when there were too many of this kind, else how many were left out since the last that was not."""
        now = self._monotonic()
        kind = self._kinds.setdefault(event, [BURST, now, 0.0])
        kind[0] = min(BURST, kind[0] + (now - kind[1]) * PER_SECOND)
        kind[1] = now
        if kind[0] < 1.0:
            kind[2] += 1.0
            return None
        kind[0] -= 1.0
        suppressed, kind[2] = int(kind[2]), 0.0
        return suppressed


def _tidy_path(path: str) -> str:
    if "?" in path:
        path = path.partition("?")[0]
    return path if len(path) <= LONGEST else path[:LONGEST] + "…"


def _dump(value: object) -> bytes:
    """JSON in printable ASCII."""
    return json.dumps(value, separators=(",", ":")).replace("\x7f", "\\u007f").encode()


def _plain(value: object) -> object:
    """A value as JSON can show it. Objects go through `str`, never field by field: a secret masks itself there."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return str(value)
