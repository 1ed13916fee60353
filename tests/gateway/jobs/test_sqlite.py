"""The SQLite store keeps every promise of the contract, and those that only a file can keep."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.jobs import open_store
from gateway.jobs.base import NotFound, Store, StoreUnavailable
from gateway.jobs.sqlite import SqliteStore
from tests.gateway.jobs.batches_contract import BatchesContract
from tests.gateway.jobs.files_contract import FilesContract
from tests.gateway.jobs.jobs_contract import JobsContract
from tests.gateway.jobs.making import NOW, answer, batch_of, claim_one, clear_up, drain, file_of, read, work
from tests.gateway.jobs.work_contract import WorkContract


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = open_store(f"sqlite:{tmp_path / 'jobs.db'}")
    await made.open()
    yield made
    await made.close()


class TestSqlite(FilesContract, BatchesContract, JobsContract, WorkContract):
    pass


async def test_what_was_accepted_is_there_after_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "jobs.db")
    first = SqliteStore(path)
    file = await file_of(first, b"content")
    batch = await batch_of(first, ["a", "b"])
    job, _ = await first.submit(work(), NOW)
    assert await first.finish(await claim_one(first), answer(), NOW)
    await first.close()
    second = SqliteStore(path)
    await second.open()
    assert await read(second, "acme", file.id) == b"content"
    assert (await second.job("acme", job.id)).state == "completed"
    assert (await second.batch("acme", batch.id)).left == 2
    assert await drain(second) == 2
    await second.close()


async def test_leases_of_dead_processes_end_when_the_file_is_opened_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "jobs.db")
    first, beside = SqliteStore(path), SqliteStore(path)
    await batch_of(first, ["a"])
    writer = await first.new_file("acme", "half.jsonl", "batch", NOW)
    await writer.write(b"x" * 1_000_000)
    await claim_one(first, lease=1000)
    await beside.open()
    assert await beside.reap(NOW + 1) == 0
    await beside.close()
    await first.close()
    after = SqliteStore(path)
    assert await after.reap(NOW + 1) == 1
    assert await drain(after, NOW + 1) == 1
    with pytest.raises(StoreUnavailable):
        await writer.finish(NOW + 1)
    await clear_up(after, NOW + 1)
    await after.close()
    await first.close()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM files WHERE filename = 'half.jsonl'").fetchone() == (0,)


async def test_two_processes_share_one_file(tmp_path: Path) -> None:
    path = str(tmp_path / "jobs.db")
    one, two = SqliteStore(path), SqliteStore(path)
    batch = await batch_of(one, ["a", "b"])
    first, second = await claim_one(one, "w1"), await claim_one(two, "w2")
    assert first.key != second.key
    assert await two.finish(second, answer(), NOW) and await one.finish(first, answer(), NOW)
    assert (await two.batch("acme", batch.id)).status == "completed"
    await one.close()
    await two.close()


async def test_its_file_is_for_its_owner_only(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "jobs.db"))
    await store.open()
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(tmp_path)}
    assert len(modes) == 4 and set(modes.values()) == {0o600}, modes
    await store.close()


async def test_a_place_that_cannot_be_written_is_unavailable_until_it_can(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "not-there" / "jobs.db"))
    with pytest.raises(StoreUnavailable) as failed:
        await store.open()
    assert (failed.value.status, failed.value.retry_after) == (503, 1.0)
    assert str(tmp_path) not in failed.value.message
    os.mkdir(tmp_path / "not-there")
    await store.submit(work(), NOW)
    await store.close()


async def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "jobs.db"))
    job, _ = await store.submit(work(), NOW)

    def limit(db: sqlite3.Connection, pages: int) -> None:
        db.execute(f"PRAGMA max_page_count = {pages}")

    await store._worker.call(limit, 1)  # SQLite raises it to what is there already
    with pytest.raises(StoreUnavailable):
        for _ in range(100):
            await store.submit(work(body=b"x" * 100_000), NOW)
    claim = await claim_one(store)
    assert claim.id == job.id
    await store._worker.call(limit, 1_000_000)
    assert await store.finish(claim, answer(), NOW)
    await store.submit(work(body=b"x" * 100_000), NOW)
    await store.close()


async def test_a_file_of_another_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreUnavailable) as failed:
        await SqliteStore(str(path)).open()
    assert "version 99" in failed.value.detail


@pytest.mark.parametrize("version", [0, 1])
async def test_a_database_of_somebody_else_is_left_alone(tmp_path: Path, version: int) -> None:
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE users (id INTEGER)")
        db.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable) as failed:
        await SqliteStore(str(path)).open()
    assert "something else" in failed.value.detail and path.read_bytes() == before


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_a_file_that_was_taken_away_accepts_nothing_more(tmp_path: Path, is_replaced: bool) -> None:
    """What was accepted then stood in a file without a name, and was gone with the process."""
    path = tmp_path / "jobs.db"
    store = SqliteStore(str(path))
    await store.submit(work(), NOW)
    path.rename(tmp_path / "away.db")
    if is_replaced:
        path.touch()
    with pytest.raises(StoreUnavailable) as refused:
        await store.submit(work(), NOW)
    assert "removed or replaced" in refused.value.detail
    (tmp_path / "away.db").replace(path)
    await store.submit(work(), NOW)  # it was only a mistake
    await store.close()


async def test_a_disk_that_is_nearly_full_takes_no_uploads_but_all_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was filled to its end by an upload could not even take the upload's removal."""
    store = SqliteStore(str(tmp_path / "jobs.db"))
    await batch_of(store, ["a"])
    claim = await claim_one(store)
    real = os.statvfs(tmp_path)
    scarce = [real.f_bsize, real.f_frsize, 100_000_000, 1, 1, *tuple(real)[5:]]
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(scarce))
    with pytest.raises(StoreUnavailable) as refused:
        await file_of(store, b"content")
    assert "nearly full" in refused.value.detail and refused.value.retry_after == 60.0
    with pytest.raises(StoreUnavailable, match="store"):
        await store.submit(work(), NOW)
    assert await store.finish(claim, answer(), NOW)
    await store.close()


async def test_deleted_content_goes_back_to_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    store = SqliteStore(str(path))
    file = await file_of(store, b"x" * 40_000_000)
    await store.delete_file("acme", file.id, NOW)
    await clear_up(store, NOW)
    await store.close()
    assert path.stat().st_size < 25_000_000


async def test_one_failed_call_does_not_fail_those_beside_it(tmp_path: Path) -> None:
    import asyncio

    store = SqliteStore(str(tmp_path / "jobs.db"))
    await store.open()
    calls = [store.submit(work(), NOW) if n % 2 else store.job("acme", "job_none") for n in range(40)]
    told = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(each, NotFound) for each in told] == [n % 2 == 0 for n in range(40)]
    assert len(await store.claim("w1", 100, NOW + 30, NOW)) == 20
    await store.close()
