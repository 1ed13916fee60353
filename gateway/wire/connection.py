"""Client connections: bytes in, whole checked requests out, answers back in the order of the requests.

One protocol object per connection. It reads a head, asks the front whether the body is wanted at all, reads the body,
and hands both to the front (or the body, piece by piece, to a sink that the front named); while one request is being
answered, later (pipelined) bytes wait here. Everything that takes time is bounded by one sweep over the connections,
so no request pays for a timer.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from typing import TYPE_CHECKING, cast

from gateway.wire.above import Answering, Sink, Unwanted, Verdict
from gateway.wire.head import RequestHead, WireError, check_partial, parse_head
from gateway.wire.intake import Intake, Whole
from gateway.wire.reply import Reply

if TYPE_CHECKING:
    from gateway.wire.server import Server

_PIPELINED = 64 * 1024  # bytes of later requests that may wait before reading stops
_SMALL = 64 * 1024  # a body this small is read even when its answer is known to be no
_LINGER = 1.0  # seconds an answered connection is read from before it closes, so that the answer is not reset away
_HIGH, _LOW = 256 * 1024, 64 * 1024  # write buffer marks
_EMPTY_LINES = re.compile(rb"(?:\r\n)+")

# What a connection is doing. Plain numbers: they are compared several times for every request.
_HEAD, _BODY, _BUSY, _LINGERING = range(4)


class ServerConnection(asyncio.Protocol):
    """One client. Reads are fed by the transport; `answered` and `abort` are called by its Reply."""

    transport: asyncio.Transport

    def __init__(self, server: Server):
        self._server = server
        self._state = _HEAD
        self._buffer = b""
        self._head: RequestHead | None = None
        self._has_begun = False  # a head that is not complete yet
        self._whole: Whole | None = None
        self._intake: Intake | None = None
        self._verdict: Verdict | None = None
        self._counted = 0
        self._reply: Reply | None = None
        self._task: Answering | None = None
        self._advancing = False
        self._read_paused = False
        self._eof = False
        self.closing = False
        self.since = time.monotonic()
        self.stalled_at = 0.0
        self._unwritten = 0
        self._moved_at = 0.0
        self.requests = 0
        self.peer = ""

    # --- the transport's side ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        transport.set_write_buffer_limits(_HIGH, _LOW)
        name = transport.get_extra_info("peername")
        self.peer = name[0] if isinstance(name, tuple) else ""
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self._server.admit(self):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        self._server.forget(self)
        self._uncount()
        self._drop_intake()
        self._leave()

    def eof_received(self) -> bool:
        """A client that shuts its sending side is gone; bytes that came before are still judged."""
        self._eof = True
        if self._state is _HEAD and self._buffer and not (self._read_paused or self.stalled_at):
            self._refuse(WireError(400, "the request ended inside its head"))
        elif self._state is _BODY:
            self._refuse(WireError(400, "the request ended inside its body"))
        else:
            self._leave()  # now, not when the last of what it does not read has been written
        return False

    def pause_writing(self) -> None:
        self.stalled_at = time.monotonic()
        if self._reply is not None:
            self._reply.paused = True
            if self._reply.on_pause is not None:
                self._reply.on_pause()

    def resume_writing(self) -> None:
        self.stalled_at = 0.0
        if self._state is _HEAD:
            self.since = time.monotonic()
            self._go_on()
        if self._reply is not None:
            self._reply.paused = False
            if self._reply.on_resume is not None:
                self._reply.on_resume()

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state is _LINGERING:
            return
        if state is _BODY:
            self.since = time.monotonic()
            try:
                if self._whole is not None:
                    self._read_body(self._whole, data)
                elif self._intake is not None:
                    self._feed_sink(self._intake, data)
            except WireError as error:
                self._refuse(error)
            return
        self._buffer = self._buffer + data if self._buffer else data
        if state is _HEAD and not self.stalled_at:
            self._advance()
        elif len(self._buffer) > _PIPELINED and not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()

    # --- reading requests ----------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Read as many heads as there are, one answered after the other."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._buffer and self._state is _HEAD and not self.stalled_at:
                if not self._read_head():
                    break
        except WireError as error:
            self._refuse(error)
        finally:
            self._advancing = False

    def _read_head(self) -> bool:
        """True when a head was complete. Bytes after it stay in the buffer or go to the body."""
        buffer = self._buffer
        if buffer[:2] == b"\r\n":
            buffer = self._buffer = _EMPTY_LINES.sub(b"", buffer, 1)  # tolerated before a request
            if not buffer:
                return False
        limits = self._server.limits
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or end > limits.headers:
            check_partial(buffer, end, limits)
            if not self._has_begun:
                self._has_begun = True  # the first byte of a head starts its clock
                self.since = time.monotonic()
            return False
        head = parse_head(buffer[: end + 4], limits.header_count, limits.target)
        self._head, rest = head, buffer[end + 4 :]
        self._buffer = b""
        self._has_begun = False
        verdict = self._server.front.screen(head)
        if verdict is not None and isinstance(verdict, Sink):
            self._begin_intake(verdict, head, rest)
            return True
        if head.length > limits.body:
            raise WireError(413, f"the body is larger than {limits.body} bytes", "body_too_large")
        self._verdict = verdict
        if verdict is not None and (head.chunked or head.length > _SMALL or head.expects):
            self._answer_unread(verdict)
            return True
        if len(rest) == head.length and not head.chunked:  # all of it is here, and nothing else: nearly always so
            self._count(head.length)
            self._complete(rest)
        elif head.length or head.chunked:
            self._state = _BODY
            whole = self._whole = Whole(head, limits.body)
            self._ask_for_body(head, rest)
            if rest:
                self._read_body(whole, rest)
        else:
            self._buffer = rest
            self._complete(b"")
        return True

    def _ask_for_body(self, head: RequestHead, rest: bytes) -> None:
        self.since = time.monotonic()
        if head.expects and len(rest) < max(1, head.length):
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read_body(self, whole: Whole, data: bytes) -> None:
        before = whole.size
        rest = whole.feed(data)
        self._count(whole.size - before)
        if rest is not None:
            self._whole = None
            self._buffer = rest
            self._complete(whole.body())

    def _begin_intake(self, sink: Sink, head: RequestHead, rest: bytes) -> None:
        """The body goes to a sink as it comes: it is not held here, so it is not counted either."""
        self._state = _BODY
        self._verdict = None
        intake = self._intake = Intake(sink, head, self._go_on_reading)
        self._ask_for_body(head, rest)
        if rest or (head.length == 0 and not head.chunked):
            self._feed_sink(intake, rest)

    def _feed_sink(self, intake: Intake, data: bytes) -> None:
        try:
            rest = intake.feed(data)
        except Unwanted as unwanted:
            self._intake = None
            intake.over()
            self._answer_unread(unwanted.answer)
            return
        if rest is not None:
            self._intake = None
            self._buffer = rest
            self._go_on_reading()  # what comes now waits here, and shows whether the client is still there
            self._answer(lambda reply: intake.over().finish(reply))
        elif intake.is_full and not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()

    def _go_on_reading(self) -> None:
        if self._read_paused:
            self._read_paused = False
            self.since = time.monotonic()
            self.transport.resume_reading()

    def _drop_intake(self) -> None:
        intake, self._intake = self._intake, None
        if intake is not None:
            intake.over().abort()

    def _count(self, size: int) -> None:
        """Bodies held by all requests together are bounded."""
        self._counted += size
        self._server.buffered += size
        if self._server.buffered > self._server.limits.buffered:
            raise WireError(503, "the gateway holds too many request bodies at once", "memory")

    def _uncount(self) -> None:
        self._server.buffered -= self._counted
        self._counted = 0

    # --- answering -----------------------------------------------------------------------------------------------

    def _complete(self, body: bytes) -> None:
        head, verdict = self._head, self._verdict
        assert head is not None
        if verdict is not None:
            self._answer(verdict)
            return
        reply = self._begin_reply(head, head.keep_alive)
        task = self._server.front.handle(head, body, reply, self.peer)
        if task is not None and not reply.ended:
            self._task = task

    def _answer(self, verdict: Verdict) -> None:
        """Somebody answers who has all that is needed."""
        assert self._head is not None
        reply = self._begin_reply(self._head, self._head.keep_alive and not self.closing)
        task = verdict(reply)
        if task is not None and not reply.ended:
            self._task = task

    def _begin_reply(self, head: RequestHead, keep_alive: bool) -> Reply:
        self._state = _BUSY
        self.requests += 1
        reply = self._reply = Reply(self, keep_alive, head.minor, head.method == b"HEAD")
        return reply

    def _answer_unread(self, verdict: Verdict) -> None:
        """The answer is known and the body is not wanted: say so, then close without reading all of it."""
        self.closing = True
        self._go_on_reading()
        self._answer(verdict)

    def _refuse(self, error: WireError) -> None:
        self._uncount()
        self._drop_intake()
        self._state = _BUSY
        self._buffer = b""
        self._whole = None
        self.closing = True
        reply = self._reply = Reply(self, False, 1, False)
        self._server.front.refuse(error, reply, self._head.path if self._head is not None else b"")

    def answered(self, keep_alive: bool) -> None:
        """The reply has ended: on to the next request, or close."""
        self._uncount()
        self._reply = self._task = self._head = None
        self.since = time.monotonic()
        if not keep_alive or self.closing:
            self._linger()
            return
        self._state = _HEAD
        self._go_on()

    def _go_on(self) -> None:
        """Read the next request, unless this client does not take the answers it has."""
        if self.stalled_at or self.closing:
            return
        if self._read_paused:
            self._read_paused = False
            self.transport.resume_reading()
        if self._buffer and not self._advancing:
            # From the loop, not from here: a flood of tiny requests must not recurse.
            asyncio.get_running_loop().call_soon(self._advance)

    def _linger(self) -> None:
        """Close, but let the client read its answer first: unread bytes would make the kernel reset it away."""
        self.closing = True
        self._state = _LINGERING
        self._buffer = b""
        if self._eof or self.transport.is_closing() or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()

    def abort(self) -> None:
        """Drop the connection at once, what is not yet written included."""
        self.closing = True
        if not self.transport.is_closing():
            self.transport.abort()

    def break_off(self) -> None:
        """Close after what is written has left, in the middle of an answer."""
        self._uncount()
        self.closing = True
        self._reply = self._task = None
        self._state = _LINGERING
        self.since = time.monotonic()
        self.transport.close()

    def draining(self) -> bool:
        return self._server.is_draining

    def _leave(self) -> None:
        """The client is gone: whoever answers is cancelled, at once."""
        reply, task = self._reply, self._task
        self._reply = self._task = None
        if reply is not None and not reply.ended:
            reply.gone = True
            if task is not None:
                task.cancel()

    # --- time ----------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Called a few times a second: is anything overdue here?"""
        limits = self._server.limits
        waited = now - self.since
        state = self._state
        if state is _HEAD and self.stalled_at:
            self._check_stall(now)
        elif state is _HEAD:
            if self._has_begun or not self.requests:
                if waited > limits.header_time:
                    if self._buffer:
                        self._refuse(WireError(408, "the request head took too long", "client_too_slow"))
                    else:
                        self._close_idle()
            elif waited > limits.idle:
                self._close_idle()
        elif state is _BODY:
            if waited > limits.body_idle and not self._read_paused:  # paused: it is the sink that takes its time
                self._refuse(WireError(408, "the request body took too long", "client_too_slow"))
        elif state is _LINGERING:
            if waited > _LINGER and not self.stalled_at:
                self.transport.close()
            self._check_stall(now)
        elif self.stalled_at:
            self._check_stall(now)

    def _close_idle(self) -> None:
        """Close; while an answer is still on its way out, its clock goes on."""
        self.closing = True
        self._state = _LINGERING
        self.transport.close()

    def _check_stall(self, now: float) -> None:
        """Drop a client that takes nothing of what is written; one that takes a little may go on."""
        left = self.transport.get_write_buffer_size()
        if left == 0 or left != self._unwritten:
            self._unwritten, self._moved_at = left, now
        elif now - self._moved_at > self._server.limits.write_stall:
            self.closing = True
            self.transport.abort()  # one that is closing, too

    @property
    def is_idle(self) -> bool:
        return self._state is _HEAD and not self._buffer
