"""Held, sent, failed, left, reloaded in any order: in the end nothing is counted, not by the predictor either."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random

import pytest

from gateway.config.types import Config, Pick
from gateway.core.snapshot import Snapshot
from gateway.core.types import Decision, Request
from policies.picking.predicted_latency import PredictedLatency
from tests.support.client import chat, post
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop
from tests.support.upstream import SSE_HEAD, Line, Received, Upstream, answer, chunk

TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
HESITANT = Pick("tests.gateway.test_admit_chaos:Hesitant")


class Hesitant(PredictedLatency):
    """Predicts and picks as its parent does, and would rather wait a moment while that one has two requests."""

    def pick(self, request: Request, snapshot: Snapshot) -> Decision:
        decision = super().pick(request, snapshot)
        return decision._replace(wait=0.05 if snapshot.fleet.ours[decision.row] >= 2.0 else 0.0)


class Moody:
    """Answers in its own time, in pieces or whole, and sometimes fails, before it began or in the middle."""

    def __init__(self, seed: int):
        self.random = Random(seed)

    async def __call__(self, line: Line, request: Received) -> bool:
        mood = self.random.random()
        await asyncio.sleep(self.random.random() * 0.02)
        if mood < 0.1:
            return False
        if mood < 0.2:
            await line.send(answer(b"oops", 500))
            return True
        if b'"stream": true' not in request.body:
            await line.send(answer(b"{}"))
            return True
        with suppress(ConnectionError):
            await line.send(SSE_HEAD + chunk(TOKEN))
            for _ in range(self.random.randrange(40)):
                await line.send(chunk(TOKEN * self.random.randrange(1, 4)))
                if mood < 0.3:
                    return False
                await asyncio.sleep(0)
            await line.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        return True


async def ask_about(gateway: Running, random: Random) -> None:
    """A client that asks a few times, and may leave in the middle."""
    async with gateway.client() as client:
        for _ in range(random.randrange(1, 5)):
            client.send(post(chat(stream=random.random() < 0.7)))
            if random.random() < 0.2:
                await asyncio.sleep(random.random() * 0.03)
                client.writer.transport.abort()
                return
            with suppress(OSError, asyncio.IncompleteReadError):
                await client.answer()


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_nothing_stays_counted(seed: int) -> None:
    @on_uvloop
    async def run() -> None:
        random = Random(seed)
        async with Upstream(Moody(seed)) as one, Upstream(Moody(seed + 9)) as two, Upstream(Moody(seed + 99)) as three:

            def some(*ups: Upstream) -> Config:
                return config(pool(list(ups), pick=HESITANT))

            async with Running(some(one, two, three)) as gateway:
                clients = []
                for number in range(90):
                    clients.append(asyncio.create_task(ask_about(gateway, random)))
                    await asyncio.sleep(random.random() * 0.01)
                    if number % 30 == 29:
                        gateway.next_config = some(*((one, two), (three, one), (one, two, three))[number // 30])
                        assert await gateway.gateway.reload() == (True, [])
                await asyncio.gather(*clients)
                await gateway.settled()
                fleet = gateway.gateway.fleets()["p"]
                assert fleet.predictor is not None and fleet.predictor.learnt.ttft.samples > 20
                books = fleet.predictor.books
                assert not books.queue.any() and not books.context.any() and not fleet.tokens.any()
                queued = [record for record in gateway.records.all if record.queued > 0.0]
                assert queued, "nobody was held"
                assert "Error" not in gateway.log.text

    run()
