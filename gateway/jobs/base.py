"""What keeps durable work: the promises every store makes, and the interface through which all others see it.

The promises, which one suite of contract tests asks of every store:

* **Accepted is durable.** When a call has returned, its effect survives `kill -9` of this process (of the machine,
  where the disk does what it says; for Redis: where its operator has told it to). A call that raised may have had
  its effect or not; to make it again is safe.
* **At least once inside, exactly once outside.** An item is given to one worker at a time, under a lease. A worker that
  vanishes loses it to another, so work may be done twice, and is counted. The terminal record (a line of the output
  or error file, or a job's result) is written in the same step that ends the item: never two, never none.
* **Fencing.** Every claim of an item has a higher `attempt`; what comes with an older one changes nothing.
* **Order.** Earliest deadline first, then batch by batch, within one by `prefix_key`. An item that its workers
  vanished with stands behind its equals. An item that waits for its next try does not block others.
* **Memory.** Content goes in and out in pieces; no call holds a whole file.

All times are wall-clock seconds; `at` is now, given by the caller. Ids are checked against their tenant: what belongs
to another does not exist. Any call may raise `StoreUnavailable`.

What this leaves to others: HTTP and JSON, what makes a line valid, when to claim and how to retry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import Literal

from gateway.core.errors import BadRequest, Refused
from gateway.jobs.model import (
    Batch,
    Call,
    Claim,
    File,
    Item,
    Job,
    LineError,
    Page,
    Renewal,
    Result,
    Stats,
    Submission,
)

PIECE = 256 * 1024  # bytes: content is kept and handed out in pieces of about this size
CLAIM_BYTES = 8 * 1024 * 1024  # of bodies handed out by one claim
DELIVERIES = 3  # workers that vanished with an item alone in their hands: it is to blame
DELIVERIES_IN_COMPANY = 10  # the same where others were in those hands too

Order = Literal["asc", "desc"]


class StoreUnavailable(Refused):
    """The store cannot be reached, or cannot write: nothing is accepted. For clients a 503 with `Retry-After`.

    `detail` is for the operator's log, not for clients: it may name files and hosts.
    """

    def __init__(self, detail: str, *, retry_after: float = 1.0):
        message = "Durable work can be neither stored nor read right now."
        super().__init__(message, reason="jobs_unavailable", status=503, retry_after=retry_after)
        self.detail = detail


class NotFound(BadRequest):
    """No such file, batch or job of this tenant."""

    def __init__(self, kind: Literal["file", "batch", "job"], id_: str):
        super().__init__(f"No such {kind}: {id_[:80]}", status=404, code=f"{kind}_not_found")


class Writer(ABC):
    """A file that is being written. It does not exist for anybody until `finish`; what is abandoned is cleared away."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Append. Returns once the store has room for more, so a fast client is slowed down."""

    @abstractmethod
    async def finish(self, at: float) -> File:
        """Make it a file, whole and durable."""

    @abstractmethod
    async def abort(self) -> None:
        """Forget it. Also right after an error, and twice."""


class Store(ABC):
    """One store. Made synchronously and without I/O; `open` before anything else, `close` last."""

    @abstractmethod
    async def open(self) -> None:
        """Connect. May raise `StoreUnavailable`: then call it again, or any other call, which connects by itself."""

    @abstractmethod
    async def close(self) -> None:
        """Let go. Claims stay until their lease ends: `release` them first where they will not be finished."""

    # ---- files ----

    @abstractmethod
    async def new_file(
        self, tenant: str, filename: str, purpose: str, at: float, expires_at: float | None = None
    ) -> Writer:
        """Begin a file. It was created when it was finished; what is begun and left is cleared away after a day."""

    @abstractmethod
    async def file(self, tenant: str, id_: str) -> File:
        """Raises `NotFound`."""

    @abstractmethod
    async def files(
        self,
        tenant: str,
        *,
        after: str | None = None,
        limit: int = 100,
        order: Order = "desc",
        purpose: str | None = None,
    ) -> Page[File]:
        """The tenant's files by the time of their making, beginning behind `after`. Raises `NotFound` for that id."""

    @abstractmethod
    async def delete_file(self, tenant: str, id_: str, at: float) -> None:
        """It is gone for everybody at once; a batch that was made of it keeps what it needs. Raises `NotFound`."""

    @abstractmethod
    def read(self, tenant: str, id_: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Its bytes from `offset`, in pieces. Raises `NotFound` at the first piece, and later if it is deleted then."""

    # ---- batches ----

    @abstractmethod
    async def create_batch(
        self,
        tenant: str,
        klass: str,
        input_file_id: str,
        endpoint: str,
        window: str,
        expires_at: float,
        at: float,
        *,
        metadata: tuple[tuple[str, str], ...] | None = None,
        output_expires_after: float | None = None,
        key_digest: bytes | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[Batch, bool]:
        """A batch in `validating`, and True; the first one and False if the tenant has used that key before.

        Raises `NotFound` for the file.
        """

    @abstractmethod
    async def batch(self, tenant: str, id_: str) -> Batch:
        """Raises `NotFound`."""

    @abstractmethod
    async def batches(self, tenant: str, *, after: str | None = None, limit: int = 20) -> Page[Batch]:
        """The tenant's batches, newest first, beginning behind `after`. Raises `NotFound` for that id."""

    @abstractmethod
    async def cancel(self, tenant: str, id_: str, at: float) -> Batch:
        """Stop it: nothing more is claimed. Raises `NotFound`; a batch that has ended is returned as it is.

        `cancelling` until what runs has ended (`finish` still counts) and `expire` has written what is left as
        `batch_cancelled` into the error file; then `cancelled`. One in `validating` is `cancelled` at once.
        """

    @abstractmethod
    async def claim_validation(self, owner: str, lease_until: float, at: float) -> Batch | None:
        """The oldest batch in `validating` that nobody works on, or None. Not fenced: the steps below may be repeated.

        Validation begins from the file's first byte each time. Call again with the same owner to renew: a batch that
        this owner holds is returned before others.
        """

    @abstractmethod
    def read_input(self, batch_id: str) -> AsyncIterator[bytes]:
        """The whole input of a batch that has not ended, in pieces, also where its file was deleted meanwhile."""

    @abstractmethod
    async def add_items(self, batch_id: str, items: Sequence[Item]) -> bool:
        """Some lines (about a thousand a call at most); one added again is replaced. False: no longer `validating`."""

    @abstractmethod
    async def start(self, batch_id: str, total: int, model: str, at: float) -> bool:
        """All `total` lines are added and may be claimed. False: no longer `validating`. With 0 lines it completes."""

    @abstractmethod
    async def fail(self, batch_id: str, errors: Sequence[LineError], at: float) -> bool:
        """The batch as a whole is refused: no line of it runs. False: no longer `validating`."""

    # ---- single requests ----

    @abstractmethod
    async def submit(self, work: Submission, at: float) -> tuple[Job, bool]:
        """A queued job, and True; the first one and False if the tenant has used that idempotency key before."""

    @abstractmethod
    async def job(self, tenant: str, id_: str) -> Job:
        """Raises `NotFound`."""

    @abstractmethod
    async def cancel_job(self, tenant: str, id_: str, at: float) -> Job:
        """`cancelled` at once if nobody works on it, else `cancelling` until that worker lets go. Raises `NotFound`."""

    @abstractmethod
    async def due_callbacks(self, limit: int, lease_until: float, at: float) -> list[Call]:
        """Jobs that ended and whose callback is due; they are not due again before `lease_until`."""

    @abstractmethod
    async def called(self, job_id: str, next_at: float | None) -> None:
        """A callback was tried: None if that was all (delivered, or given up), else when it is due again."""

    # ---- work ----

    @abstractmethod
    async def claim(
        self,
        owner: str,
        limit: int,
        lease_until: float,
        at: float,
        *,
        klass: str | None = None,
        model: str | None = None,
        passing_over: Collection[str] = (),
    ) -> list[Claim]:
        """Up to `limit` items in the order above, of one class and model or (None) of any; fewer if their bodies are
        large (`CLAIM_BYTES`). What belongs to the tenants in `passing_over` is left where it is. `owner` is unique to a
        process's life: two lives of one gateway are two owners."""

    @abstractmethod
    async def renew(self, claims: Iterable[Claim], lease_until: float, at: float) -> Renewal:
        """Hold on to these until then."""

    @abstractmethod
    async def finish(self, claim: Claim, result: Result, at: float) -> bool:
        """Write the terminal record. False: it has one, or the item was given to somebody else; nothing was written.

        A lease that has ended but was not given to anybody else yet still counts: the work is done. On
        `StoreUnavailable` call again: where answers can be lost on their way, a finish that was written and is
        repeated returns True.
        """

    @abstractmethod
    async def retry(self, claim: Claim, not_before: float, at: float) -> bool:
        """A try failed: back in line, not before that time. False: no longer held."""

    @abstractmethod
    async def release(
        self, claim: Claim, at: float, *, displaced: bool = False, not_before: float | None = None
    ) -> bool:
        """Let go of it unfinished; no try is counted (`displaced` is, if so). False: no longer held.

        It is claimed again at once, or from `not_before` on.
        """

    @abstractmethod
    async def reap(self, at: float) -> int:
        """Take back what leases have ended for; how many. Often, and by every process: it is cheap.

        An item whose workers keep vanishing ends as failed, `poisoned`: after three that held nothing else at that
        time, or ten in company. A lost claim weighs one by the number lost with it.
        """

    @abstractmethod
    async def expire(self, at: float, retention: float) -> bool:
        """One bounded piece of clearing up; True if there is more to do now.

        Batches and jobs past their deadline end: lines that never ran as `batch_expired`. What was cancelled is
        written down. Files past `expires_at`, and everything that ended (for files: was made) `retention` seconds
        ago, are deleted, and so is content that nothing needs any more.
        """

    @abstractmethod
    async def ahead(self, klass: str, model: str, deadline: float) -> int:
        """How many unfinished items of that class and model have an earlier or the same deadline."""

    @abstractmethod
    async def stats(self) -> Stats:
        """Counts for metrics and the admin pages; not for the hot path."""
