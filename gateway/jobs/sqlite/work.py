"""What becomes of claimed items, as functions on a connection: held on, finished, given back, taken back.

An item ends in one place (`end_item`): its row goes and its record comes, in one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from gateway.jobs.base import DELIVERIES, DELIVERIES_IN_COMPANY
from gateway.jobs.lines import CANCELLED, EXPIRED, JOB_CANCELLED, JOB_EXPIRED, POISONED, line_id, output_line
from gateway.jobs.model import Claim, Renewal, Result
from gateway.jobs.sqlite import batches, files, jobs
from gateway.jobs.sqlite.schema import CLAIMED, DELAYED, WAITING, count

REAP_AT_ONCE = 500


class Standing(NamedTuple):
    """An item, and what its batch or job says of it."""

    seq: int
    batch: int | None
    job: int | None
    line: int
    custom_id: str
    attempt: int
    state: int
    said: str  # the status of its batch, the state of its job
    deadline: float
    batch_id: str | None

    def over(self, at: float) -> Result | None:
        """The record it gets if it is not finished, where there is no more time or wish for it."""
        single = self.batch is None
        if self.said == "cancelling":
            return JOB_CANCELLED if single else CANCELLED
        if self.deadline <= at:
            return JOB_EXPIRED if single else EXPIRED
        return None


STANDING = (
    "SELECT items.seq, items.batch, items.job, line, custom_id, attempt, items.state, "
    "coalesce(batches.status, jobs.state), coalesce(batches.expires_at, jobs.deadline), batches.id FROM items "
    "LEFT JOIN batches ON batches.seq = items.batch LEFT JOIN jobs ON jobs.seq = items.job "
)


def _held(db: sqlite3.Connection, claim: Claim) -> Standing | None:
    """The item, if it has no record yet and nobody was given it after this claim."""
    row = db.execute(STANDING + "WHERE items.seq = ? AND attempt = ?", (int(claim.key), claim.attempt)).fetchone()
    return None if row is None else Standing(*row)


def renew(db: sqlite3.Connection, claims: Iterable[Claim], until: float, at: float) -> Renewal:
    lost, stop = set(), set()
    for claim in claims:
        item = _held(db, claim)
        if item is None or item.state != CLAIMED:
            lost.add(claim.key)
            continue
        db.execute("UPDATE items SET until = ? WHERE seq = ?", (until, item.seq))
        if item.over(at):
            stop.add(claim.key)
    return Renewal(frozenset(lost), frozenset(stop))


def finish(db: sqlite3.Connection, claim: Claim, result: Result, at: float) -> bool:
    item = _held(db, claim)
    if item is None:
        count(db, "late")
        return False
    end_item(db, item, result, at)
    return True


def retry(db: sqlite3.Connection, claim: Claim, not_before: float, at: float) -> bool:
    return _back(db, claim, at, "state = ?, until = ?, tries = tries + 1", (DELAYED, not_before), "tries")


def release(db: sqlite3.Connection, claim: Claim, at: float, displaced: bool, not_before: float | None) -> bool:
    values = (WAITING, 0.0) if not_before is None else (DELAYED, not_before)
    if not displaced:
        return _back(db, claim, at, "state = ?, until = ?", values, None)
    if not _back(db, claim, at, "state = ?, until = ?, displaced = displaced + 1", values, "displaced"):
        return False
    count(db, "displaced")
    return True


def _back(
    db: sqlite3.Connection, claim: Claim, at: float, change: str, values: tuple[float, ...], counted: str | None
) -> bool:
    item = _held(db, claim)
    if item is None or item.state != CLAIMED:
        return False
    db.execute(f"UPDATE items SET {change}, owner = NULL WHERE seq = ?", (*values, item.seq))
    if counted == "displaced" and item.batch is not None:
        db.execute("UPDATE batches SET displaced = displaced + 1 WHERE seq = ?", (item.batch,))
    if counted and item.job is not None:
        db.execute(f"UPDATE jobs SET {counted} = {counted} + 1 WHERE seq = ?", (item.job,))
    _let_go(db, item, at)
    return True


def _let_go(db: sqlite3.Connection, item: Standing, at: float) -> None:
    """Nobody works on it now: it waits again, or ends if nobody wants it any more."""
    if record := item.over(at):
        end_item(db, item, record, at)
    elif item.job is not None:
        db.execute("UPDATE jobs SET state = 'queued' WHERE seq = ?", (item.job,))


def reap(db: sqlite3.Connection, at: float) -> int:
    expired = db.execute(
        f"SELECT seq, owner, lost, blame FROM items WHERE state = {CLAIMED} AND until <= ? ORDER BY until LIMIT ?",
        (at, REAP_AT_ONCE),
    ).fetchall()
    if not expired:
        return 0
    company = dict(db.execute(f"SELECT owner, count(*) FROM items WHERE state = {CLAIMED} GROUP BY owner").fetchall())
    count(db, "lost", len(expired))
    for seq, owner, lost, blame in expired:
        lost, blame = lost + 1, blame + 1 / company[owner]
        db.execute(
            "UPDATE items SET state = ?, owner = NULL, lost = ?, blame = ?, redo = 1 WHERE seq = ?",
            (WAITING, lost, blame, seq),
        )
        item = Standing(*db.execute(STANDING + "WHERE items.seq = ?", (seq,)).fetchone())
        if item.over(at) is None and poisoned(lost, blame):
            count(db, "poisoned")
            end_item(db, item, POISONED, at)
        else:
            _let_go(db, item, at)
    return len(expired)


def poisoned(lost: int, blame: float) -> bool:
    """Whether an item is to blame for the workers that vanished with it. Thirds do not add up to one exactly."""
    return blame > DELIVERIES - 1e-6 or lost >= DELIVERIES_IN_COMPANY


def end_item(db: sqlite3.Connection, item: Standing, result: Result, at: float) -> None:
    """The terminal record of an item, and the end of its batch if it was the last."""
    db.execute("DELETE FROM items WHERE seq = ?", (item.seq,))
    if item.batch is None:
        assert item.job is not None
        state = {JOB_CANCELLED: "cancelled", JOB_EXPIRED: "expired"}.get(result, "completed" if result.ok else "failed")
        jobs.end(db, item.job, state, result, at)
        return
    assert item.batch_id is not None
    kept, counted = ("output", "completed") if result.ok else ("error", "failed")
    used = result.usage
    ((file, left),) = db.execute(
        f"UPDATE batches SET {counted} = {counted} + 1, input_tokens = input_tokens + ?, "
        "cached_tokens = cached_tokens + ?, output_tokens = output_tokens + ?, reasoning_tokens = reasoning_tokens + ? "
        f"WHERE seq = ? RETURNING {kept}, total - completed - failed",
        (used.input_tokens, used.cached_tokens, used.output_tokens, used.reasoning_tokens, item.batch),
    ).fetchall()
    files.append(db, file, [output_line(line_id(item.batch_id, item.line), item.custom_id, result)])
    if left == 0:
        batches.end(db, item.batch, at)
