"""Single jobs, as functions on a connection: submitted, seen, ended, their callbacks."""

from __future__ import annotations

import sqlite3

from gateway.jobs.base import NotFound
from gateway.jobs.model import Call, Job, Result, Submission, new_id
from gateway.jobs.packed import pack_fields, pack_head, unpack_result
from gateway.jobs.sqlite.files import check_spare
from gateway.jobs.sqlite.schema import Row

_BEFORE = (
    "id", "tenant", "klass", "model", "path", "state", "created_at", "deadline", "started_at", "ended_at", "callback",
    "tries", "repeated", "displaced",
)  # fmt: skip
_COLUMNS = ", ".join(_BEFORE) + ", results.head, results.data"
_FROM = "jobs LEFT JOIN results ON results.job = jobs.seq"


def _job(row: Row) -> Job:
    *values, head, data = row
    result = None
    if head is not None:
        result = unpack_result(head, data)
    return Job(**dict(zip(_BEFORE, values, strict=True)), result=result)


def submit(db: sqlite3.Connection, work: Submission, at: float, folder: str) -> tuple[Job, bool]:
    """Raises StoreUnavailable where the disk under `folder` is nearly full: work that runs needs it for its results."""
    if work.idempotency_key is not None:
        row = db.execute(
            f"SELECT {_COLUMNS} FROM {_FROM} WHERE tenant = ? AND idempotency_key = ?",
            (work.tenant, work.idempotency_key),
        ).fetchone()
        if row is not None:
            return _job(row), False
    check_spare(folder)
    id_ = new_id("job_")
    seq = db.execute(
        "INSERT INTO jobs (id, tenant, klass, model, path, state, created_at, deadline, callback, key_digest, fields, "
        "idempotency_key) VALUES (?, ?, ?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?)",
        (
            id_, work.tenant, work.klass, work.model, work.path, at, work.deadline, work.callback, work.key_digest,
            pack_fields(work.fields), work.idempotency_key,
        ),
    ).lastrowid  # fmt: skip
    db.execute("INSERT INTO bodies VALUES (?, ?)", (seq, work.body))
    db.execute(
        "INSERT INTO items (job, klass, model, deadline) VALUES (?, ?, ?, ?)",
        (seq, work.klass, work.model, work.deadline),
    )
    return get(db, work.tenant, id_), True


def get(db: sqlite3.Connection, tenant: str, id_: str) -> Job:
    """Raises `NotFound`."""
    row = db.execute(f"SELECT {_COLUMNS} FROM {_FROM} WHERE id = ? AND tenant = ?", (id_, tenant)).fetchone()
    if row is None:
        raise NotFound("job", id_)
    return _job(row)


def end(db: sqlite3.Connection, seq: int, state: str, result: Result, at: float) -> None:
    """Write the result; from now on its callback is due."""
    db.execute("INSERT INTO results VALUES (?, ?, ?)", (seq, pack_head(result), result.body))
    db.execute("DELETE FROM bodies WHERE job = ?", (seq,))
    db.execute(
        "UPDATE jobs SET state = ?1, ended_at = ?2, call_at = CASE WHEN callback IS NULL THEN NULL ELSE ?2 END "
        "WHERE seq = ?3",
        (state, at, seq),
    )


def due_callbacks(db: sqlite3.Connection, limit: int, until: float, at: float) -> list[Call]:
    rows = db.execute(
        f"SELECT jobs.seq, call_tries, {_COLUMNS} FROM {_FROM} WHERE call_at <= ? ORDER BY call_at LIMIT ?", (at, limit)
    ).fetchall()
    db.executemany(
        "UPDATE jobs SET call_at = ?, call_tries = call_tries + 1 WHERE seq = ?", [(until, row[0]) for row in rows]
    )
    return [Call(_job(row[2:]), row[1]) for row in rows]


def called(db: sqlite3.Connection, id_: str, next_at: float | None) -> None:
    db.execute("UPDATE jobs SET call_at = ? WHERE id = ? AND call_at IS NOT NULL", (next_at, id_))
