"""Data capture: sampled requests and their answers, per model, off the hot path.

The idea: a request that is not in the sample pays for one look-up and one addition. One that is gets an outlet around
its own, which keeps the first bytes of what passes, by reference; when it has ended, what was kept waits for a thread
that does everything costly: reading, choosing fields, redacting, writing. What is held in between is bounded on both
sides of that hand-over; beyond it, bodies are cut and records dropped, and counted. Nothing here can fail a request.

Left to others: which requests (`sample`), the record (`record`), the file (`writer`).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import cast

from gateway.captures.record import Part, line
from gateway.captures.writer import Writer
from gateway.config.types import Capture, Config
from gateway.outlet import Outlet
from gateway.records import RequestRecord
from gateway.sample import CAPTURED, Sample

HELD = 64 << 20  # bytes of the answers to requests that have not ended; beyond, no more is kept of any
_LONGEST = 200  # bytes of a content type
_AROUND = 1024  # bytes that a record takes beside its bodies


class _Rule:
    """What is captured of one model."""

    __slots__ = ("capture", "sample", "taken", "writer")

    def __init__(self, capture: Capture, sample: Sample, writer: Writer):
        self.capture = capture
        self.sample = sample
        self.writer = writer
        self.taken = 0


class Captures:
    """One per gateway; `held` bounds the bytes of answers that are still coming."""

    def __init__(self, random: Random, held: int = HELD):
        self._random = random
        self._rules: dict[str, _Rule] = {}
        self._writers: dict[str, Writer] = {}
        self._before = [0, 0]  # taken and dropped by what is no longer there
        self.left = held

    def reconfigure(self, config: Config) -> None:
        """Other rules from now on. A file whose rule has gone gets what it has coming, without being waited for."""
        old, rules = self._rules, dict[str, _Rule]()
        writers: dict[str, Writer] = {}
        for model in config.models.values():
            capture = model.capture
            if capture is None or capture.share <= 0.0:
                continue
            writer = writers.get(capture.file) or self._writer(capture)
            writers[capture.file] = writer
            known = old.get(model.name)
            sample = known.sample if known is not None and known.capture.share == capture.share else None
            rule = _Rule(capture, sample or Sample(capture.share, CAPTURED, self._random), writer)
            rule.taken = known.taken if known is not None else 0
            rules[model.name] = rule
        self._before[0] += sum(rule.taken for name, rule in old.items() if name not in rules)
        for file, writer in self._writers.items():
            if writers.get(file) is not writer:
                writer.close(0.0)
                self._before[1] += writer.dropped
        self._rules, self._writers = rules, writers

    def _writer(self, capture: Capture) -> Writer:
        """The file's writer, the one there is where it is to be written in the same way."""
        known = self._writers.get(capture.file)
        if known is not None and (known.rotate, known.keep) == (capture.rotate, capture.keep):
            return known
        return Writer(capture.file, capture.rotate, capture.keep)

    # --- the hot path --------------------------------------------------------------------------------------------

    def take(self, model: str) -> Taking | None:
        """Whether this request is captured; None nearly always."""
        rule = self._rules.get(model)
        if rule is None or not rule.sample.take():
            return None
        return Taking(self, rule)

    # --- off the hot path ----------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Records since the start: `taken`, and how many of them were `dropped`."""
        taken = self._before[0] + sum(rule.taken for rule in self._rules.values())
        return {"taken": taken, "dropped": self._before[1] + sum(one.dropped for one in self._writers.values())}

    def view(self) -> list[dict[str, object]]:
        """As JSON, for operators."""
        return [
            {"model": name, "file": rule.capture.file, "share": rule.capture.share, "layout": rule.capture.layout,
             "taken": rule.taken, "dropped": rule.writer.dropped}
            for name, rule in self._rules.items()
        ]  # fmt: skip

    def wait_for_idle(self, timeout: float) -> bool:
        """Wait until all that was taken is written or given up."""
        return all(writer.wait_for_idle(timeout) for writer in self._writers.values())

    def close(self, timeout: float = 1.0) -> None:
        """Give each file `timeout` seconds to get what it has coming."""
        for writer in self._writers.values():
            writer.close(timeout)


class Taking:
    """One request that is captured: put its `outlet` in the place of its own, and tell when it has ended."""

    __slots__ = ("_all", "_answer", "_rule")

    def __init__(self, captures: Captures, rule: _Rule):
        self._all = captures
        self._rule = rule
        self._answer: Tee | None = None

    def outlet(self, reply: Outlet) -> Outlet:
        """An outlet that passes everything on and keeps the beginning of the answer."""
        self._answer = Tee(reply, min(self._rule.capture.body, self._all.left))
        self._all.left -= self._answer.left
        return cast(Outlet, self._answer)  # what it only passes on is read-only there

    def ended(self, record: RequestRecord, finish: str, kind: bytes, body: bytes) -> None:
        """The request has ended: `kind` is its content type, `body` what was sent, `finish` why the answer ended."""
        answer, rule, most = self._answer, self._rule, self._rule.capture.body
        if answer is None:
            return
        self._answer = None
        request = Part(kind[:_LONGEST].decode("latin-1"), body[:most], len(body), len(body) > most)
        self._all.left += answer.reserved
        rule.taken += 1
        capture, fields, pieces, size, is_cut = rule.capture, answer.fields, answer.pieces, answer.size, answer.is_cut

        def make() -> bytes:
            said = Part(_content_type(fields), b"".join(pieces), size, is_cut)
            return line(capture, record, finish, request, said)

        rule.writer.offer(make, len(request.data) + sum(map(len, pieces)) + _AROUND)


class Tee:
    """An outlet around another one. `pieces` is the answer's beginning, `size` all of it in bytes."""

    __slots__ = ("_inner", "fields", "is_cut", "left", "pieces", "reserved", "size")

    def __init__(self, inner: Outlet, most: int):
        self._inner = inner
        self.left = self.reserved = max(0, most)
        self.pieces: list[bytes] = []
        self.size = 0
        self.is_cut = False
        self.fields = b""

    def _keep(self, data: bytes) -> None:
        length = len(data)
        self.size += length
        if length <= self.left:
            self.left -= length
            self.pieces.append(data)
        elif not self.is_cut:
            self.is_cut = True
            self.pieces.append(data[: self.left])
            self.left = 0

    def start(self, status: int, fields: bytes, length: int | None, first: bytes = b"") -> None:
        self.fields = fields
        self._keep(first)
        self._inner.start(status, fields, length, first)

    def write(self, data: bytes) -> None:
        self._keep(data)
        self._inner.write(data)

    def end(self, last: bytes = b"") -> None:
        self._keep(last)
        self._inner.end(last)

    def send(self, status: int, fields: bytes, body: bytes) -> None:
        """A whole answer at once."""
        self.fields = fields
        self._keep(body)
        self._inner.send(status, fields, body)

    def break_off(self, last: bytes) -> None:
        self._keep(last)
        self._inner.break_off(last)

    def cut(self) -> None:
        self._inner.cut()

    # --- what the other one says of itself -----------------------------------------------------------------------

    @property
    def status(self) -> int:
        return self._inner.status

    @property
    def started(self) -> bool:
        return self._inner.started

    @property
    def ended(self) -> bool:
        return self._inner.ended

    @property
    def gone(self) -> bool:
        return self._inner.gone

    @property
    def paused(self) -> bool:
        return self._inner.paused

    @property
    def bytes_out(self) -> int:
        return self._inner.bytes_out

    @property
    def on_pause(self) -> Callable[[], None] | None:
        return self._inner.on_pause

    @on_pause.setter
    def on_pause(self, call: Callable[[], None] | None) -> None:
        self._inner.on_pause = call

    @property
    def on_resume(self) -> Callable[[], None] | None:
        return self._inner.on_resume

    @on_resume.setter
    def on_resume(self, call: Callable[[], None] | None) -> None:
        self._inner.on_resume = call


def _content_type(fields: bytes) -> str:
    """From ready header lines."""
    for field in fields.split(b"\r\n"):
        name, _, value = field.partition(b":")
        if name.lower() == b"content-type":
            return value.strip()[:_LONGEST].decode("latin-1")
    return ""
