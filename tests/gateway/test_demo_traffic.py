"""The demo's requests and the client that sends them."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from itertools import islice
from random import Random

import pytest

from gateway.demo_traffic import MOST, Traffic, ask, ask_json, samples


def test_the_same_generator_gives_the_same_requests() -> None:
    first, again = samples("m", Random(7)), samples("m", Random(7))
    assert list(islice(first, 30)) == list(islice(again, 30))


def test_there_are_three_kinds_and_the_assistants_share_their_beginnings() -> None:
    made = [(sample, json.loads(sample.body)) for sample in islice(samples("m", Random(1)), 300)]
    assert {body["model"] for _, body in made} == {"m"}
    kinds = Counter(
        "short" if "prompt" in body else "assistant" if len(body["messages"]) == 2 else "document" for _, body in made
    )
    assert kinds["assistant"] > kinds["document"] > kinds["short"] > 20
    systems = Counter(body["messages"][0]["content"] for _, body in made if len(body.get("messages", ())) == 2)
    assert len(systems) == 6 and min(systems.values()) > 5
    assert all((sample.end == b"data: [DONE]") == bool(body.get("stream")) for sample, body in made)


class Server:
    """Answers every connection with the same bytes and closes it, or never answers when there are none."""

    def __init__(self, answer: bytes):
        self.heads: list[bytes] = []
        self._answer = answer
        self._closed = asyncio.Event()

    async def __aenter__(self) -> "Server":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed.set()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        if self._answer:
            writer.write(self._answer)
        else:
            await self._closed.wait()
        writer.close()


async def test_one_exchange_gives_status_and_body() -> None:
    async with Server(b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nno\r\n") as server:
        assert await ask("127.0.0.1", server.port, "POST", "/v1/x", b"{}", "demo-1") == (404, b"no\r\n")
    head = server.heads[0]
    assert head.startswith(b"POST /v1/x HTTP/1.1\r\n")
    assert b"x-request-id: demo-1\r\n" in head and b"content-length: 2\r\n" in head


async def test_a_page_of_json_is_read() -> None:
    async with Server(b'HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{"a": 1}') as server:
        assert await ask_json("127.0.0.1", server.port, "/x") == {"a": 1}


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200", b"garbage\r\n\r\n"])
async def test_what_is_no_answer_raises(answer: bytes) -> None:
    async with Server(answer or b"\r\n") as server:
        with pytest.raises((OSError, EOFError, ValueError)):
            await ask("127.0.0.1", server.port, "GET", "/")


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (what is waited for is a counter)
        await asyncio.sleep(0.001)


WHOLE = b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n13\r\n{"data: [DONE]"}\n\n\r\n0\r\n\r\n'


@pytest.mark.parametrize(
    ("answer", "answered"),
    [
        (WHOLE, True),
        (WHOLE.replace(b"200 OK", b"503 No"), False),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"cut short before its end" * 4, False),
        (b"garbage\r\n\r\n", False),
    ],
)
async def test_only_a_whole_answer_counts_as_one(answer: bytes, answered: bool) -> None:
    async with Server(answer) as server:
        traffic = Traffic("127.0.0.1", server.port, "m", 1000.0, Random(1))
        running = asyncio.create_task(traffic.run())
        await until(lambda: traffic.answered + traffic.failed >= 20)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert (traffic.answered >= 20, traffic.failed > 0) == (answered, not answered)


async def test_a_server_that_never_answers_does_not_fill_the_process() -> None:
    async with Server(b"") as server:
        traffic = Traffic("127.0.0.1", server.port, "m", 1e5, Random(1))
        running = asyncio.create_task(traffic.run())
        await until(lambda: len(server.heads) >= MOST)
        for _ in range(200):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert len(server.heads) == MOST
