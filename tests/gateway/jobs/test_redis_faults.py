"""Redis away, slow, refusing, emptied, or with things in it that are not ours: nothing is accepted that is not there,
and nothing is lost that was."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.jobs.base import NotFound, StoreUnavailable
from gateway.jobs.redis import RedisStore
from tests.gateway.jobs.making import DAY, NOW, answer, batch_of, claim_one, clear_up, drain, file_of, work
from tests.support.redis_server import RedisServer


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    made = RedisStore(redis_url, clock="caller")
    yield made
    await command(made, "CONFIG", "SET", "maxmemory", "0")
    await command(made, "CONFIG", "SET", "min-replicas-to-write", "0")
    await made.close()


async def command(store: RedisStore, *words: Any) -> Any:
    client: Any = store._client.redis
    return await client.execute_command(*words)


async def test_a_redis_that_is_down_at_the_start_is_found_when_it_is_up(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    server.kill()
    store = RedisStore(server.url)
    with pytest.raises(StoreUnavailable) as failed:
        await store.open()
    assert (failed.value.status, failed.value.reason, failed.value.retry_after) == (503, "jobs_unavailable", 1.0)
    assert "127.0.0.1" not in failed.value.message
    with pytest.raises(StoreUnavailable):
        await store.submit(work(), NOW)
    server.start()
    try:
        await store.submit(work(deadline=time.time() + 60), time.time())
    finally:
        server.stop()
        await store.close()


async def test_a_redis_that_is_restarted_empty_is_said_to_know_nothing(store: RedisStore) -> None:
    batch = await batch_of(store, ["a", "b"])
    job, _ = await store.submit(work(), NOW)
    writer = await store.new_file("acme", "in.jsonl", "batch", NOW)
    claim = await claim_one(store)
    await command(store, "FLUSHALL")
    await command(store, "SCRIPT", "FLUSH")
    with pytest.raises(NotFound) as failed:
        await store.job("acme", job.id)
    assert failed.value.code == "job_not_found"
    with pytest.raises(NotFound):
        await store.batch("acme", batch.id)
    assert (await store.renew([claim], NOW + 30, NOW)).lost == {claim.key}
    assert not await store.finish(claim, answer(), NOW)
    assert not await store.release(claim, NOW)
    await writer.write(b"x" * 100)
    with pytest.raises(StoreUnavailable):
        await writer.finish(NOW)
    assert await store.reap(NOW + 100) == 0
    await batch_of(store, ["c"])
    assert await drain(store) == 1


async def test_a_redis_that_says_nothing_is_unavailable_until_it_speaks(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        store = RedisStore(server.url, clock="caller")
        batch = await batch_of(store, ["a"])
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailable):
                await store.submit(work(idempotency_key="once"), NOW)
            with pytest.raises(StoreUnavailable):
                await store.batch("acme", batch.id)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        first, _ = await store.submit(work(idempotency_key="once"), NOW)
        assert await store.submit(work(idempotency_key="once"), NOW) == (first, False)
        assert await drain(store) == 2
        await store.close()


async def test_a_redis_that_may_not_write_refuses_and_keeps_what_runs(store: RedisStore) -> None:
    batch = await batch_of(store, ["a"])
    claim = await claim_one(store)
    for off, on in (
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0")),
    ):
        await command(store, *off)
        with pytest.raises(StoreUnavailable):
            await store.submit(work(), NOW)
        with pytest.raises(StoreUnavailable):
            await file_of(store, b"x")
        with pytest.raises(StoreUnavailable):
            await store.finish(claim, answer(), NOW)
        await command(store, *on)
        assert (await store.batch("acme", batch.id)).left == 1
    assert await store.finish(claim, answer(), NOW)
    assert (await store.batch("acme", batch.id)).status == "completed"
    assert await store.claim("w1", 10, NOW + 30, NOW) == []


async def test_a_redis_out_of_memory_refuses_new_work_and_takes_results(store: RedisStore) -> None:
    batch = await batch_of(store, ["a", "b"])
    claims = await store.claim("w1", 2, NOW + 30, NOW)
    await command(store, "CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(StoreUnavailable):
        await store.submit(work(idempotency_key="k"), NOW)
    with pytest.raises(StoreUnavailable):
        await file_of(store, b"x")
    for claim in claims:
        assert await store.finish(claim, answer(), NOW)
    assert (await store.batch("acme", batch.id)).status == "completed"
    await command(store, "CONFIG", "SET", "maxmemory", "0")
    _, is_new = await store.submit(work(idempotency_key="k"), NOW)
    assert is_new


async def test_a_result_whose_answer_was_lost_may_be_said_again(store: RedisStore) -> None:
    batch = await batch_of(store, ["a", "b"])
    claim = await claim_one(store)
    assert await store.finish(claim, answer(), NOW)
    assert await store.finish(claim, answer(), NOW)
    seen = await store.batch("acme", batch.id)
    assert (seen.completed, seen.left, (await store.stats()).late) == (1, 1, 0)


async def test_a_claim_whose_answer_was_lost_gets_the_same_items_again(store: RedisStore) -> None:
    await batch_of(store, ["a", "b", "c"])
    await store.submit(work(path="/d", deadline=NOW + 1e6), NOW)
    run, told = store._client.run, []

    async def answer_is_lost(script: str, *arguments: Any, **rest: Any) -> Any:
        told.append(await run(script, *arguments, **rest))
        return await run(script, *arguments, **rest)

    store._client.run = answer_is_lost  # type: ignore[method-assign]
    first = await store.claim("w1", 2, NOW + 30, NOW)
    second = await store.claim("w1", 2, NOW + 30, NOW)
    assert [claim.custom_id or claim.path for claim in first + second] == ["a", "b", "c", "/d"]
    assert all(claim.attempt == 1 for claim in first + second) and len(told) == 2
    store._client.run = run  # type: ignore[method-assign]
    assert await store.claim("w1", 9, NOW + 30, NOW) == []
    for claim in first + second:
        assert await store.finish(claim, answer(), NOW)


async def test_what_others_put_into_the_stream_is_set_aside(store: RedisStore) -> None:
    await store.open()
    stream, dead = store._client.key("work"), store._client.key("dead")
    for n in range(30):
        await command(store, "XADD", stream, "*", f"junk{n}", b"\x00\xff" * 1000)
    await command(store, "XADD", stream, "*", "key", "job_unknown")
    await batch_of(store, ["a", "b"])
    claims = await store.claim("w1", 1, NOW + 30, NOW)
    assert [claim.custom_id for claim in claims] == ["a"]
    await command(store, "XADD", stream, "*", "key", b"x" * 1_000_000)
    claims += await store.claim("w1", 10, NOW + 30, NOW)
    assert len(claims) == 2
    assert await command(store, "XLEN", dead) == 32
    assert await command(store, "XLEN", stream) == 2
    for claim in claims:
        assert await store.finish(claim, answer(), NOW)
    assert await command(store, "XLEN", stream) == 0


async def test_a_poisoned_item_is_noted_in_the_dead_letters(store: RedisStore) -> None:
    await batch_of(store, ["a"])
    at = NOW
    for life in range(3):
        await store.claim(f"w{life}", 1, at + 10, at)
        at += 20
        assert await store.reap(at) == 1
    ((_, entry),) = await command(store, "XRANGE", store._client.key("dead"), "-", "+")
    assert (entry[b"reason"], entry[b"owner"]) == (b"poisoned", b"w2")


async def test_the_servers_clock_ends_leases_whatever_the_callers_say(redis_url: str) -> None:
    store = RedisStore(redis_url)
    await batch_of(store, ["a", "b"], at=time.time())
    at = time.time()
    (short,) = await store.claim("w1", 1, at + 0.05, at)
    (long,) = await store.claim("w1", 1, at + 60, at)
    while not (reaped := await store.reap(at - 3600)):
        pass
    assert reaped == 1
    renewal = await store.renew([short, long], at + 60, at)
    assert renewal.lost == {short.key}
    await store.close()


async def test_two_gateways_drain_one_queue(redis_url: str) -> None:
    one, two = RedisStore(redis_url, clock="caller"), RedisStore(redis_url, clock="caller")
    batch = await batch_of(one, [f"n{n}" for n in range(10)])
    held = await one.claim("g1", 4, NOW + 10, NOW)
    assert await drain(two, owner="g2") == 6
    assert await two.reap(NOW + 10) == 4
    assert await drain(two, NOW + 10, "g2") == 4
    assert (await one.batch("acme", batch.id)).completed == 10
    assert not any([await one.finish(claim, answer(), NOW + 11) for claim in held])
    await one.close()
    await two.close()


async def test_keys_of_a_store_stand_in_one_slot_and_go_when_their_time_has_come(store: RedisStore) -> None:
    await batch_of(store, ["a", "b"], idempotency_key="k")
    await store.submit(work(idempotency_key="k", callback="http://x"), NOW)
    await batch_of(store, ["c"], window=10.0)
    assert await drain(store, NOW + 1) == 4
    (call,) = await store.due_callbacks(1, NOW + 9, NOW + 1)
    await store.called(call.job.id, None)
    await clear_up(store, NOW + 31 * DAY)
    left = {key.decode() for key in await command(store, "KEYS", "*")}
    assert all(key.startswith("{headway:jobs}:") for key in left)
    names = {key.removeprefix("{headway:jobs}:") for key in left if ":fin:" not in key and ":claimed:" not in key}
    assert names <= {"seq", "work", "queues", "statuses", "counters", "held", "least_lease"}, names


async def test_a_redis_that_may_forget_anything_is_trusted_with_nothing(store: RedisStore) -> None:
    """It dropped accepted work to make room, and said OK to more."""
    await command(store, "CONFIG", "SET", "maxmemory", "100mb")
    await command(store, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(StoreUnavailable) as refused:
            await store.submit(work(), NOW)
        assert "allkeys-lru" in refused.value.detail
        await command(store, "CONFIG", "SET", "maxmemory-policy", "noeviction")
        await store.submit(work(), NOW)
    finally:
        await command(store, "CONFIG", "SET", "maxmemory-policy", "noeviction")
