"""Connections to one endpoint: take a warm one or open another; addresses are resolved beside, not on, the path.

Idle connections are kept for less time than model servers do (uvicorn closes after 5 s), newest first. A reused
connection may still be closed under us; the proxy then asks for a fresh one, once. Names resolve to addresses that
are kept for a while and tried in order; link-local addresses (cloud metadata services) are refused unless the
configuration names them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from urllib.parse import urlsplit

from gateway.core.addresses import is_forbidden
from gateway.core.errors import UpstreamError
from gateway.wire.upstream import UpstreamConnection

_FRESH = 30.0  # seconds that resolved addresses are used before they are looked up again, in the background


class EndpointPool:
    """`take` a warm connection or None, `connect` a new one, `give` a clean one back."""

    def __init__(self, url: str, *, connect_timeout: float = 2.0, keepalive: float = 4.0,
                 tls: ssl.SSLContext | None = None):  # fmt: skip
        parts = urlsplit(url)
        self.url = url
        self.netloc = parts.netloc.rpartition("@")[2].encode()
        self.prefix = parts.path.rstrip("/").encode()
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._connect_timeout = connect_timeout
        self._keepalive = keepalive
        self._idle: list[UpstreamConnection] = []
        self._addresses: list[str] = []
        self._resolved_at = float("-inf")
        self._resolving: asyncio.Task[None] | None = None
        self._closed = False
        if _is_address(self._host):
            self._addresses, self._resolved_at = [self._host], float("inf")

    def take(self) -> UpstreamConnection | None:
        """The warmest idle connection, or None."""
        idle = self._idle
        now = time.monotonic()
        while idle:
            connection = idle.pop()
            limit = self._keepalive if connection.keepalive is None else min(self._keepalive, connection.keepalive)
            if connection.usable and now - connection.idle_since < limit:
                return connection
            connection.transport.close()
        return None

    def give(self, connection: UpstreamConnection) -> None:
        if self._closed:
            connection.transport.close()
        else:
            self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def reap(self, now: float) -> None:
        """Close what has been idle too long. Called on a timer."""
        stale = [c for c in self._idle if now - c.idle_since >= self._keepalive or not c.usable]
        for connection in stale:
            self._idle.remove(connection)
            connection.transport.close()

    def close(self) -> None:
        """The endpoint left: idle connections close now, busy ones when they have answered."""
        self._closed = True
        for connection in self._idle:
            connection.transport.close()
        self._idle.clear()

    async def connect(self) -> UpstreamConnection:
        """Open a connection, trying every address. Raises UpstreamError (`refused`, `connect_timeout`, `dns`)."""
        if not self._addresses:
            await self._resolve()
        elif time.monotonic() - self._resolved_at > _FRESH and self._resolving is None:
            self._resolving = asyncio.ensure_future(self._refresh())
        failure: UpstreamError | None = None
        deadline = time.monotonic() + self._connect_timeout
        for address in self._addresses:
            try:
                return await self._connect_to(address, max(0.05, deadline - time.monotonic()))
            except UpstreamError as error:
                failure = error
        assert failure is not None
        raise failure

    async def _connect_to(self, address: str, timeout: float) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        server_name = self._host if self._tls else None
        try:
            # Not wait_for: before Python 3.12 it swallows a cancellation that comes as the connection does.
            async with asyncio.timeout(timeout):
                _, connection = await loop.create_connection(
                    lambda: UpstreamConnection(self), address, self._port, ssl=self._tls, server_hostname=server_name
                )
        except TimeoutError:
            raise UpstreamError("connecting to the model server timed out", cause="connect_timeout",
                                sent=False) from None  # fmt: skip
        except OSError as error:
            raise UpstreamError("the model server refused the connection", cause="refused",
                                sent=False) from error  # fmt: skip
        return connection

    async def _resolve(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout):
                found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError) as error:
            raise UpstreamError("the model server's name does not resolve", cause="dns", sent=False) from error
        addresses = list(dict.fromkeys(str(item[4][0]) for item in found))
        allowed = [address for address in addresses if not is_forbidden(address)]
        if not allowed:
            raise UpstreamError("the model server's name leads to a forbidden address", cause="dns", sent=False)
        self._addresses, self._resolved_at = allowed, time.monotonic()

    async def _refresh(self) -> None:
        """Look the name up again while the old addresses serve; a failure keeps them."""
        try:
            await self._resolve()
        except UpstreamError:
            self._resolved_at = time.monotonic()
        finally:
            self._resolving = None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
