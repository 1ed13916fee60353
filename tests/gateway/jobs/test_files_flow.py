"""Uploads against a store that is slow, full, broken or gone: the client is held back, or told in time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.jobs.base import StoreUnavailable, Writer
from gateway.jobs.model import File
from gateway.jobs.sqlite import SqliteStore
from tests.gateway.jobs.test_files import SMALL, form, run, sent, upload
from tests.support.jobs_api import Api
from tests.support.loop import until


class Slow(SqliteStore):
    """A store whose writing waits for the test; `broken` fails instead, `hangs` does not come back."""

    def __init__(self, path: str):
        super().__init__(path)
        self.go = asyncio.Event()
        self.broken = False
        self.aborted = 0
        self.taken = 0

    async def new_file(self, *args: Any, **more: Any) -> Writer:
        return _SlowWriter(self, await super().new_file(*args, **more))


class _SlowWriter(Writer):
    def __init__(self, store: Slow, inner: Writer):
        self._store = store
        self._inner = inner

    async def write(self, data: bytes) -> None:
        self._store.taken += len(data)
        await self._store.go.wait()
        if self._store.broken:
            raise StoreUnavailable("the disk is full", retry_after=7.0)
        await self._inner.write(data)

    async def finish(self, at: float) -> File:
        return await self._inner.finish(at)

    async def abort(self) -> None:
        self._store.aborted += 1
        await self._inner.abort()


def test_a_slow_store_holds_the_client_back(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        store = api.store
        assert isinstance(store, Slow)
        async with api.client() as client:
            client.send(upload(form(("purpose", b"batch"), ("file", b"x" * 30_000_000))))
            await until(lambda: store.taken)
            await asyncio.sleep(0.2)
            held = api.api._files
            assert store.taken < 2_000_000 and held.uploads.total() == 1
            assert client.writer.transport.get_write_buffer_size() > 0
            store.go.set()
            assert (await client.answer()).json()["bytes"] == 30_000_000

    run(tmp_path, test, store=Slow(str(tmp_path / "slow.db")))


@pytest.mark.parametrize("size", [1000, 3_000_000])
def test_a_store_that_fails_is_a_503_with_its_reason(tmp_path: Path, size: int) -> None:
    async def test(api: Api) -> None:
        store = api.store
        assert isinstance(store, Slow)
        store.broken = True
        store.go.set()
        async with api.client() as client:
            said = await sent(client, upload(form(("purpose", b"batch"), ("file", b"x" * size))))
            assert (said.status, said.error["code"]) == (503, "jobs_unavailable")
            assert (said.named["retry-after"], said.named["x-headway-reason"]) == ("7", "jobs_unavailable")
            assert "disk" not in said.error["message"]  # that is for the operator
        await until(lambda: store.aborted == 1)
        assert not api.api._files.uploads

    run(tmp_path, test, store=Slow(str(tmp_path / "slow.db")))


def test_a_store_that_hangs_is_a_503_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.jobs.desk.PATIENCE", 0.05)

    async def test(api: Api) -> None:
        async with api.client() as client:
            said = await sent(client, upload(form(("purpose", b"batch"), ("file", SMALL))))
            assert (said.status, said.error["code"]) == (503, "jobs_unavailable")

    run(tmp_path, test, store=Slow(str(tmp_path / "slow.db")))


@pytest.mark.parametrize("of", ["_UPLOADS", "_OF_ONE"])
def test_too_many_uploads_at_once_are_refused_for_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str) -> None:
    monkeypatch.setattr(f"gateway.jobs.files.{of}", 1)

    async def test(api: Api) -> None:
        body = form(("purpose", b"batch"), ("file", SMALL))
        async with api.client() as first, api.client() as second:
            first.send(upload(body)[:-10])
            await until(lambda: api.api._files.uploads)
            assert (await sent(second, upload(body))).status == 503
            first.send(body[-10:])
            assert (await first.answer()).status == 200
            assert (await sent(second, upload(body))).status == 200

    run(tmp_path, test)
