"""A client that does not read the answers it has: no more are made for it, and it does not stay for ever."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tests.support.client import post
from tests.support.listening import LIMITS, Listening
from tests.support.loop import on_uvloop, until

FAST = replace(LIMITS, header_time=0.3, body_idle=0.3, idle=0.3, write_stall=0.5)


@on_uvloop
async def test_pipelined_requests_of_a_client_that_reads_nothing_wait_until_it_does() -> None:
    body, many = b"x" * 20_000, 1_000
    async with Listening() as server, server.client(receive_buffer=4096) as client:
        client.send(post(body, "/a") * many)
        before = -1
        while len(server.front.handled) != before:
            before = len(server.front.handled)
            await asyncio.sleep(0.2)
        assert before < many // 2
        (connection,) = server.server.connections
        assert connection.transport.get_write_buffer_size() < 1_000_000
        for _ in range(many):
            assert (await client.answer()).body.endswith(body)


@on_uvloop
async def test_a_client_that_does_not_read_the_end_of_its_answer_is_dropped_in_the_end() -> None:
    for size in (4_000_000, 200_000):  # over and under the mark at which writing counts as stalled
        async with Listening(FAST) as server, server.client(receive_buffer=4096) as client:
            client.send(post(b"", "/wait"))
            await until(lambda s=server: s.front.waiting)  # type: ignore[misc]
            server.front.waiting.pop()[1].send(200, b"", b"x" * size)
            await until(lambda s=server: not s.server.connections)  # type: ignore[misc]
