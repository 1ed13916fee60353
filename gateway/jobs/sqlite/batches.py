"""Batches, as functions on a connection: made, validated, counted, ended.

A batch ends in the transaction that writes its last record. Its output and error files grow while it runs, line by
line, and are shown to the client at the end: nothing is copied, and nothing can be written twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from gateway.jobs.base import NotFound
from gateway.jobs.model import Batch, BatchStatus, Item, LineError, Page, Usage, new_id
from gateway.jobs.packed import pack_errors, pack_metadata, unpack_errors, unpack_metadata
from gateway.jobs.sqlite import files
from gateway.jobs.sqlite.schema import GROWING, Row

_BEFORE = (
    "id", "tenant", "klass", "endpoint", "input_file_id", "window", "status", "created_at", "expires_at", "model",
    "key_digest", "output_expires_after", "in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at",
    "cancelling_at", "cancelled_at", "output_file_id", "error_file_id", "total", "completed", "failed", "repeated",
    "displaced",
)  # fmt: skip
_COLUMNS = ", ".join(_BEFORE) + (", metadata, errors, input_tokens, cached_tokens, output_tokens, reasoning_tokens")


# How a batch ends that is in this state when its last line has its record. What completes is finalized in the same
# step; one that is seen `finalizing` has run out of time.
ENDS: dict[str, BatchStatus] = {"in_progress": "completed", "finalizing": "expired", "cancelling": "cancelled"}


def _batch(row: Row) -> Batch:
    metadata, errors, *tokens = row[len(_BEFORE) :]
    return Batch(
        **dict(zip(_BEFORE, row, strict=False)),
        metadata=None if metadata is None else unpack_metadata(metadata),
        errors=() if errors is None else unpack_errors(errors),
        usage=Usage(*tokens),
    )


def create(db: sqlite3.Connection, wanted: Batch, idempotency_key: str | None) -> tuple[Batch, bool]:
    """Raises `NotFound` for the input file."""
    if idempotency_key is not None:
        row = db.execute(
            f"SELECT {_COLUMNS} FROM batches WHERE tenant = ? AND idempotency_key = ?", (wanted.tenant, idempotency_key)
        ).fetchone()
        if row is not None:
            return _batch(row), False
    source, _ = files.find(db, wanted.tenant, wanted.input_file_id)
    db.execute(
        "INSERT INTO batches (id, tenant, klass, endpoint, input_file_id, window, status, created_at, expires_at, "
        "key_digest, metadata, output_expires_after, input, idempotency_key) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            wanted.id, wanted.tenant, wanted.klass, wanted.endpoint, wanted.input_file_id, wanted.window, wanted.status,
            wanted.created_at, wanted.expires_at, wanted.key_digest,
            None if wanted.metadata is None else pack_metadata(wanted.metadata), wanted.output_expires_after,
            source, idempotency_key,
        ),
    )  # fmt: skip
    return wanted, True


def get(db: sqlite3.Connection, tenant: str, id_: str) -> Batch:
    """Raises `NotFound`."""
    row = db.execute(f"SELECT {_COLUMNS} FROM batches WHERE id = ? AND tenant = ?", (id_, tenant)).fetchone()
    if row is None:
        raise NotFound("batch", id_)
    return _batch(row)


def listed(db: sqlite3.Connection, tenant: str, after: str | None, limit: int) -> Page[Batch]:
    """Raises `NotFound` for `after`."""
    before = None
    if after is not None:
        found = db.execute("SELECT seq FROM batches WHERE id = ? AND tenant = ?", (after, tenant)).fetchone()
        if found is None:
            raise NotFound("batch", after)
        before = found[0]
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM batches WHERE tenant = ?1 AND (?2 IS NULL OR seq < ?2) ORDER BY seq DESC LIMIT ?3",
        (tenant, before, limit + 1),
    ).fetchall()
    return Page(tuple(_batch(row) for row in rows[:limit]), len(rows) > limit)


def cancel(db: sqlite3.Connection, tenant: str, id_: str, at: float) -> Batch:
    """Raises `NotFound`."""
    batch = get(db, tenant, id_)
    if batch.status == "validating":
        _give_up(db, id_, "cancelled", at, None)
    elif batch.status == "in_progress":
        db.execute("UPDATE batches SET status = 'cancelling', cancelling_at = ? WHERE id = ?", (at, id_))
    return get(db, tenant, id_)


def claim_validation(db: sqlite3.Connection, owner: str, until: float, at: float) -> Batch | None:
    row = db.execute(
        f"SELECT {_COLUMNS} FROM batches WHERE status = 'validating' AND ended_at IS NULL AND expires_at > ?1 "
        "AND (validator = ?2 OR validator_until <= ?1) ORDER BY validator IS NOT ?2, seq LIMIT 1",
        (at, owner),
    ).fetchone()
    if row is None:
        return None
    db.execute("UPDATE batches SET validator = ?, validator_until = ? WHERE id = ?", (owner, until, row[0]))
    return _batch(row)


def add_items(db: sqlite3.Connection, id_: str, items: Sequence[Item]) -> bool:
    seq = _validating(db, id_)
    if seq is None:
        return False
    db.executemany(
        "INSERT OR REPLACE INTO items (batch, line, custom_id, start, length, prefix) VALUES (?, ?, ?, ?, ?, ?)",
        [(seq, i.line, i.custom_id, i.offset, i.length, i.prefix_key) for i in items],
    )
    return True


def start(db: sqlite3.Connection, id_: str, total: int, model: str, at: float) -> bool:
    seq = _validating(db, id_)
    if seq is None:
        return False
    tenant = db.execute("SELECT tenant FROM batches WHERE seq = ?", (seq,)).fetchone()[0]
    output, _ = files.begin(db, tenant, f"{id_}_output.jsonl", "batch_output", at, None, GROWING)
    error, _ = files.begin(db, tenant, f"{id_}_error.jsonl", "batch_output", at, None, GROWING)
    db.execute(
        "UPDATE batches SET status = 'in_progress', in_progress_at = ?, total = ?, model = ?, output = ?, error = ?, "
        "validator = NULL, validator_until = 0 WHERE seq = ?",
        (at, total, model, output, error, seq),
    )
    if total == 0:
        end(db, seq, at)
    return True


def fail(db: sqlite3.Connection, id_: str, errors: Sequence[LineError], at: float) -> bool:
    if _validating(db, id_) is None:
        return False
    _give_up(db, id_, "failed", at, pack_errors(tuple(errors)))
    return True


def end(db: sqlite3.Connection, seq: int, at: float) -> None:
    """Every line has its record: show the files, say how it ended."""
    status, output, error, after = db.execute(
        "SELECT status, output, error, output_expires_after FROM batches WHERE seq = ?", (seq,)
    ).fetchone()
    ended = ENDS[status]
    db.execute(
        f"UPDATE batches SET status = ?1, ended_at = ?2, {ended}_at = ?2, "
        "finalizing_at = CASE ?1 WHEN 'completed' THEN ?2 ELSE finalizing_at END, "
        "output_file_id = ?3, error_file_id = ?4 WHERE seq = ?5",
        (ended, at, files.publish_output(db, output, at, after), files.publish_output(db, error, at, after), seq),
    )


def give_up_validation(db: sqlite3.Connection, id_: str, at: float) -> None:
    """Its time ran out before it was validated."""
    _give_up(db, id_, "expired", at, None)


def _give_up(db: sqlite3.Connection, id_: str, status: BatchStatus, at: float, errors: bytes | None) -> None:
    # The lines that were added are cleared away later, in pieces.
    db.execute(
        f"UPDATE batches SET status = ?1, ended_at = ?2, {status}_at = ?2, errors = ?3, leftovers = 1 WHERE id = ?4",
        (status, at, errors, id_),
    )


def _validating(db: sqlite3.Connection, id_: str) -> int | None:
    row = db.execute("SELECT seq FROM batches WHERE id = ? AND status = 'validating'", (id_,)).fetchone()
    return None if row is None else int(row[0])


def wanted(
    tenant: str,
    klass: str,
    input_file_id: str,
    endpoint: str,
    window: str,
    expires_at: float,
    at: float,
    metadata: tuple[tuple[str, str], ...] | None,
    output_expires_after: float | None,
    key_digest: bytes | None,
) -> Batch:
    """A batch as it begins."""
    return Batch(
        new_id("batch_"), tenant, klass, endpoint, input_file_id, window, "validating", at, expires_at,
        key_digest=key_digest, metadata=metadata, output_expires_after=output_expires_after,
    )  # fmt: skip
