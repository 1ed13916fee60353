"""The tables, and a connection set up so that what is committed is on the disk.

WAL with `synchronous=FULL`: every commit waits for the disk (https://www.sqlite.org/pragma.html#pragma_synchronous),
and readers do not wait for writers. `items` holds only what has no terminal record yet; the deletion of an item and
the writing of its record are one transaction. `AUTOINCREMENT`, because the row id of an item is half of its fencing
token and must never be given twice. Queries write states out instead of binding them, or their partial indexes would
not be used. Content of files stands in rows of `chunks`, addressed by the offset of their
first byte: of uploads in equal pieces, of outputs one line a row.

Several processes may use one file. Whoever opens it alone (a lock on a file beside it tells) knows that every lease
in it is of a dead process.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from typing import Any

VERSION = 1
ROW = 16 * 1024  # bytes of an upload in one row: a worker's claim reads whole rows
BUSY = 5.0  # seconds another process may keep the file to itself
NO_FILES = 14  # SQLite's SQLITE_CANTOPEN

WAITING, DELAYED, CLAIMED = 0, 1, 2  # items.state
WRITING, GROWING, READY, DELETED = 0, 1, 2, 3  # files.state

TABLES = """
CREATE TABLE files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL, filename TEXT NOT NULL,
    purpose TEXT NOT NULL, bytes INTEGER NOT NULL DEFAULT 0, created_at REAL NOT NULL, expires_at REAL,
    state INTEGER NOT NULL);
CREATE INDEX files_listed ON files (tenant, created_at, seq) WHERE state = 2;
CREATE INDEX files_made ON files (state, created_at);
CREATE INDEX files_ending ON files (expires_at) WHERE state = 2 AND expires_at IS NOT NULL;

CREATE TABLE chunks (file INTEGER NOT NULL, start INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE (file, start));

CREATE TABLE batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL, klass TEXT NOT NULL,
    endpoint TEXT NOT NULL, input_file_id TEXT NOT NULL, window TEXT NOT NULL, status TEXT NOT NULL,
    created_at REAL NOT NULL, expires_at REAL NOT NULL, model TEXT NOT NULL DEFAULT '', key_digest BLOB,
    metadata BLOB, output_expires_after REAL, in_progress_at REAL, finalizing_at REAL, completed_at REAL,
    failed_at REAL, expired_at REAL, cancelling_at REAL, cancelled_at REAL, output_file_id TEXT, error_file_id TEXT,
    total INTEGER NOT NULL DEFAULT 0, completed INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
    input_tokens INTEGER NOT NULL DEFAULT 0, cached_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0, reasoning_tokens INTEGER NOT NULL DEFAULT 0, errors BLOB,
    repeated INTEGER NOT NULL DEFAULT 0, displaced INTEGER NOT NULL DEFAULT 0,
    input INTEGER NOT NULL, output INTEGER, error INTEGER, ended_at REAL, leftovers INTEGER NOT NULL DEFAULT 0,
    validator TEXT, validator_until REAL NOT NULL DEFAULT 0, idempotency_key TEXT);
CREATE INDEX batches_counted ON batches (status);
CREATE INDEX batches_listed ON batches (tenant, seq);
CREATE INDEX batches_due ON batches (status, expires_at, seq) WHERE ended_at IS NULL;
CREATE INDEX batches_of ON batches (input) WHERE ended_at IS NULL;
CREATE INDEX batches_ended ON batches (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX batches_littered ON batches (seq) WHERE leftovers = 1;
CREATE UNIQUE INDEX batches_once ON batches (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL, klass TEXT NOT NULL,
    model TEXT NOT NULL, path TEXT NOT NULL, state TEXT NOT NULL, created_at REAL NOT NULL, deadline REAL NOT NULL,
    started_at REAL, ended_at REAL, callback TEXT, tries INTEGER NOT NULL DEFAULT 0,
    repeated INTEGER NOT NULL DEFAULT 0, displaced INTEGER NOT NULL DEFAULT 0, key_digest BLOB, fields BLOB,
    call_at REAL, call_tries INTEGER NOT NULL DEFAULT 0, idempotency_key TEXT);
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX jobs_to_call ON jobs (call_at) WHERE call_at IS NOT NULL;
CREATE UNIQUE INDEX jobs_once ON jobs (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE TABLE bodies (job INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE results (job INTEGER PRIMARY KEY, head BLOB NOT NULL, data BLOB NOT NULL);

CREATE TABLE items (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, batch INTEGER, job INTEGER, line INTEGER NOT NULL DEFAULT 0,
    custom_id TEXT NOT NULL DEFAULT '', start INTEGER NOT NULL DEFAULT 0, length INTEGER NOT NULL DEFAULT 0,
    prefix BLOB NOT NULL DEFAULT x'', klass TEXT, model TEXT, deadline REAL, state INTEGER NOT NULL DEFAULT 0,
    until REAL NOT NULL DEFAULT 0, owner TEXT, attempt INTEGER NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0,
    lost INTEGER NOT NULL DEFAULT 0, blame REAL NOT NULL DEFAULT 0, displaced INTEGER NOT NULL DEFAULT 0,
    redo INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX items_lines ON items (batch, line) WHERE batch IS NOT NULL;
CREATE INDEX items_ready ON items (batch, lost, prefix, line) WHERE state = 0 AND batch IS NOT NULL;
CREATE INDEX items_single ON items (deadline, lost, seq) WHERE state <> 2 AND job IS NOT NULL;
CREATE UNIQUE INDEX items_jobs ON items (job) WHERE job IS NOT NULL;
CREATE INDEX items_delayed ON items (until) WHERE state = 1;
CREATE INDEX items_claimed ON items (until, owner, batch) WHERE state = 2;

CREATE TABLE counters (name TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
"""


def connect(path: str) -> sqlite3.Connection:
    """A connection with the tables made. Raises `sqlite3.Error`."""
    if sqlite3.sqlite_version_info < (3, 35):
        raise sqlite3.NotSupportedError(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 is needed")
    # Prompts stand in it: for the eyes of its owner only. The files SQLite puts beside it inherit this.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    try:
        _check_ours(db, path)  # before anything is changed
        # Only a file without tables takes the first; it lets deleted content be given back to the disk in pieces.
        for pragma in (
            "auto_vacuum = INCREMENTAL",
            "journal_mode = WAL",
            "synchronous = FULL",
            "fullfsync = ON",  # macOS: through the disk's own cache
            "cache_size = -8192",
            "journal_size_limit = 67108864",
        ):
            db.execute(f"PRAGMA {pragma}").fetchall()
        db.execute("BEGIN IMMEDIATE")
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            for statement in TABLES.split(";\n"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        db.close()
        raise
    return db


def _check_ours(db: sqlite3.Connection, path: str) -> None:
    """Raises for a file that somebody else keeps something in, and for one of another version of this."""
    db.execute("BEGIN")  # both as of one moment: another process may just be making it
    found = db.execute("PRAGMA user_version").fetchone()[0]
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    db.execute("COMMIT")
    if found not in (0, VERSION):
        raise sqlite3.NotSupportedError(f"{path} is of version {found}, this Headway knows {VERSION}")
    if not tables >= {"items", "batches", "chunks"} if found else tables:
        raise sqlite3.NotSupportedError(f"{path} is a database of something else")


def lock(path: str) -> tuple[int, bool]:
    """A descriptor that says "in use" while it is open, and whether nobody else says so. Raises `OSError`."""
    fd = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except BlockingIOError:
        alone = False
    return fd, alone


def share(fd: int) -> None:
    """From now on others may open the file too."""
    fcntl.flock(fd, fcntl.LOCK_SH)


def orphan(db: sqlite3.Connection) -> None:
    """Whoever held a lease or wrote a file is dead: the leases end now, the files are cleared away."""
    db.execute(f"UPDATE items SET until = 0 WHERE state = {CLAIMED}")
    db.execute("UPDATE batches SET validator_until = 0 WHERE validator_until > 0")
    db.execute("UPDATE files SET state = ? WHERE state = ?", (DELETED, WRITING))


def count(db: sqlite3.Connection, name: str, n: int = 1) -> None:
    """Add to a counter that outlives the process."""
    db.execute("INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET n = n + excluded.n", (name, n))


Row = tuple[Any, ...]
