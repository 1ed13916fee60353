"""Files, batches and jobs as tests of stores want them: made through the store's own interface, on a made-up clock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gateway.jobs.base import Store
from gateway.jobs.model import Batch, Claim, File, Item, Result, Submission, Usage

NOW = 1_000_000.0  # the clock of these tests, seconds
DAY = 86400.0
ENDPOINT = "/v1/chat/completions"


def line(custom_id: str, text: str = "hello") -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}).encode() + b"\n"


def body_of(custom_id: str, text: str = "hello") -> bytes:
    return json.dumps(json.loads(line(custom_id, text))["body"]).encode()


async def file_of(store: Store, data: bytes, tenant: str = "acme", at: float = NOW, **rest: Any) -> File:
    writer = await store.new_file(tenant, "in.jsonl", "batch", at, **rest)
    await writer.write(data)
    return await writer.finish(at)


async def read(store: Store, tenant: str, id_: str, offset: int = 0, length: int | None = None) -> bytes:
    return b"".join([piece async for piece in store.read(tenant, id_, offset, length)])


async def records(store: Store, batch: Batch) -> dict[str, dict[str, Any]]:
    """Every terminal record of a batch by custom_id; the test fails if one has two."""
    found: dict[str, dict[str, Any]] = {}
    for id_ in (batch.output_file_id, batch.error_file_id):
        for record in (await read(store, batch.tenant, id_)).splitlines() if id_ else ():
            told = json.loads(record)
            assert told["custom_id"] not in found, f"{told['custom_id']} has two terminal records"
            found[told["custom_id"]] = told
    return found


async def validating(store: Store, data: bytes, *, window: float = DAY, at: float = NOW, **rest: Any) -> Batch:
    tenant = rest.pop("tenant", "acme")
    klass = rest.pop("klass", "async")
    file = await file_of(store, data, tenant, at)
    batch, _ = await store.create_batch(tenant, klass, file.id, ENDPOINT, "24h", at + window, at, **rest)
    return batch


async def batch_of(
    store: Store,
    names: Sequence[str],
    *,
    prefixes: Sequence[bytes] | None = None,
    model: str = "m",
    at: float = NOW,
    **rest: Any,
) -> Batch:
    """A batch in progress with one line for each name."""
    lines = [line(name) for name in names]
    batch = await validating(store, b"".join(lines), at=at, **rest)
    items, start = [], 0
    for number, text in enumerate(lines):
        body = body_of(names[number])
        prefix = prefixes[number] if prefixes else b""
        items.append(Item(number + 1, names[number], start + text.index(body), len(body), prefix))
        start += len(text)
    assert await store.add_items(batch.id, items)
    assert await store.start(batch.id, len(items), model, at)
    return await store.batch(batch.tenant, batch.id)


def work(tenant: str = "acme", *, deadline: float = NOW + 3600, **rest: Any) -> Submission:
    values: dict[str, Any] = {"klass": "async", "model": "m", "path": ENDPOINT, "body": b'{"model":"m"}', **rest}
    return Submission(tenant, deadline=deadline, **values)


def answer(text: str = "ok") -> Result:
    return Result(200, json.dumps({"text": text}).encode(), request_id="r1", usage=Usage(10, 4, 5, 1))


async def claim_one(store: Store, owner: str = "w1", at: float = NOW, lease: float = 30.0) -> Claim:
    (claim,) = await store.claim(owner, 1, at + lease, at)
    return claim


async def drain(store: Store, at: float = NOW, owner: str = "w1") -> int:
    """Finish all there is; how many."""
    done = 0
    while claims := await store.claim(owner, 50, at + 30, at):
        for claim in claims:
            done += await store.finish(claim, answer(claim.custom_id), at)
    return done


async def clear_up(store: Store, at: float, retention: float = 30 * DAY) -> None:
    for _ in range(1000):
        if not await store.expire(at, retention):
            return
    raise AssertionError("clearing up does not come to an end")
