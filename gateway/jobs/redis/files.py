"""Files in Redis: content in strings of one fixed size, so that any part of it is found by arithmetic."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

from gateway.jobs.base import PIECE, NotFound, Order, StoreUnavailable, Writer
from gateway.jobs.model import File, Page
from gateway.jobs.redis import records
from gateway.jobs.redis.client import FOR_WORKERS, Argument, Client

AT_ONCE = 100  # files looked at in one round trip


class RedisWriter(Writer):
    """A file on its way in, one chunk at a time. A chunk that is put twice is the same chunk."""

    def __init__(self, client: Client, id_: str, at: float):
        self._client = client
        self._id = id_
        self._at = at
        self._chunk = 0
        self._held = bytearray()

    async def begin(self, tenant: str, filename: str, purpose: str, expires_at: float | None) -> None:
        values: dict[str, Argument] = {
            "tenant": tenant, "filename": filename, "purpose": purpose, "bytes": 0, "state": "w",
            "created_at": self._at, "expires_at": "" if expires_at is None else expires_at,
        }  # fmt: skip

        async def both() -> None:
            step: Any = self._client.redis.pipeline(transaction=True)
            step.hset(self._client.key("f", self._id), mapping=values)
            step.zadd(self._client.key("writing"), {self._id: self._at})
            await step.execute()

        await self._client.again(both)

    async def write(self, data: bytes) -> None:
        self._held += data
        while len(self._held) >= PIECE:
            await self._put(PIECE)

    async def _put(self, size: int) -> None:
        data = bytes(self._held[:size])
        put = await self._client.run("put_chunk", self._id, self._chunk, data, self._at, patience=FOR_WORKERS)
        if not put:
            raise self._gone()
        self._chunk += 1
        del self._held[:size]

    async def finish(self, at: float) -> File:
        if self._held:
            await self._put(len(self._held))
        if not await self._client.run("publish", self._id, at, patience=FOR_WORKERS):
            raise self._gone()
        key = self._client.key("f", self._id)
        found = await self._client.again(lambda: self._client.redis.hgetall(key))
        if not found:
            raise self._gone()
        return records.file(self._id, found)

    async def abort(self) -> None:
        self._held.clear()
        await self._client.run("delete_file", "", self._id)

    def _gone(self) -> StoreUnavailable:
        return StoreUnavailable(f"job store: the upload {self._id} was cleared away while it was written")


async def read(client: Client, tenant: str, id_: str, start: int, length: int | None) -> AsyncIterator[bytes]:
    """A file's bytes, a chunk at a time; with an empty tenant those of the input of the batch `id_`."""
    end = "" if length is None else start + length
    while True:
        piece = await client.run("read", tenant, id_, start, end, patience=FOR_WORKERS)
        if isinstance(piece, int):
            raise NotFound("file" if tenant else "batch", id_)
        if not piece:
            return
        yield piece
        start += len(piece)


async def list_files(
    client: Client, tenant: str, after: str | None, limit: int, order: Order, purpose: str | None
) -> Page[File]:
    """Raises `NotFound` for `after`."""
    key, redis = client.key("files", tenant), client.redis
    descending = order == "desc"
    first = 0
    if after is not None:
        rank = await client.again(lambda: (redis.zrevrank if descending else redis.zrank)(key, after))
        if rank is None:
            raise NotFound("file", after)
        first = rank + 1
    found: list[File] = []
    while len(found) <= limit:
        some = await _some(client, key, first, descending)
        found += [file for file in some if file is not None and purpose in (None, file.purpose)]
        first += len(some)
        if len(some) < AT_ONCE:
            break
    return Page(tuple(found[:limit]), len(found) > limit)


async def _some(client: Client, key: str, first: int, descending: bool) -> list[File | None]:
    """The next files of a list; None for one that was deleted just now."""

    async def ids_and_hashes() -> list[File | None]:
        found: list[bytes] = await cast(Any, client.redis).zrange(key, first, first + AT_ONCE - 1, desc=descending)
        ids = [id_.decode() for id_ in found]
        step: Any = client.redis.pipeline(transaction=False)
        for id_ in ids:
            step.hgetall(client.key("f", id_))
        hashes = await step.execute()
        return [
            records.file(id_, values) if values.get(b"state") == b"r" else None
            for id_, values in zip(ids, hashes, strict=True)
        ]

    told: list[File | None] = await client.again(ids_and_hashes)
    return told
