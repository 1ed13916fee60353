"""Values as Redis takes them, and hashes as it returns them as the values of `model`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.jobs.lines import line_id
from gateway.jobs.model import Batch, Claim, File, Job, Queue, Stats, Usage
from gateway.jobs.packed import unpack_errors, unpack_fields, unpack_metadata, unpack_result
from gateway.jobs.redis.client import Argument

Hash = Mapping[bytes, bytes]
BETWEEN = "\x1f"  # class and model in the name of a queue


def queue_name(klass: str, model: str) -> str:
    return klass + BETWEEN + model


def lease(until: float, at: float) -> int:
    """Milliseconds."""
    return max(1, round((until - at) * 1000))


def once(tenant: str, key: str | None) -> str:
    """The name of a client's idempotency key among those of all tenants; empty for none."""
    return "" if key is None else f"{len(tenant)}:{tenant}:{key}"


def flat(values: Mapping[str, Argument]) -> list[Argument]:
    """As HSET wants them: name, value, name, value ..."""
    return [part for pair in values.items() for part in pair]


def _text(found: Hash, name: bytes) -> str:
    return found.get(name, b"").decode()


def _time(found: Hash, name: bytes) -> float | None:
    value = found.get(name)
    return float(value) if value else None


def _number(found: Hash, name: bytes) -> int:
    return int(found.get(name, 0))


def file(id_: str, found: Hash) -> File:
    return File(
        id_, _text(found, b"tenant"), _text(found, b"filename"), _text(found, b"purpose"), _number(found, b"bytes"),
        float(found[b"created_at"]), _time(found, b"expires_at"),
    )  # fmt: skip


def batch(id_: str, found: Hash) -> Batch:
    ends = {
        f"{name}_at": _time(found, f"{name}_at".encode())
        for name in ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
    }
    counts = {name: _number(found, name.encode()) for name in ("total", "completed", "failed", "repeated", "displaced")}
    texts = {
        name: _text(found, name.encode())
        for name in ("tenant", "klass", "endpoint", "input_file_id", "window", "status", "model")
    }
    return Batch(
        id=id_, created_at=float(found[b"created_at"]), expires_at=float(found[b"expires_at"]),
        key_digest=found.get(b"key_digest") or None,
        metadata=unpack_metadata(found[b"metadata"]) if b"metadata" in found else None,
        output_expires_after=_time(found, b"output_expires_after"),
        output_file_id=_text(found, b"output_file_id") or None, error_file_id=_text(found, b"error_file_id") or None,
        usage=Usage(*(_number(found, name + b"_tokens") for name in (b"input", b"cached", b"output", b"reasoning"))),
        errors=unpack_errors(found[b"errors"]) if b"errors" in found else (),
        **texts, **ends, **counts,  # type: ignore[arg-type]
    )  # fmt: skip


def job(id_: str, found: Hash) -> Job:
    texts = {name: _text(found, name.encode()) for name in ("tenant", "klass", "model", "path", "state")}
    counts = {name: _number(found, name.encode()) for name in ("tries", "repeated", "displaced")}
    return Job(
        id=id_, created_at=float(found[b"created_at"]), deadline=float(found[b"deadline"]),
        started_at=_time(found, b"started_at"), ended_at=_time(found, b"ended_at"),
        result=unpack_result(found[b"head"], found[b"data"]) if b"head" in found else None,
        callback=_text(found, b"callback") or None,
        **texts, **counts,  # type: ignore[arg-type]
    )  # fmt: skip


def claim(owner: str, found: Sequence[bytes | int]) -> Claim:
    """One claim as `claim.lua` tells it."""
    key = _bytes(found[0]).decode()
    attempt, tries, lost, displaced = (int(n) for n in found[1:5])
    body, custom_id, tenant, klass, model, path, deadline, digest, *fields = (_bytes(value) for value in found[5:])
    batch_id, _, line = key.rpartition(":")
    return Claim(
        key, attempt, owner, line_id(batch_id, int(line)) if batch_id else key, tenant.decode(), klass.decode(),
        model.decode(), path.decode(), body, float(deadline), digest or None,
        unpack_fields(fields[0]) if fields else (), batch_id or None, custom_id.decode(), tries, lost, displaced,
    )  # fmt: skip


def _bytes(value: bytes | int) -> bytes:
    assert isinstance(value, bytes)
    return value


def stats(queues: Sequence[Sequence[bytes | int]], statuses: Sequence[bytes], counters: Sequence[bytes]) -> Stats:
    told = []
    for name, waiting, claimed, earliest, jobs in queues:
        klass, _, model = _bytes(name).decode().partition(BETWEEN)
        told.append(Queue(klass, model, int(waiting), int(claimed), float(earliest or "nan"), int(jobs)))
    counts = {name: int(n) for name, n in pairs(statuses)}
    known = {name: int(n) for name, n in pairs(counters)}
    return Stats(
        tuple(sorted((queue for queue in told if queue.waiting or queue.claimed), key=lambda q: (q.klass, q.model))),
        tuple(sorted((name, n) for name, n in counts.items() if n)),
        **{name: known.get(name, 0) for name in ("lost", "repeated", "late", "poisoned", "displaced")},
    )


def pairs(flat: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """What HGETALL says inside a script."""
    return [(flat[n].decode(), flat[n + 1]) for n in range(0, len(flat), 2)]
