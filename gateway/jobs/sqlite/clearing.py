"""Clearing up in bounded pieces, as functions on a connection: what ran out of time, was cancelled, or is old enough.

Each piece is one transaction of a few milliseconds, so that claims and renewals of work that runs are not kept waiting.
"""

from __future__ import annotations

import sqlite3
from math import nan

from gateway.jobs.base import NotFound
from gateway.jobs.lines import EXPIRED
from gateway.jobs.model import Job, Queue, Stats
from gateway.jobs.sqlite import batches, jobs
from gateway.jobs.sqlite.schema import CLAIMED, DELETED, READY, WRITING
from gateway.jobs.sqlite.work import STANDING, Standing, end_item

PIECE = 500  # items, rows of content, or records in one transaction
STALE_UPLOAD = 86400.0  # seconds after which a file that was begun and never finished is cleared away


def expire(db: sqlite3.Connection, at: float, retention: float) -> bool:
    """One piece; True if there is more to do now."""
    _out_of_time(db, at)
    done = _end_unwanted(db, at) or _sweep_leftovers(db)
    if not done:
        _old_files(db, at, retention)
        done = _drop_content(db) or _old_records(db, at - retention)
    return done


def _out_of_time(db: sqlite3.Connection, at: float) -> None:
    for (id_,) in db.execute(
        "SELECT id FROM batches WHERE status = 'validating' AND ended_at IS NULL AND expires_at <= ?", (at,)
    ).fetchall():
        batches.give_up_validation(db, id_, at)
    db.execute(
        "UPDATE batches SET status = 'finalizing', finalizing_at = ?1 WHERE status = 'in_progress' "
        "AND ended_at IS NULL AND expires_at <= ?1",
        (at,),
    )


def _end_unwanted(db: sqlite3.Connection, at: float) -> bool:
    """Records for lines of closing batches and for jobs past their deadline, where nobody works on them."""
    found = db.execute(
        STANDING + "WHERE items.batch IN (SELECT seq FROM batches WHERE status IN ('cancelling', 'finalizing') AND "
        "ended_at IS NULL) AND items.state <> 2 LIMIT ?",
        (PIECE,),
    ).fetchall()
    found += db.execute(
        STANDING + "WHERE items.job IS NOT NULL AND items.state <> 2 AND items.deadline <= ? LIMIT ?", (at, PIECE)
    ).fetchall()
    for row in found:
        item = Standing(*row)
        end_item(db, item, item.over(at) or EXPIRED, at)  # (who closed it had a clock that is ahead of this one)
    return bool(found)


def _sweep_leftovers(db: sqlite3.Connection) -> bool:
    """Lines of batches that ended without running."""
    row = db.execute("SELECT seq FROM batches WHERE leftovers = 1 LIMIT 1").fetchone()
    if row is None:
        return False
    gone = db.execute(
        "DELETE FROM items WHERE seq IN (SELECT seq FROM items WHERE batch = ? LIMIT ?)", (row[0], PIECE * 10)
    ).rowcount
    if gone == 0:
        db.execute("UPDATE batches SET leftovers = 0 WHERE seq = ?", row)
    return True


def _old_files(db: sqlite3.Connection, at: float, retention: float) -> None:
    db.execute(f"UPDATE files SET state = {DELETED} WHERE state = {READY} AND expires_at <= ?", (at,))
    for state, age in ((READY, retention), (WRITING, STALE_UPLOAD)):
        db.execute(
            "UPDATE files SET state = ? WHERE state = ? AND created_at <= ? AND (expires_at IS NULL OR state = ?)",
            (DELETED, state, at - age, WRITING),
        )


def _drop_content(db: sqlite3.Connection) -> bool:
    """Content of deleted files that no batch needs any more."""
    row = db.execute(
        "SELECT seq FROM files WHERE state = ? AND NOT EXISTS "
        "(SELECT 1 FROM batches WHERE input = files.seq AND ended_at IS NULL) LIMIT 1",
        (DELETED,),
    ).fetchone()
    if row is None:
        return False
    gone = db.execute(
        "DELETE FROM chunks WHERE rowid IN (SELECT rowid FROM chunks WHERE file = ? LIMIT ?)", (row[0], PIECE)
    ).rowcount
    if gone == 0:
        db.execute("DELETE FROM files WHERE seq = ?", row)
    return True


def _old_records(db: sqlite3.Connection, before: float) -> bool:
    old = db.execute("SELECT seq FROM jobs WHERE ended_at <= ? LIMIT ?", (before, PIECE)).fetchall()
    db.executemany("DELETE FROM results WHERE job = ?", old)
    db.executemany("DELETE FROM jobs WHERE seq = ?", old)
    gone = db.execute(
        "DELETE FROM batches WHERE seq IN (SELECT seq FROM batches WHERE ended_at <= ? AND leftovers = 0 LIMIT ?)",
        (before, PIECE),
    ).rowcount
    return bool(old) or gone > 0


def give_back(db: sqlite3.Connection) -> bool:
    """Pages that deleted content left in the file go back to the disk; some stay for what comes next.

    Not inside a transaction: only as a script is the pragma run to its end, and a script commits.
    """
    free = db.execute("PRAGMA freelist_count").fetchone()[0]
    if free <= PIECE * 10:
        return False
    db.executescript(f"PRAGMA incremental_vacuum({PIECE * 2})")
    return True


def cancel_job(db: sqlite3.Connection, tenant: str, id_: str, at: float) -> Job:
    """Raises `NotFound`."""
    row = db.execute("SELECT seq, state FROM jobs WHERE id = ? AND tenant = ?", (id_, tenant)).fetchone()
    if row is None:
        raise NotFound("job", id_)
    seq, state = row
    if state in ("queued", "running"):
        db.execute("UPDATE jobs SET state = 'cancelling' WHERE seq = ?", (seq,))
        item = Standing(*db.execute(STANDING + "WHERE items.job = ?", (seq,)).fetchone())
        record = item.over(at)
        if item.state != CLAIMED and record is not None:
            end_item(db, item, record, at)
    return jobs.get(db, tenant, id_)


def ahead(db: sqlite3.Connection, klass: str, model: str, deadline: float) -> int:
    lines, singles = db.execute(
        "SELECT (SELECT coalesce(sum(total - completed - failed), 0) FROM batches WHERE status = 'in_progress' AND "
        "ended_at IS NULL AND klass = ?1 AND model = ?2 AND expires_at <= ?3), "
        "(SELECT count(*) FROM items WHERE job IS NOT NULL AND klass = ?1 AND model = ?2 AND deadline <= ?3)",
        (klass, model, deadline),
    ).fetchone()
    return int(lines + singles)


def stats(db: sqlite3.Connection) -> Stats:
    """Batches tell how much of them is left, so the lines need not be counted."""
    held = dict(
        db.execute("SELECT batch, count(*) FROM items WHERE state = 2 AND batch IS NOT NULL GROUP BY batch").fetchall()
    )
    queues: dict[tuple[str, str], Queue] = {}
    rows = [
        (klass, model, left - held.get(seq, 0), held.get(seq, 0), deadline, 0)
        for klass, model, left, deadline, seq in db.execute(
            "SELECT klass, model, total - completed - failed, expires_at, seq FROM batches WHERE ended_at IS NULL "
            "AND status <> 'validating'"
        ).fetchall()
    ]
    rows += db.execute(
        "SELECT klass, model, sum(state <> 2), sum(state = 2), min(deadline), sum(state <> 2) FROM items "
        "WHERE job IS NOT NULL GROUP BY klass, model"
    ).fetchall()
    for klass, model, waiting, claimed, deadline, single in rows:
        known = queues.get((klass, model), Queue(klass, model, 0, 0, nan))
        earliest = deadline if known.earliest != known.earliest else min(known.earliest, deadline)
        queues[klass, model] = Queue(klass, model, known.waiting + waiting, known.claimed + claimed, earliest,
                                     known.jobs + single)  # fmt: skip
    statuses = db.execute("SELECT status, count(*) FROM batches GROUP BY status ORDER BY status").fetchall()
    counters = dict(db.execute("SELECT name, n FROM counters").fetchall())
    return Stats(tuple(queues[key] for key in sorted(queues)), tuple(statuses), **counters)
