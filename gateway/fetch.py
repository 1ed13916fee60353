"""Small GETs beside the hot path: pages of metrics, health checks, lists of models.

The idea: watching a pool is hundreds of tiny requests a second, so they go over the wire that the gateway has anyway,
with a head that is made once and a future per answer. What a page may cost is bounded: its size, its time, one address
to ask. Redirects are not followed, nothing is unpacked, no cookie is kept.

Left to others: connections and names (`wire.pool`), parsing HTTP (`wire.upstream`), what a page means (`prober`).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from gateway.core.errors import UpstreamError
from gateway.core.types import Endpoint
from gateway.wire.pool import EndpointPool
from gateway.wire.upstream import UpstreamConnection

MAX_PAGE = 1 << 20
# Seconds an idle connection is used again: below the 5 s after which common model servers close theirs.
KEEPALIVE = 4.0
CONNECT_TIMEOUT = 2.0
# What a path may hold as it is; all else is percent-encoded, so no label can write a second header.
_PLAIN = "%/:=&?~+!$,;'@()*[]"


class Page(NamedTuple):
    status: int
    body: bytes


class Fetcher:
    """GETs from one scheme, host and port (`url`; its path does not matter). One per server, used by one event loop.

    `timeout` is what a whole request may take, in seconds; `connect` how much of it connecting may take. `headers`
    are sent with each one. Raises ValueError for a URL that is not http(s) or a header that would break the head.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        connect: float = CONNECT_TIMEOUT,
        keepalive: float = KEEPALIVE,
        tls: ssl.SSLContext | None = None,
        headers: Iterable[tuple[str, str]] = (),
    ):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an http(s) URL")
        if parts.scheme == "https" and tls is None:
            tls = ssl.create_default_context()
        self._timeout = timeout
        self._connect_timeout = connect
        origin = f"{parts.scheme}://{parts.netloc}"
        self._pool = EndpointPool(origin, connect_timeout=connect, keepalive=min(keepalive, KEEPALIVE), tls=tls)
        lines = [("host", self._pool.netloc.decode()), ("accept-encoding", "identity"), *headers]
        head = "".join(f"{name}: {value}\r\n" for name, value in lines)
        if head.count("\n") != len(lines) or head.count("\r") != len(lines) or "\0" in head:
            raise ValueError("a header value holds a line break")
        self._lines = f" HTTP/1.1\r\n{head}".encode()

    async def get(self, path: str, *, limit: int = MAX_PAGE, fresh: bool = False, timeout: float | None = None) -> Page:
        """Status and body of a page. `fresh`: on a new connection, that is not used again.

        Raises UpstreamError: `refused`, `connect_timeout`, `dns`, `tls`, `timeout`, `closed`, `protocol`, `too_large`
        (more than `limit` bytes) or `encoded` (a compressed page, which was not asked for).
        """
        return await self._fetch(path, limit, fresh, self._timeout if timeout is None else timeout)

    async def post(self, path: str, body: bytes, *, limit: int = MAX_PAGE, timeout: float | None = None) -> Page:
        """Status and body of the answer to a POST of JSON, on a new connection. Raises UpstreamError as `get`."""
        until = time.monotonic() + (self._timeout if timeout is None else timeout)
        more = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        head = b"POST %b%b%b" % (quote(path, _PLAIN).encode(), self._lines, more)
        connection = await self._connect(until - time.monotonic())
        return await _ask(connection, head, limit, until - time.monotonic(), True, body)

    async def status(self, path: str, *, timeout: float | None = None) -> int:
        """The status of a page, on a new connection; its body is not waited for. Raises UpstreamError as `get`."""
        return (await self._fetch(path, None, True, self._timeout if timeout is None else timeout)).status

    def close(self) -> None:
        """Nothing more will be asked."""
        self._pool.close()

    async def _fetch(self, path: str, limit: int | None, fresh: bool, timeout: float) -> Page:
        until = time.monotonic() + timeout
        close = b"connection: close\r\n\r\n" if fresh else b"\r\n"
        head = b"GET %b%b%b" % (quote(path, _PLAIN).encode(), self._lines, close)
        warm = None if fresh else self._pool.take()
        if warm is not None:
            try:
                return await _ask(warm, head, limit, timeout, False)
            except UpstreamError as error:
                # It was closed while idle: the server may have done so before it saw the request. Once more, then.
                if error.cause != "closed" or warm.answered:
                    raise
        connection = await self._connect(until - time.monotonic())
        return await _ask(connection, head, limit, until - time.monotonic(), fresh)

    async def _connect(self, timeout: float) -> UpstreamConnection:
        try:
            if timeout >= self._connect_timeout:
                return await self._pool.connect()
            async with asyncio.timeout(timeout):
                return await self._pool.connect()
        except TimeoutError:
            raise UpstreamError("connecting took too long", cause="connect_timeout", sent=False) from None
        except UpstreamError as error:
            if isinstance(error.__cause__, ssl.SSLError):
                raise UpstreamError(f"TLS: {error.__cause__}", cause="tls", sent=False) from error
            raise


async def _ask(connection: UpstreamConnection, head: bytes, limit: int | None, timeout: float, once: bool,
               body: bytes = b"") -> Page:  # fmt: skip
    """One request on this connection. Whatever ends it early, cancellation too, closes the connection."""
    loop = asyncio.get_running_loop()
    answer = _Answer(loop.create_future(), connection, limit)
    timer = loop.call_later(timeout, answer.late)
    try:
        connection.request(head, body, answer)
        return await answer.page
    finally:
        timer.cancel()
        if once or not answer.is_whole:
            connection.abandon()


class _Answer:
    """Receives one answer into a future. `limit` None: the status is all that is wanted."""

    __slots__ = ("page", "is_whole", "_connection", "_limit", "_status", "_pieces", "_size")

    def __init__(self, page: asyncio.Future[Page], connection: UpstreamConnection, limit: int | None):
        self.page = page
        self.is_whole = False
        self._connection = connection
        self._limit = limit
        self._status = 0
        self._pieces: list[bytes] = []
        self._size = 0

    def head(self, status: int, fields: list[tuple[bytes, bytes]], length: int | None) -> None:
        self._status = status
        if self._limit is None:
            if not self.page.done():
                self.page.set_result(Page(status, b""))
        elif length is not None and length > self._limit:
            self._fail("the page is too large", "too_large")
        elif status == 200 and any(name == b"content-encoding" and value != b"identity" for name, value in fields):
            self._fail("the page is compressed, which was not asked for", "encoded")

    def piece(self, data: bytes) -> None:
        self._size += len(data)
        if self._limit is not None and self._size > self._limit:
            self._fail("the page is too large", "too_large")
        elif not self.page.done():
            self._pieces.append(data)

    def end(self) -> None:
        self.is_whole = True
        if not self.page.done():
            pieces = self._pieces
            self.page.set_result(Page(self._status, pieces[0] if len(pieces) == 1 else b"".join(pieces)))

    def broke(self, error: UpstreamError) -> None:
        if not self.page.done():
            self.page.set_exception(error)

    def late(self) -> None:
        self._fail("the page took too long", "timeout")

    def _fail(self, message: str, cause: str) -> None:
        if not self.page.done():
            self.page.set_exception(UpstreamError(message, cause=cause))
            self._connection.abandon()


class Site:
    """All that is fetched of one endpoint: its metrics may be on a port, or a host, of their own.

    The pool's key (`authorization`) goes to the endpoint's own host only.
    """

    def __init__(self, endpoint: Endpoint, *, timeout: float, connect: float, tls: ssl.SSLContext | None,
                 authorization: str | None, accept: str):  # fmt: skip
        self._host = urlsplit(endpoint.url).hostname
        self._timeout = timeout
        self._connect = connect
        self._tls = tls
        self._headers = [("accept", accept)]
        self._authorization = [] if authorization is None else [("authorization", authorization)]
        self._fetchers: dict[str, Fetcher] = {}
        self._places: dict[str, tuple[Fetcher, str]] = {}

    def place(self, url: str) -> tuple[Fetcher, str]:
        """Who fetches this page, and its path there. Raises ValueError for what is not an http(s) URL."""
        found = self._places.get(url)
        if found is None:
            parts = urlsplit(url)
            origin = f"{parts.scheme}://{parts.netloc}"
            fetcher = self._fetchers.get(origin)
            if fetcher is None:
                guarded = self._authorization if parts.hostname == self._host else []
                fetcher = self._fetchers[origin] = Fetcher(
                    url, timeout=self._timeout, connect=self._connect, tls=self._tls, headers=self._headers + guarded
                )
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            found = self._places[url] = (fetcher, path)
        return found

    def close(self) -> None:
        for fetcher in self._fetchers.values():
            fetcher.close()
