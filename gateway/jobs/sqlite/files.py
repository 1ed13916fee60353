"""Files and their content, as functions on a connection: each runs inside a transaction of the worker's.

Left to others: transactions (`worker`), when content is cleared away (`clearing`).
"""

from __future__ import annotations

import os
import sqlite3

from gateway.jobs.base import PIECE, NotFound, Order, StoreUnavailable
from gateway.jobs.model import File, Page, new_id
from gateway.jobs.sqlite.schema import DELETED, GROWING, READY, WRITING, Row

SPARE, SPARE_SHARE = 256 << 20, 0.05  # bytes, and share of the disk: the lesser of them uploads leave to all else

COLUMNS = "id, tenant, filename, purpose, bytes, created_at, expires_at"


def begin(
    db: sqlite3.Connection, tenant: str, filename: str, purpose: str, at: float, expires_at: float | None, state: int
) -> tuple[int, str]:
    """The row and the id of a file nobody sees yet: `WRITING` (a client's) or `GROWING` (of a batch)."""
    id_ = new_id("file-")
    inserted = db.execute(
        "INSERT INTO files (id, tenant, filename, purpose, created_at, expires_at, state) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (id_, tenant, filename, purpose, at, expires_at, state),
    )
    assert inserted.lastrowid is not None
    return inserted.lastrowid, id_


def append(db: sqlite3.Connection, seq: int, rows: list[bytes]) -> None:
    """Put rows at the end of a file's content."""
    (end,) = db.execute("SELECT bytes FROM files WHERE seq = ?", (seq,)).fetchone()
    for row in rows:
        db.execute("INSERT INTO chunks VALUES (?, ?, ?)", (seq, end, row))
        end += len(row)
    db.execute("UPDATE files SET bytes = ? WHERE seq = ?", (end, seq))


def append_upload(db: sqlite3.Connection, seq: int, rows: list[bytes], folder: str) -> bool:
    """As `append`, for a client's file. False: it was cleared away meanwhile.

    Raises StoreUnavailable where the disk under `folder` is nearly full: an upload that filled it to the end would
    leave no room for the results of work that runs, nor even for its own removal, which is a write like any other.
    """
    check_spare(folder)
    if db.execute("SELECT 1 FROM files WHERE seq = ? AND state = ?", (seq, WRITING)).fetchone() is None:
        return False
    append(db, seq, rows)
    return True


def check_spare(folder: str) -> None:
    """Raises StoreUnavailable where the disk under `folder` is nearly full."""
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < min(SPARE, SPARE_SHARE * disk.f_blocks * disk.f_frsize):
        raise StoreUnavailable("job store: the disk is nearly full; nothing more is taken in", retry_after=60.0)


def publish(db: sqlite3.Connection, seq: int, at: float) -> File | None:
    """The upload is whole: from now on it exists. None: it was cleared away meanwhile."""
    rows = db.execute(
        f"UPDATE files SET state = ?, created_at = ? WHERE seq = ? AND state = ? RETURNING {COLUMNS}",
        (READY, at, seq, WRITING),
    ).fetchall()
    return File(*rows[0]) if rows else None


def publish_output(db: sqlite3.Connection, seq: int, at: float, expires_after: float | None) -> str | None:
    """The id of a batch's file that has just become whole, or None if nothing is in it (then it is no file)."""
    id_, size = db.execute("SELECT id, bytes FROM files WHERE seq = ?", (seq,)).fetchone()
    if size == 0:
        db.execute("DELETE FROM files WHERE seq = ?", (seq,))
        return None
    expires_at = None if expires_after is None else at + expires_after
    db.execute(
        "UPDATE files SET state = ?, created_at = ?, expires_at = ? WHERE seq = ? AND state = ?",
        (READY, at, expires_at, seq, GROWING),
    )
    return str(id_)


def abandon(db: sqlite3.Connection, seq: int) -> None:
    """A client's upload ended early."""
    db.execute("UPDATE files SET state = ? WHERE seq = ? AND state = ?", (DELETED, seq, WRITING))


def find(db: sqlite3.Connection, tenant: str, id_: str) -> tuple[int, File]:
    """Raises `NotFound`."""
    row: Row | None = db.execute(
        f"SELECT seq, {COLUMNS} FROM files WHERE id = ? AND tenant = ? AND state = ?", (id_, tenant, READY)
    ).fetchone()
    if row is None:
        raise NotFound("file", id_)
    return row[0], File(*row[1:])


def get(db: sqlite3.Connection, tenant: str, id_: str) -> File:
    """Raises `NotFound`."""
    return find(db, tenant, id_)[1]


def listed(
    db: sqlite3.Connection, tenant: str, after: str | None, limit: int, order: Order, purpose: str | None
) -> Page[File]:
    """Raises `NotFound` for `after`."""
    where, values = f"tenant = ? AND state = {READY}", list[str | int | float]((tenant,))
    if purpose is not None:
        where += " AND purpose = ?"
        values.append(purpose)
    if after is not None:
        seq, file = find(db, tenant, after)
        where += f" AND (created_at, seq) {'<' if order == 'desc' else '>'} (?, ?)"
        values += [file.created_at, seq]
    direction = "DESC" if order == "desc" else "ASC"
    rows = db.execute(
        f"SELECT {COLUMNS} FROM files WHERE {where} ORDER BY created_at {direction}, seq {direction} LIMIT ?",
        (*values, limit + 1),
    ).fetchall()
    return Page(tuple(File(*row) for row in rows[:limit]), len(rows) > limit)


def delete(db: sqlite3.Connection, tenant: str, id_: str) -> None:
    """Hide it; its content goes when no batch needs it. Raises `NotFound`."""
    seq, _ = find(db, tenant, id_)
    db.execute("UPDATE files SET state = ? WHERE seq = ?", (DELETED, seq))


def piece(db: sqlite3.Connection, tenant: str, id_: str, start: int, end: int | None) -> bytes:
    """Some of the bytes from `start` on, none at the end. Raises `NotFound`."""
    return content(db, find(db, tenant, id_)[0], start, end)


def input_piece(db: sqlite3.Connection, batch_id: str, start: int) -> bytes:
    """The same for the input of a batch that has not ended. Raises `NotFound`."""
    row = db.execute("SELECT input FROM batches WHERE id = ? AND ended_at IS NULL", (batch_id,)).fetchone()
    if row is None:
        raise NotFound("batch", batch_id)
    return content(db, row[0], start, None)


def content(db: sqlite3.Connection, seq: int, start: int, end: int | None) -> bytes:
    """From `start` on about `PIECE` bytes, not beyond `end`; empty at the end of the file."""
    found, size = [], 0
    for at, data in db.execute(
        "SELECT start, data FROM chunks WHERE file = ?1 AND start >= "
        "(SELECT max(start) FROM chunks WHERE file = ?1 AND start <= ?2) ORDER BY start",
        (seq, start),
    ):
        if end is not None and at >= end:
            break
        cut = data[max(0, start - at) : None if end is None else end - at]
        found.append(cut)
        size += len(cut)
        if size >= PIECE:
            break
    return b"".join(found)


def span(db: sqlite3.Connection, seq: int, start: int, length: int) -> bytes:
    """Exactly these bytes, the body of one line; fewer only where the file ends."""
    found = []
    while length > 0:
        row = db.execute(
            "SELECT substr(data, ?2 - start + 1, ?3) FROM chunks WHERE file = ?1 AND start <= ?2 "
            "ORDER BY start DESC LIMIT 1",
            (seq, start, length),
        ).fetchone()
        if row is None or not row[0]:
            break
        found.append(row[0])
        start, length = start + len(row[0]), length - len(row[0])
    return b"".join(found)
