"""Which items are next, and how they get into a worker's hands, as functions on a connection.

Batches in the order of their deadlines, within each the index on (lost, prefix, line); single jobs in between by their
own. Whatever a batch is kept from (validating, cancelled, out of time) is asked of the batch, so its lines need not be
touched for it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from gateway.jobs.base import CLAIM_BYTES
from gateway.jobs.lines import line_id
from gateway.jobs.model import Claim
from gateway.jobs.packed import unpack_fields
from gateway.jobs.sqlite import files
from gateway.jobs.sqlite.schema import CLAIMED, DELAYED, WAITING, Row, count

Found = tuple[int, int]  # the item's row, bytes of its body


class Only(NamedTuple):
    """What is asked for: of one class, of one model (None: of any), of everybody but these tenants."""

    klass: str | None
    model: str | None
    passing_over: tuple[str, ...]

    def condition(self, of: str) -> tuple[str, dict[str, object]]:
        """As a part of a WHERE about that table, and its values."""
        parts, values = "", dict[str, object]()
        for name, value in (("klass", self.klass), ("model", self.model)):
            if value is not None:
                parts += f" AND {of}.{name} = :{name}"
                values[name] = value
        for n, tenant in enumerate(self.passing_over):
            parts += f" AND {of}.tenant <> :tenant{n}"
            values[f"tenant{n}"] = tenant
        return parts, values


def claim(db: sqlite3.Connection, owner: str, limit: int, until: float, at: float, only: Only) -> list[Claim]:
    db.execute(f"UPDATE items SET state = {WAITING} WHERE state = {DELAYED} AND until <= ?", (at,))
    chosen: list[int] = []
    size = 0
    for seq, length in _in_order(db, limit, at, only):
        size += length
        if len(chosen) == limit or (chosen and size > CLAIM_BYTES):
            break
        chosen.append(seq)
    return [_take(db, seq, owner, until, at) for seq in chosen]


def _in_order(db: sqlite3.Connection, limit: int, at: float, only: Only) -> Iterator[Found]:
    """Items that may be claimed, at most `limit` of each source: earliest deadline first."""
    condition, values = only.condition("jobs")
    values |= {"at": at, "limit": limit}
    singles = db.execute(
        "SELECT items.deadline, items.seq, (SELECT length(data) FROM bodies WHERE bodies.job = items.job) "
        "FROM items CROSS JOIN jobs ON jobs.seq = items.job "
        "WHERE items.job IS NOT NULL AND items.state <> 2 AND items.state = 0 AND items.deadline > :at"
        f"{condition} ORDER BY items.deadline, items.lost, items.seq LIMIT :limit",
        values,
    ).fetchall()
    batches = db.execute(
        "SELECT expires_at, seq FROM batches WHERE status = 'in_progress' AND ended_at IS NULL AND expires_at > :at"
        f"{only.condition('batches')[0]} ORDER BY expires_at, seq",
        values,
    ).fetchall()
    for deadline, batch in batches:
        while singles and singles[0][0] <= deadline:
            yield singles.pop(0)[1:]
        yield from db.execute(
            "SELECT seq, length FROM items WHERE batch = ? AND state = 0 ORDER BY lost, prefix, line LIMIT ?",
            (batch, limit),
        ).fetchall()
    for single in singles:
        yield single[1:]


_TAKE = (
    "UPDATE items SET state = ?, until = ?, owner = ?, attempt = attempt + 1, redo = 0 WHERE seq = ? "
    "RETURNING batch, job, line, custom_id, start, length, attempt, tries, lost, displaced"
)


def _take(db: sqlite3.Connection, seq: int, owner: str, until: float, at: float) -> Claim:
    (redo,) = db.execute("SELECT redo FROM items WHERE seq = ?", (seq,)).fetchone()
    (row,) = db.execute(_TAKE, (CLAIMED, until, owner, seq)).fetchall()
    if redo:
        count(db, "repeated")
        of, its = ("batches", row[0]) if row[0] is not None else ("jobs", row[1])
        db.execute(f"UPDATE {of} SET repeated = repeated + 1 WHERE seq = ?", (its,))
    return _line(db, seq, row, owner) if row[0] is not None else _single(db, seq, row, owner, at)


def _line(db: sqlite3.Connection, seq: int, row: Row, owner: str) -> Claim:
    batch, _, line, custom_id, start, length, attempt, tries, lost, displaced = row
    id_, tenant, klass, model, path, deadline, digest, source = db.execute(
        "SELECT id, tenant, klass, model, endpoint, expires_at, key_digest, input FROM batches WHERE seq = ?", (batch,)
    ).fetchone()
    return Claim(
        str(seq), attempt, owner, line_id(id_, line), tenant, klass, model, path,
        files.span(db, source, start, length), deadline, digest, (), id_, custom_id, tries, lost, displaced,
    )  # fmt: skip


def _single(db: sqlite3.Connection, seq: int, row: Row, owner: str, at: float) -> Claim:
    _, job, *_, attempt, tries, lost, displaced = row
    db.execute("UPDATE jobs SET state = 'running', started_at = coalesce(started_at, ?) WHERE seq = ?", (at, job))
    id_, tenant, klass, model, path, deadline, digest, fields, body = db.execute(
        "SELECT id, tenant, klass, model, path, deadline, key_digest, fields, data FROM jobs JOIN bodies ON job = seq "
        "WHERE seq = ?",
        (job,),
    ).fetchone()
    return Claim(
        str(seq), attempt, owner, id_, tenant, klass, model, path, body, deadline, digest,
        unpack_fields(fields),
        tries=tries, lost=lost, displaced=displaced,
    )  # fmt: skip
