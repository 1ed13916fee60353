"""`kill -9` at any moment: of the process that uses the store, and of Redis itself. What was accepted is there, every
item has exactly one record, and work that was done twice is counted."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from gateway.jobs import open_store
from gateway.jobs.base import Store
from gateway.jobs.model import Batch, Stats
from tests.gateway.jobs.making import batch_of, records
from tests.support.loop import until
from tests.support.process import ROOT
from tests.support.redis_server import RedisServer

LINES = 400


class Worker:
    """One life of the worker program, and what it said."""

    def __init__(self, url: str, name: str, jobs: int = 1_000_000):
        self.command = (sys.executable, "-m", "tests.gateway.jobs.crash_worker", url, name, str(jobs))
        self.accepted: list[str] = []

    async def live(self, lines: int | None) -> None:
        """Until it has said so many lines, or (None) that there is nothing to do; then it is killed."""
        process = await asyncio.create_subprocess_exec(*self.command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        said = 0
        try:
            while said != lines:
                async with asyncio.timeout(60):  # (`wait_for` of 3.11 may swallow the cancellation that ends this)
                    line = await process.stdout.readline()
                word, _, id_ = line.decode().strip().partition(" ")
                assert word, "the worker died by itself"
                said += 1
                if word == "accepted":
                    self.accepted.append(id_)
                elif word == "idle" and lines is None:
                    return
        finally:
            process.send_signal(signal.SIGKILL)
            rest = (await process.stdout.read()).decode().splitlines()  # said before it was killed: true all the same
            self.accepted += [line.split()[1] for line in rest if line.startswith("accepted") and len(line) > 30]
            await process.wait()


async def more(worker: Worker, jobs: int) -> None:
    """Wait until it has accepted so many more."""
    wanted = len(worker.accepted) + jobs
    await until(lambda: len(worker.accepted) >= wanted)


async def drain(store: Store, url: str, batch: Batch) -> None:
    """Lives without a kill until the batch has ended."""
    give_up = time.monotonic() + 60
    while not (await store.batch("acme", batch.id)).ended:
        assert time.monotonic() < give_up
        await Worker(url, "last", 0).live(None)


async def check(store: Store, batch: Batch, accepted: list[str]) -> Stats:
    ended = await store.batch("acme", batch.id)
    told = await records(store, ended)
    assert len(told) == ended.completed == LINES
    assert all(record["response"]["body"]["text"] == name for name, record in told.items())
    states = [(await store.job("acme", id_)).state for id_ in accepted]
    assert accepted and set(states) <= {"completed", "queued", "running"}
    return await store.stats()


async def killed_again_and_again(url: str, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    store = open_store(url)
    names = [f"n{n}" for n in range(LINES)]
    batch = await batch_of(store, names, at=time.time(), window=3600.0)
    await store.close()
    accepted: list[str] = []
    for life in range(kills):
        worker = Worker(url, f"life{life}")
        await worker.live(chance.randint(2, 25))
        accepted += worker.accepted
    await drain(store, url, batch)
    stats = await check(store, batch, accepted)
    assert (stats.poisoned, stats.late) == (0, 0)
    assert stats.repeated <= stats.lost <= 8 * kills + 8
    await store.close()


@pytest.mark.slow
async def test_sqlite_keeps_what_it_accepted_when_its_process_is_killed(tmp_path: Path) -> None:
    await killed_again_and_again(f"sqlite:{tmp_path / 'jobs.db'}", kills=8, seed=1)


@pytest.mark.slow
async def test_redis_keeps_what_it_accepted_when_the_gateway_is_killed(redis_url: str) -> None:
    await killed_again_and_again(redis_url, kills=8, seed=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_two_processes_drain_one_queue_and_one_is_killed_half_way(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:{tmp_path / 'jobs.db'}" if kind == "sqlite" else request.getfixturevalue("redis_url")
    store = open_store(url)
    batch = await batch_of(store, [f"n{n}" for n in range(LINES)], at=time.time(), window=3600.0)
    killed, other = Worker(url, "killed"), Worker(url, "other", 1)
    await asyncio.gather(killed.live(LINES // 2), other.live(None))
    await drain(store, url, batch)
    stats = await check(store, batch, killed.accepted + other.accepted)
    assert (stats.poisoned, stats.late) == (0, 0) and stats.lost <= 8
    await store.close()


@pytest.mark.slow
async def test_redis_keeps_what_it_accepted_when_it_is_killed_itself(tmp_path: Path) -> None:
    chance = random.Random(3)
    with RedisServer(tmp_path, append_only=True) as server:
        store = open_store(server.url)
        names = [f"n{n}" for n in range(LINES)]
        batch = await batch_of(store, names, at=time.time(), window=3600.0)
        worker = Worker(server.url, "life")
        life = asyncio.create_task(worker.live(10**9))
        for _ in range(5):
            await more(worker, chance.randint(1, 3))
            server.kill()
            server.start()
        await more(worker, 2)
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        await drain(store, server.url, batch)
        stats = await check(store, batch, worker.accepted)
        assert stats.poisoned == 0
        await store.close()
