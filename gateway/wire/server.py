"""The listener: accepts client connections, keeps them within limits, looks at their clocks, lets them go."""

from __future__ import annotations

import asyncio
import socket
import time
from ssl import SSLContext

from gateway.wire.above import Front, Limits
from gateway.wire.connection import ServerConnection

SWEEP = 0.25  # seconds between looks at the clocks of all connections


class Server:
    """A listener and its connections. `front` answers; `limits` may be replaced between two requests."""

    def __init__(self, front: Front, limits: Limits):
        self.front = front
        self.limits = limits
        self.buffered = 0
        self.is_draining = False
        self.connections: set[ServerConnection] = set()
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self, sock: socket.socket, tls: SSLContext | None) -> None:
        """Listen on a bound socket (which a later process may inherit)."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: ServerConnection(self), sock=sock, ssl=tls, backlog=4096,
            ssl_handshake_timeout=self.limits.header_time if tls is not None else None,
        )  # fmt: skip
        self._sweep()

    def admit(self, connection: ServerConnection) -> bool:
        """Take a new connection, unless there are too many."""
        if len(self.connections) >= self.limits.connections:
            return False
        self.connections.add(connection)
        return True

    def forget(self, connection: ServerConnection) -> None:
        self.connections.discard(connection)

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in tuple(self.connections):
            connection.sweep(now)
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def stop_accepting(self) -> None:
        """No new connections; those that are open get `connection: close` with their next answer."""
        self.is_draining = True
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def close_idle(self, before: float) -> None:
        """Close connections on which nothing has gone on since `before` (monotonic seconds)."""
        for connection in tuple(self.connections):
            if connection.is_idle and connection.since <= before:
                connection.transport.close()

    def stop(self) -> None:
        """Drop everything."""
        self.stop_accepting()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in tuple(self.connections):
            connection.abort()
