"""The Redis store: what is asked of it becomes one script, and one script is one atomic step.

Order and leases need two things Redis has. Sorted sets hold what waits: batches and single jobs by deadline, the lines
of a batch so that shared prefixes stand together. A stream with one consumer group holds what is claimed: an entry for
each lease, its idle time the age of the lease, its consumer the owner; what workers vanished with goes back to its
place in the order. Poisoned items, and entries of others that stood in that stream, are noted in a second stream.

Accepted is as durable as the operator has told Redis to be: `appendonly yes` with `appendfsync always` loses nothing
when Redis is killed, `everysec` up to a second, without either much more.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import Literal

from gateway.jobs.base import CLAIM_BYTES, NotFound, Order, Store, Writer
from gateway.jobs.lines import output_line
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
    new_id,
)
from gateway.jobs.packed import pack_errors, pack_fields, pack_head, pack_metadata
from gateway.jobs.redis import records
from gateway.jobs.redis.client import FOR_WORKERS, Argument, Client
from gateway.jobs.redis.files import RedisWriter, list_files, read
from gateway.jobs.redis.records import queue_name

Clock = Literal["server", "caller"]
AT_ONCE = 500  # items in one script: a few milliseconds in which Redis does nothing else


class RedisStore(Store):
    """Durable work in the Redis at `url`, under keys that begin with `prefix`.

    `clock` says whose clock ends leases: the server's, so that gateways need not agree, or the caller's `at`.
    """

    def __init__(self, url: str, prefix: str = "{headway:jobs}", clock: Clock = "server"):
        self._client = Client(url, prefix)
        self._clock: Clock = clock

    async def open(self) -> None:
        await self._client.again(self._client.redis.ping)

    async def close(self) -> None:
        await self._client.close()

    # ---- files ----

    async def new_file(
        self, tenant: str, filename: str, purpose: str, at: float, expires_at: float | None = None
    ) -> Writer:
        writer = RedisWriter(self._client, new_id("file-"), at)
        await writer.begin(tenant, filename, purpose, expires_at)
        return writer

    async def file(self, tenant: str, id_: str) -> File:
        found = await self._hash("f", id_)
        if found.get(b"tenant") != tenant.encode() or found.get(b"state") != b"r":
            raise NotFound("file", id_)
        return records.file(id_, found)

    async def files(
        self,
        tenant: str,
        *,
        after: str | None = None,
        limit: int = 100,
        order: Order = "desc",
        purpose: str | None = None,
    ) -> Page[File]:
        return await list_files(self._client, tenant, after, limit, order, purpose)

    async def delete_file(self, tenant: str, id_: str, at: float) -> None:
        if not tenant or not await self._client.run("delete_file", tenant, id_):
            raise NotFound("file", id_)

    async def read(self, tenant: str, id_: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        async for piece in read(self._client, tenant, id_, offset, length):
            yield piece

    async def read_input(self, batch_id: str) -> AsyncIterator[bytes]:
        async for piece in read(self._client, "", batch_id, 0, None):
            yield piece

    # ---- batches ----

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
        id_ = new_id("batch_")
        values: dict[str, Argument] = {
            "tenant": tenant, "klass": klass, "endpoint": endpoint, "input_file_id": input_file_id, "window": window,
            "created_at": at, "expires_at": expires_at, "key_digest": key_digest or b"",
            "output_expires_after": "" if output_expires_after is None else output_expires_after,
        }  # fmt: skip
        if metadata is not None:
            values["metadata"] = pack_metadata(metadata)
        stands = await self._client.run(
            "create_batch",
            id_,
            tenant,
            input_file_id,
            expires_at,
            records.once(tenant, idempotency_key),
            *records.flat(values),
        )
        if not stands:
            raise NotFound("file", input_file_id)
        return await self.batch(tenant, stands.decode()), stands.decode() == id_

    async def batch(self, tenant: str, id_: str) -> Batch:
        found = await self._hash("b", id_)
        if found.get(b"tenant") != tenant.encode():
            raise NotFound("batch", id_)
        return records.batch(id_, found)

    async def batches(self, tenant: str, *, after: str | None = None, limit: int = 20) -> Page[Batch]:
        key, redis = self._client.key("batches", tenant), self._client.redis
        first = 0
        if after is not None:
            rank = await self._client.again(lambda: redis.zrevrank(key, after))
            if rank is None:
                raise NotFound("batch", after)
            first = rank + 1
        ids = [id_.decode() for id_ in await self._client.again(lambda: redis.zrevrange(key, first, first + limit))]
        found = [(id_, await self._hash("b", id_)) for id_ in ids[:limit]]
        return Page(tuple(records.batch(id_, values) for id_, values in found if values), len(ids) > limit)

    async def cancel(self, tenant: str, id_: str, at: float) -> Batch:
        await self.batch(tenant, id_)
        await self._client.run("stop_batch", id_, at, "cancel", "")
        return await self.batch(tenant, id_)

    async def claim_validation(self, owner: str, lease_until: float, at: float) -> Batch | None:
        id_ = (await self._client.run("claim_validation", owner, lease_until, at, patience=FOR_WORKERS)).decode()
        return records.batch(id_, await self._hash("b", id_)) if id_ else None

    async def add_items(self, batch_id: str, items: Sequence[Item]) -> bool:
        added = True
        for first in range(0, len(items), AT_ONCE):
            values: list[Argument] = []
            for item in items[first : first + AT_ONCE]:
                # Sorted as text: a key before its extensions, because a blank sorts before every digit.
                member = f"{item.prefix_key.hex()} {item.line:07d}"
                values += (item.line, item.custom_id, item.offset, item.length, member)
            added = bool(await self._client.run("add_items", batch_id, *values, patience=FOR_WORKERS))
        return added

    async def start(self, batch_id: str, total: int, model: str, at: float) -> bool:
        klass = (await self._hash("b", batch_id)).get(b"klass", b"").decode()
        files = new_id("file-"), new_id("file-")
        of = (batch_id, total, model, at, *files, queue_name(klass, model))
        return bool(await self._client.run("start", *of, patience=FOR_WORKERS))

    async def fail(self, batch_id: str, errors: Sequence[LineError], at: float) -> bool:
        told = pack_errors(tuple(errors))
        return bool(await self._client.run("stop_batch", batch_id, at, "fail", told, patience=FOR_WORKERS))

    # ---- single requests ----

    async def submit(self, work: Submission, at: float) -> tuple[Job, bool]:
        id_ = new_id("job_")
        values: dict[str, Argument] = {
            "tenant": work.tenant, "klass": work.klass, "model": work.model, "path": work.path, "created_at": at,
            "deadline": work.deadline, "key_digest": work.key_digest or b"", "fields": pack_fields(work.fields),
        }  # fmt: skip
        if work.callback is not None:
            values["callback"] = work.callback
        once = records.once(work.tenant, work.idempotency_key)
        queue = queue_name(work.klass, work.model)
        stands = (
            await self._client.run("submit", id_, queue, work.deadline, work.body, once, *records.flat(values))
        ).decode()
        return await self.job(work.tenant, stands), stands == id_

    async def job(self, tenant: str, id_: str) -> Job:
        found = await self._hash("j", id_)
        if found.get(b"tenant") != tenant.encode():
            raise NotFound("job", id_)
        return records.job(id_, found)

    async def cancel_job(self, tenant: str, id_: str, at: float) -> Job:
        await self.job(tenant, id_)
        await self._client.run("cancel_job", id_, at)
        return await self.job(tenant, id_)

    async def due_callbacks(self, limit: int, lease_until: float, at: float) -> list[Call]:
        due = await self._client.run("due_callbacks", limit, lease_until, at, patience=FOR_WORKERS)
        return [Call(records.job(id_.decode(), await self._hash("j", id_.decode())), tries) for id_, tries in due]

    async def called(self, job_id: str, next_at: float | None) -> None:
        key, redis = self._client.key("calls"), self._client.redis
        if next_at is None:
            await self._client.again(lambda: redis.zrem(key, job_id), FOR_WORKERS)
        else:
            await self._client.again(lambda: redis.zadd(key, {job_id: next_at}, xx=True), FOR_WORKERS)

    # ---- work ----

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
        lease, of = records.lease(lease_until, at), (klass or "", model or "")
        told = await self._client.run(
            "claim", owner, limit, lease, at, *of, CLAIM_BYTES, self._clock, secrets.token_hex(8), *passing_over,
            patience=FOR_WORKERS,
        )  # fmt: skip
        return [records.claim(owner, each) for each in told]

    async def renew(self, claims: Iterable[Claim], lease_until: float, at: float) -> Renewal:
        lost: set[str] = set()
        stop: set[str] = set()
        all_ = tuple(claims)
        for first in range(0, len(all_), AT_ONCE):
            some = all_[first : first + AT_ONCE]
            named = [value for claim in some for value in (claim.key, claim.attempt)]
            told = await self._client.run(
                "renew", some[0].owner, records.lease(lease_until, at), at, self._clock, *named, patience=FOR_WORKERS
            )
            lost.update(key.decode() for key in told[0])
            stop.update(key.decode() for key in told[1])
        return Renewal(frozenset(lost), frozenset(stop))

    async def finish(self, claim: Claim, result: Result, at: float) -> bool:
        if claim.batch_id is None:
            record, data = pack_head(result), result.body
        else:
            record, data = output_line(claim.id, claim.custom_id, result), b""
        used = result.usage
        return bool(
            await self._client.run(
                "finish", claim.key, claim.attempt, at, int(result.ok), record, data,
                used.input_tokens, used.cached_tokens, used.output_tokens, used.reasoning_tokens,
                patience=FOR_WORKERS,
            )
        )  # fmt: skip

    async def retry(self, claim: Claim, not_before: float, at: float) -> bool:
        return await self._back(claim, at, not_before, "tries")

    async def release(
        self, claim: Claim, at: float, *, displaced: bool = False, not_before: float | None = None
    ) -> bool:
        return await self._back(claim, at, "" if not_before is None else not_before, "displaced" if displaced else "")

    async def _back(self, claim: Claim, at: float, not_before: float | str, counted: str) -> bool:
        named = claim.key, claim.attempt
        return bool(await self._client.run("back", *named, at, not_before, counted, patience=FOR_WORKERS))

    async def reap(self, at: float) -> int:
        return int(await self._client.run("reap", at, self._clock, AT_ONCE, patience=FOR_WORKERS))

    async def expire(self, at: float, retention: float) -> bool:
        return bool(await self._client.run("expire", at, retention, AT_ONCE, patience=FOR_WORKERS))

    async def ahead(self, klass: str, model: str, deadline: float) -> int:
        return int(await self._client.run("ahead", queue_name(klass, model), deadline))

    async def stats(self) -> Stats:
        return records.stats(*await self._client.run("stats"))

    async def _hash(self, kind: str, id_: str) -> records.Hash:
        key = self._client.key(kind, id_)
        found: records.Hash = await self._client.again(lambda: self._client.redis.hgetall(key))
        return found
