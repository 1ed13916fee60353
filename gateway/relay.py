"""One try: an answer's bytes from a model server's socket to the client's, while the meter looks on.

Called straight from the transports' callbacks. The head is held until the answer starts (contract: the first body
byte that is neither a comment nor an error event); up to there the try can fail without the client knowing, and the
proxy may try elsewhere. After it, bytes go through as they come, and a break becomes one error event and a
connection that does not end as if the answer were whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from backends.base import Backend, Meaning
from gateway.answers import Fields, TryFailed, failed, forwardable
from gateway.config.types import Timeouts
from gateway.core.errors import UpstreamError
from gateway.core.health import Evidence
from gateway.core.meter import TAIL, Meter, status_of
from gateway.core.reservation import Reservation
from gateway.core.types import UNKNOWN
from gateway.edit import Editor
from gateway.outlet import Outlet
from gateway.story import Turn
from gateway.wire.upstream import UpstreamConnection

_HELD = 256 * 1024  # bytes held before a stream starts (comments), and of an error's body
_WHOLE = 32 << 20  # bytes of a plain answer that must be seen whole
_PROGRESS = 16  # tokens between updates of what is left to come


class Relay:
    """The receiver of one upstream answer. `done` happens when it has ended, well or not. Times are monotonic."""

    first_at = 0.0
    status = 0
    ended = ""
    error: UpstreamError | None = None
    connection: UpstreamConnection | None = None
    was_reused = False
    heard = False  # a byte of the answer came
    on_first: Callable[[], None] | None = None  # told of the first token
    is_forgotten: Callable[[], bool] | None = None  # asked whether a 404 means an adapter that is not there any more
    _fields: Fields = ()
    _length: int | None = None
    _held = b""
    _tail = b""
    _is_stream = False
    _marked = 0

    def __init__(self, reply: Outlet, backend: Backend, reservation: Reservation, timeouts: Timeouts, fields: bytes,
                 error_event: Callable[[UpstreamError], bytes], stream: bool, editor: Editor | None):  # fmt: skip
        self.reply = reply
        self.reservation = reservation
        self.stream = stream  # asked for; the answer may still be plain
        self.meter = Meter()
        self.began_at = self.last_at = time.monotonic()
        self._row = reservation.row
        predictor = reservation.fleet.predictor
        self._beat = predictor.beat if predictor is not None else None
        self.done = Turn()
        self.piece: Callable[[bytes], None] = self._piece_early
        self._backend = backend
        self._timeouts = timeouts
        self._reply_fields = fields  # ready lines of our own
        self._error_event = error_event
        self._editor = editor

    @property
    def ttft(self) -> float:
        """Seconds from the dispatch to the first token; NaN where none was seen: a plain answer shows none."""
        return self.first_at - self.began_at if self.first_at and self._is_stream else UNKNOWN

    # --- the receiver's side -------------------------------------------------------------------------------------

    def head(self, status: int, fields: Fields, length: int | None) -> None:
        # A head is no sign of life: vLLM sends it while its engine hangs.
        self.status, self._fields, self._length = status, fields, length
        if status >= 500 or status == 429 or 300 <= status < 400 or (status == 404 and self.is_forgotten is not None):
            self.piece = self._piece_judged
            return
        named = dict(fields)
        self._is_stream = named.get(b"content-type", b"")[:17].lower() == b"text/event-stream"
        if self._backend.orca_header is not None and b"endpoint-load-metrics" in named:
            self._read_report(named[b"endpoint-load-metrics"])
        if self._is_stream:
            self.piece = self._piece_early
            return
        self.reservation.stream = False  # whatever was asked for: when its first token was made will not be seen
        if status == 200 and (self._backend.errs_in_ok_body or (self._editor and self._editor.changes_plain)):
            self._whole = bytearray()  # (bytes would be copied whole with each piece)
            self.piece = self._piece_whole
        else:
            self.piece = self._piece_plain

    def _read_report(self, value: bytes) -> None:
        """A load report that came with the answer: fresher than any scrape."""
        load = self._backend.orca(value.decode("latin-1"), time.monotonic())
        if load is not None and load.kv_used == load.kv_used:
            self.reservation.fleet.kv_used[self.reservation.row] = load.kv_used

    def _piece_early(self, data: bytes) -> None:
        """A stream that has not started: hold, look, decide."""
        meter = self.meter
        held = self._held + meter.feed(data)
        if meter.failed and not meter.began:
            self._fail_early(meter.error_event)
        elif meter.began or len(held) > _HELD:
            self._held = b""
            self._start(held)
            self.piece = self._piece_stream
            if meter.events:
                self._note_tokens(meter.events)
            if meter.failed:
                self._stop_failed()
        else:
            self._held = held

    def _piece_stream(self, data: bytes) -> None:
        """The hot path of a stream: look, write."""
        meter = self.meter
        before = meter.events
        out = meter.feed(data)
        if self._editor is not None:
            out = self._editor.stream(out)
        if out:
            self.reply.write(out)
        if meter.events != before:  # comments keep a connection open, not an engine alive
            self._note_tokens(meter.events)
        if meter.failed:
            self._stop_failed()

    def _note_tokens(self, events: int) -> None:
        """Content has come: the engine lives; the first token, and every so many, move the fleet's columns along."""
        now = self.last_at = time.monotonic()
        beat = self._beat
        if beat is not None:
            beat(self._row, now)
        if not self.first_at:
            self._note_first(now)
        elif events - self._marked >= _PROGRESS:
            self._marked = events
            self.reservation.progress(events, now)

    def _stop_failed(self) -> None:
        self._stop(UpstreamError("the model server reported an error", cause="error_event"), "error_event")

    def _note_first(self, now: float) -> None:
        self.first_at = now
        reservation = self.reservation
        reservation.first_token(now)
        reservation.fleet.see(reservation.row, Evidence.SUCCESS, now)
        if self.on_first is not None:
            self.on_first()

    def _piece_plain(self, data: bytes) -> None:
        """A plain answer: forward as it comes, remember its end for the usage it reports."""
        self.last_at = time.monotonic()
        self._tail = (self._tail + data)[-TAIL:] if self._tail or len(data) > TAIL else data
        if self.reply.started:
            self.reply.write(data)
        else:
            self._note_first(self.last_at)
            self._start(data)

    def _piece_whole(self, data: bytes) -> None:
        """A plain answer that must be seen whole before a byte of it may go: it is edited or may hide an error."""
        self.last_at = time.monotonic()
        self._whole += data
        if len(self._whole) > _WHOLE:
            self._stop(UpstreamError("the model server's answer is too large to be edited", cause="too_large"),
                       "upstream_failed")  # fmt: skip

    def _piece_judged(self, data: bytes) -> None:
        """An error's body: kept, for its meaning and in case it is the last word."""
        if len(self._held) < _HELD:
            self._held += data

    def end(self) -> None:
        """The upstream answer is complete."""
        self.connection = None  # back in its pool: somebody else's next
        if self.ended:
            return
        if self.piece == self._piece_judged:
            self._judge()
            return
        if self.piece == self._piece_whole:
            self._finish_whole()
            return
        if self._is_stream:
            self._finish_stream()
            return
        if not self.reply.started:
            self._start(b"")
        self.meter.read_plain(self._tail)
        self.reply.end()
        self._done("complete")

    def pause(self) -> None:
        """The client reads too slowly: its engine's tokens wait, and tell nothing of the engine any more."""
        self.reservation.stream = False
        self.reservation.read_slowly = True
        if self.connection is not None:
            self.connection.pause()

    def broke(self, error: UpstreamError) -> None:
        """The connection failed, or the peer broke the protocol."""
        if not self.ended:
            self.heard = self.connection is None or self.connection.answered
            self._stop(error, "timeout" if error.status == 504 else "upstream_failed")

    # --- starting and ending -------------------------------------------------------------------------------------

    def _start(self, first: bytes) -> None:
        """The answer starts: its head goes out with its first bytes."""
        editor = self._editor
        length = self._length
        if editor is not None and self._is_stream:
            first, length = editor.stream(first), None
        self.reply.start(self.status, self._reply_fields + forwardable(self._fields), length, first)

    def _finish_stream(self) -> None:
        meter = self.meter
        if not self.reply.started:
            if self._held.strip():
                self.meter.feed(b"\n\n")
                if meter.failed:
                    self._fail_early(meter.error_event)
                    return
            self._start(self._held)
        if self._editor is not None:
            self.reply.write(self._editor.rest())
        self.reply.end()
        self._done("complete")

    def _finish_whole(self) -> None:
        body = bytes(self._whole)
        if self._backend.in_body_error(body) and self._backend.meaning(500, body) is not Meaning.CLIENT:
            self._fail(TryFailed("the model server reported an error", cause="error_body",
                                 answer=(500, self._fields, body)), "upstream_failed")  # fmt: skip
            return
        self._note_first(self.last_at)
        self.meter.read_plain(body[-TAIL:])
        if self._editor is not None:
            body = self._editor.plain(body)
        self._length = len(body)
        self.reply.start(self.status, self._reply_fields + forwardable(self._fields), len(body), body)
        self.reply.end()
        self._done("complete")

    def _judge(self) -> None:
        """A 3xx, 429 or 5xx, or a 404 for an adapter: what does this engine mean by it?"""
        status, body = self.status, self._held
        if status == 404 and self.is_forgotten is not None and self.is_forgotten():
            self.status = 0  # nobody's answer, and nobody's failure
            self._fail(TryFailed("the model server has forgotten the adapter", cause="forgotten",
                                 answer=(status, self._fields, body)), "cancelled")  # fmt: skip
            return
        if status < 400:
            self._fail(TryFailed("the model server answered with a redirect", cause="redirect"), "upstream_failed")
            return
        meaning = Meaning.CLIENT if status == 404 else self._backend.meaning(status, body)
        if meaning is Meaning.CLIENT:
            self.reply.start(status, self._reply_fields + forwardable(self._fields), len(body), body)
            self.reply.end()
            self._done("complete")
            return
        error = failed(f"status_{status}", (status, self._fields, body), meaning)
        self._fail(error, "saturated" if meaning is Meaning.SATURATED else "upstream_failed")

    def _fail_early(self, event: bytes) -> None:
        """An error event before the answer started: the engine's own word for it decides."""
        body = event.partition(b"data:")[2].strip()
        status = status_of(event)
        meaning = self._backend.event_meaning(body)
        fields = [(b"content-type", b"application/json")]
        self._abandon()
        if meaning is Meaning.CLIENT:
            self.status = status
            self.reply.start(status, self._reply_fields + forwardable(fields), len(body), body)
            self.reply.end()
            self._done("complete")
            return
        self._fail(failed("error_event", (status, fields, body), meaning), "error_event")

    def fail(self, error: UpstreamError, ended: str) -> None:
        """From outside (time-outs, a hung endpoint): give up on this try."""
        if not self.ended:
            self._stop(error, ended)

    def _stop(self, error: UpstreamError, ended: str) -> None:
        """Break off, before or after the start."""
        self._abandon()
        if self.reply.started and not self.reply.ended:
            if self._is_stream:
                own = b"" if self.meter.failed else self._error_event(error)
                if own and self.meter.holds_partial:
                    own = b"\n\n" + own
                self.reply.break_off(own)
            else:
                self.reply.cut()
        self._fail(error, ended)

    def _abandon(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abandon()

    def _fail(self, error: UpstreamError, ended: str) -> None:
        self.error = error
        self._done(ended)

    def _done(self, ended: str) -> None:
        if not self.ended:
            self.ended = ended
            self.piece = _ignore  # a method of its own would keep the relay alive until the next search for cycles
            self.reply.on_pause = self.reply.on_resume = None
            self.done.take()

    def abandon(self) -> None:
        """The client is gone."""
        self._abandon()
        self._done("client_gone")

    # --- time ----------------------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Called a few times a second: has the engine taken too long?"""
        if self.ended or self.reply.paused:
            return
        timeouts = self._timeouts
        if now - self.began_at > timeouts.total:
            self.fail(UpstreamError("the model server took too long", cause="total", status=504), "timeout")
        elif not self.stream:
            return
        elif not self.first_at:
            if now - self.began_at > timeouts.first_token:
                error = UpstreamError("the model server sent no first token in time", cause="first_token", status=504)
                self.fail(error, "timeout")
        elif now - self.last_at > timeouts.between_tokens:
            error = UpstreamError("the model server stopped sending", cause="between_tokens", status=504)
            self.fail(error, "timeout")


def _ignore(data: bytes) -> None:
    """What comes after the end."""
