"""The SQLite store: each call is one function on the worker's connection, durable when it returns.

The idea is that of a job table with leases in a single-file database: no server, nothing to install, group commit for
speed (see `worker`), and one transaction wherever the promises of `base` say "in the same step". For one machine;
several gateways on several machines want the Redis store.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection, Iterable, Sequence

from gateway.jobs.base import PIECE, Order, Store, StoreUnavailable, Writer
from gateway.jobs.model import (
    Batch,
    Call,
    Claim,
    File,
    Item,
    Job,
    LineError,
    Page,
    Renewal,
    Result,
    Stats,
    Submission,
)
from gateway.jobs.sqlite import batches, claims, clearing, files, jobs, work
from gateway.jobs.sqlite.schema import ROW, WRITING
from gateway.jobs.sqlite.worker import Worker


class SqliteWriter(Writer):
    """A file on its way in: `PIECE` bytes at a time become rows, each time durable before more is taken."""

    def __init__(self, worker: Worker, folder: str, seq: int, id_: str):
        self._worker = worker
        self._folder = folder
        self._seq = seq
        self._id = id_
        self._held = bytearray()

    async def write(self, data: bytes) -> None:
        self._held += data
        while len(self._held) >= PIECE:
            await self._put(PIECE)

    async def _put(self, size: int) -> None:
        rows = [bytes(self._held[start : min(start + ROW, size)]) for start in range(0, size, ROW)]
        if not await self._worker.call(files.append_upload, self._seq, rows, self._folder):
            raise StoreUnavailable(f"job store: the upload {self._id} was cleared away while it was written")
        del self._held[:size]

    async def finish(self, at: float) -> File:
        if self._held:
            await self._put(len(self._held))
        file = await self._worker.call(files.publish, self._seq, at)
        if file is None:
            raise StoreUnavailable(f"job store: the upload {self._id} was cleared away while it was written")
        return file

    async def abort(self) -> None:
        self._held.clear()
        await self._worker.call(files.abandon, self._seq)


class SqliteStore(Store):
    """Durable work in the SQLite file at `path`, which is made if it is not there."""

    def __init__(self, path: str):
        self._worker = Worker(path)
        self._folder = os.path.dirname(path) or "."

    async def open(self) -> None:
        await self.stats()

    async def close(self) -> None:
        await self._worker.stop()

    async def new_file(
        self, tenant: str, filename: str, purpose: str, at: float, expires_at: float | None = None
    ) -> Writer:
        seq, id_ = await self._worker.call(files.begin, tenant, filename, purpose, at, expires_at, WRITING)
        return SqliteWriter(self._worker, self._folder, seq, id_)

    async def file(self, tenant: str, id_: str) -> File:
        return await self._worker.call(files.get, tenant, id_)

    async def files(
        self,
        tenant: str,
        *,
        after: str | None = None,
        limit: int = 100,
        order: Order = "desc",
        purpose: str | None = None,
    ) -> Page[File]:
        return await self._worker.call(files.listed, tenant, after, limit, order, purpose)

    async def delete_file(self, tenant: str, id_: str, at: float) -> None:
        await self._worker.call(files.delete, tenant, id_)

    async def read(self, tenant: str, id_: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        end = None if length is None else offset + length
        while data := await self._worker.call(files.piece, tenant, id_, offset, end):
            yield data
            offset += len(data)

    async def read_input(self, batch_id: str) -> AsyncIterator[bytes]:
        offset = 0
        while data := await self._worker.call(files.input_piece, batch_id, offset):
            yield data
            offset += len(data)

    async def create_batch(
        self,
        tenant: str,
        klass: str,
        input_file_id: str,
        endpoint: str,
        window: str,
        expires_at: float,
        at: float,
        *,
        metadata: tuple[tuple[str, str], ...] | None = None,
        output_expires_after: float | None = None,
        key_digest: bytes | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[Batch, bool]:
        batch = batches.wanted(
            tenant, klass, input_file_id, endpoint, window, expires_at, at, metadata, output_expires_after, key_digest
        )
        return await self._worker.call(batches.create, batch, idempotency_key)

    async def batch(self, tenant: str, id_: str) -> Batch:
        return await self._worker.call(batches.get, tenant, id_)

    async def batches(self, tenant: str, *, after: str | None = None, limit: int = 20) -> Page[Batch]:
        return await self._worker.call(batches.listed, tenant, after, limit)

    async def cancel(self, tenant: str, id_: str, at: float) -> Batch:
        return await self._worker.call(batches.cancel, tenant, id_, at)

    async def claim_validation(self, owner: str, lease_until: float, at: float) -> Batch | None:
        return await self._worker.call(batches.claim_validation, owner, lease_until, at)

    async def add_items(self, batch_id: str, items: Sequence[Item]) -> bool:
        return await self._worker.call(batches.add_items, batch_id, items)

    async def start(self, batch_id: str, total: int, model: str, at: float) -> bool:
        return await self._worker.call(batches.start, batch_id, total, model, at)

    async def fail(self, batch_id: str, errors: Sequence[LineError], at: float) -> bool:
        return await self._worker.call(batches.fail, batch_id, errors, at)

    async def submit(self, work: Submission, at: float) -> tuple[Job, bool]:
        return await self._worker.call(jobs.submit, work, at, self._folder)

    async def job(self, tenant: str, id_: str) -> Job:
        return await self._worker.call(jobs.get, tenant, id_)

    async def cancel_job(self, tenant: str, id_: str, at: float) -> Job:
        return await self._worker.call(clearing.cancel_job, tenant, id_, at)

    async def due_callbacks(self, limit: int, lease_until: float, at: float) -> list[Call]:
        return await self._worker.call(jobs.due_callbacks, limit, lease_until, at)

    async def called(self, job_id: str, next_at: float | None) -> None:
        await self._worker.call(jobs.called, job_id, next_at)

    async def claim(
        self,
        owner: str,
        limit: int,
        lease_until: float,
        at: float,
        *,
        klass: str | None = None,
        model: str | None = None,
        passing_over: Collection[str] = (),
    ) -> list[Claim]:
        only = claims.Only(klass, model, tuple(passing_over))
        return await self._worker.call(claims.claim, owner, limit, lease_until, at, only)

    async def renew(self, claims: Iterable[Claim], lease_until: float, at: float) -> Renewal:
        return await self._worker.call(work.renew, tuple(claims), lease_until, at)

    async def finish(self, claim: Claim, result: Result, at: float) -> bool:
        return await self._worker.call(work.finish, claim, result, at)

    async def retry(self, claim: Claim, not_before: float, at: float) -> bool:
        return await self._worker.call(work.retry, claim, not_before, at)

    async def release(
        self, claim: Claim, at: float, *, displaced: bool = False, not_before: float | None = None
    ) -> bool:
        return await self._worker.call(work.release, claim, at, displaced, not_before)

    async def reap(self, at: float) -> int:
        return await self._worker.call(work.reap, at)

    async def expire(self, at: float, retention: float) -> bool:
        more = await self._worker.call(clearing.expire, at, retention)
        return more or await self._worker.outside(clearing.give_back)

    async def ahead(self, klass: str, model: str, deadline: float) -> int:
        return await self._worker.call(clearing.ahead, klass, model, deadline)

    async def stats(self) -> Stats:
        return await self._worker.call(clearing.stats)
