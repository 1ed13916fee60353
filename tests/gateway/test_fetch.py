"""Small GETs: what is sent, what comes back, what is refused, and what becomes of the connection."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.core.errors import UpstreamError
from gateway.core.types import Endpoint
from gateway.fetch import Fetcher, Page, Site

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Server:
    """Answers every request with the next of `answers` (the last one for ever); None closes without a word."""

    def __init__(self, *answers: bytes | None):
        self.answers = list(answers)
        self.heads: list[bytes] = []
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def serving(*answers: bytes | None) -> AsyncIterator[Server]:
    server = Server(*answers)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        for writer in server.writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def fetching(
    *answers: bytes | None, timeout: float = 20.0, **options: object
) -> AsyncIterator[tuple[Fetcher, Server]]:
    async with serving(*answers) as server:
        fetcher = Fetcher(server.url, timeout=timeout, **options)  # type: ignore[arg-type]
        try:
            yield fetcher, server
        finally:
            fetcher.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for is a figure, nobody sets an event for it
            await asyncio.sleep(0.005)


async def cause_of(fetcher: Fetcher, **options: object) -> str:
    with pytest.raises(UpstreamError) as failed:
        await fetcher.get("/", **options)  # type: ignore[arg-type]
    return failed.value.cause


async def test_a_page_comes_with_its_status_and_the_connection_is_used_again():
    async with fetching(OK, headers=[("accept", "text/plain")]) as (fetcher, server):
        assert await fetcher.get("/a?b=c") == Page(200, b"hello")
        assert (await fetcher.get("/a")).body == b"hello"
        assert server.connections == 1
        lines = server.heads[0].lower().split(b"\r\n")
        assert lines[0] == b"get /a?b=c http/1.1"
        assert b"accept: text/plain" in lines
        assert b"accept-encoding: identity" in lines
        assert b"host: " + server.url.removeprefix("http://").encode() in lines


@pytest.mark.parametrize("answer", [
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
])  # fmt: skip
async def test_every_framing_is_read(answer):
    async with fetching(answer) as (fetcher, _):
        assert await fetcher.get("/") == Page(200, b"hello")


async def test_a_fresh_page_comes_on_a_connection_of_its_own():
    async with fetching(OK) as (fetcher, server):
        await fetcher.get("/")
        await fetcher.get("/", fresh=True)
        await fetcher.get("/", fresh=True)
        await fetcher.get("/")
        assert server.connections == 3
        assert b"connection: close" in server.heads[1] and b"connection" not in server.heads[3]


async def test_the_status_does_not_wait_for_the_body():
    async with fetching(b"HTTP/1.1 503 No\r\nContent-Length: 99999999\r\n\r\n") as (fetcher, server):
        assert await fetcher.status("/health") == 503
        assert await fetcher.status("/health") == 503
        assert server.connections == 2


async def test_a_connection_that_the_server_closed_while_idle_is_replaced_once():
    async with fetching(OK, None, OK) as (fetcher, server):
        await fetcher.get("/")
        assert await fetcher.get("/") == Page(200, b"hello")
        assert server.connections == 2


async def test_a_new_connection_that_is_closed_is_not_tried_again():
    async with fetching(None) as (fetcher, server):
        assert await cause_of(fetcher) == "closed"
        assert server.connections == 1


@pytest.mark.parametrize("answer", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello world",
])  # fmt: skip
async def test_a_page_over_the_limit_is_not_read_and_its_connection_not_used_again(answer):
    async with fetching(answer, OK) as (fetcher, server):
        assert await cause_of(fetcher, limit=10) == "too_large"
        assert (await fetcher.get("/")).body == b"hello"
        assert server.connections == 2


async def test_a_page_of_just_the_limit_is_read():
    async with fetching(OK) as (fetcher, _):
        assert (await fetcher.get("/", limit=5)).body == b"hello"


async def test_a_compressed_page_is_refused_and_a_redirect_is_not_followed():
    packed = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx"
    moved = b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n"
    async with fetching(packed, moved) as (fetcher, server):
        assert await cause_of(fetcher) == "encoded"
        assert await fetcher.get("/") == Page(302, b"")
        assert len(server.heads) == 2


@pytest.mark.parametrize(
    "answer", [b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"]
)
async def test_what_is_not_http_is_a_protocol_error(answer):
    async with fetching(answer) as (fetcher, _):
        assert await cause_of(fetcher) == "protocol"


async def test_a_page_that_is_cut_off_is_closed():
    async with fetching(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", OK) as (fetcher, server):
        asking = asyncio.create_task(cause_of(fetcher))
        await until(lambda: bool(server.heads))
        server.writers[0].close()
        assert await asking == "closed"


async def test_silence_ends_at_the_timeout_and_the_connection_with_it():
    async with fetching(b"", OK, timeout=0.05) as (fetcher, server):
        assert await cause_of(fetcher) == "timeout"
        assert (await fetcher.get("/", timeout=20.0)).body == b"hello"
        assert server.connections == 2


async def test_nobody_there_is_refused():
    async with serving(OK) as server:
        url = server.url
    assert await cause_of(Fetcher(url, timeout=20.0)) == "refused"


async def test_who_stops_waiting_closes_the_connection():
    async with fetching(b"", OK) as (fetcher, server):
        asking = asyncio.create_task(fetcher.get("/"))
        await until(lambda: bool(server.heads))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await fetcher.get("/")
        assert server.connections == 2


async def test_what_does_not_speak_tls_is_a_tls_error():
    async with asyncio.timeout(20):
        listener = await asyncio.start_server(lambda _, writer: writer.write(b"no handshake\r\n"), "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        assert await cause_of(Fetcher(f"https://127.0.0.1:{port}", timeout=20.0)) == "tls"
        listener.close()


async def test_nothing_in_a_path_writes_a_line_of_its_own():
    async with fetching(OK) as (fetcher, server):
        await fetcher.get("/a b\r\nX-Evil: 1")
        assert server.heads[0].startswith(b"GET /a%20b%0D%0AX-Evil:%201 HTTP/1.1\r\n")


@pytest.mark.parametrize("value", ["a\nb", "a\r\nb", "a\rb", "a\0b"])
def test_nor_in_a_header(value):
    with pytest.raises(ValueError, match="header"):
        Fetcher("http://127.0.0.1:1", timeout=1.0, headers=[("authorization", value)])


@pytest.mark.parametrize("url", ["ftp://a/", "http://", "/metrics", "http://a:x/"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ValueError):
        Fetcher(url, timeout=1.0)


def test_a_site_has_one_fetcher_for_each_host_and_port():
    endpoint = Endpoint(id="a", url="http://127.0.0.1:1/base", pool="p", engine="vllm")
    site = Site(endpoint, timeout=1.0, connect=1.0, tls=None, authorization="Bearer x", accept="text/plain")
    own, path = site.place("http://127.0.0.1:1/base/metrics?a=1")
    assert path == "/base/metrics?a=1"
    assert site.place("http://127.0.0.1:1/base/health")[0] is own
    assert site.place("http://127.0.0.1:2/metrics")[0] is not own
    assert site.place("http://127.0.0.1:2")[1] == "/"
    with pytest.raises(ValueError):
        site.place("file:///etc/hosts")
    site.close()
