"""The same metered exchange as `loadtest.client`, over blocking sockets.

For locust, where every request has a greenlet and gevent makes a blocking socket wait without blocking the
others. It reads answers with the same reader and meter, so a figure means the same in both tools, and costs
less than an HTTP library's streaming: one `recv` and one clock reading per piece.
"""

from __future__ import annotations

import socket

from loadtest.client import Clock, Exchange, Target
from loadtest.http1 import AnswerError, AnswerReader

_PIECE = 65536  # bytes asked of one recv
CONNECT_TIMEOUT = 10.0  # s


class _Sink:
    """Hands what the reader finds to the meter, with the moment it arrived."""

    def __init__(self, exchange: Exchange) -> None:
        self._meter = exchange.meter
        self.now = 0.0

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self._meter.head(status, headers)

    def body(self, piece: bytes) -> None:
        self._meter.feed(piece, self.now)


class BlockingClient:
    """Connections to one target, reused newest first. Several greenlets may use it at once."""

    def __init__(self, target: Target, clock: Clock, timeout: float = 600.0) -> None:
        self._target = target
        self._clock = clock
        self._timeout = timeout
        self._idle: list[socket.socket] = []

    def send(self, exchange: Exchange) -> None:
        """Send the request and read the whole answer; failures end up in `exchange.failure`, none is raised.

        `finished` is called before this returns.
        """
        exchange.began = self._clock()
        while True:
            reused = bool(self._idle)
            try:
                connection = self._idle.pop() if self._idle else self._connect()
            except TimeoutError:
                exchange.failure = "connect timed out"
                break
            except OSError as error:
                exchange.failure = f"connect failed ({type(error).__name__})"
                break
            again = self._talk(connection, exchange) and reused and not exchange.resent
            if not again:
                break
            exchange.resent = True
        exchange.ended = self._clock()
        exchange.finished(exchange)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _connect(self) -> socket.socket:
        target = self._target
        connection = socket.create_connection((target.host, target.port), CONNECT_TIMEOUT)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.tls is not None:
            connection = target.tls.wrap_socket(connection, server_hostname=target.host)
        return connection

    def _talk(self, connection: socket.socket, exchange: Exchange) -> bool:
        """One request on one connection. True if it was closed before any byte came back."""
        sink = _Sink(exchange)
        reader = AnswerReader(sink)
        exchange.failure = ""
        keep = False
        try:
            size = b"content-length: %d\r\n\r\n" % len(exchange.body)
            connection.settimeout(self._timeout)
            connection.sendall(b"".join((self._target.prefix, exchange.headers, size, exchange.body)))
            self._read(connection, reader, sink, exchange.began + self._timeout)
            closed_early = not reader.started
            exchange.failure = "connection closed" if closed_early else exchange.meter.failure(reader.complete)
            keep = reader.complete and reader.keep_alive
        except TimeoutError:
            closed_early, exchange.failure = False, "timed out"
        except AnswerError as error:
            closed_early, exchange.failure = False, f"bad framing: {error}"
        except OSError as error:
            closed_early = not reader.started
            exchange.failure = exchange.meter.failure(False) if reader.started else f"broken ({type(error).__name__})"
        if keep:
            self._idle.append(connection)
        else:
            connection.close()
        return closed_early

    def _read(self, connection: socket.socket, reader: AnswerReader, sink: _Sink, deadline: float) -> None:
        while not reader.complete:
            left = deadline - self._clock()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
            data = connection.recv(_PIECE)
            sink.now = self._clock()
            if not data:
                reader.closed()
                return
            reader.feed(data)
