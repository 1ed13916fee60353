"""The values of durable work: files, batches and their lines, single jobs, and what a worker holds while it works.

All frozen. Times are wall-clock seconds (`time.time()`): they outlive the process, and they are what clients see. The
words and the states are those of OpenAI's Files and Batches; how they look as JSON is the business of what speaks HTTP.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
JobState = Literal["queued", "running", "cancelling", "completed", "failed", "expired", "cancelled"]
ENDED_BATCH: frozenset[str] = frozenset(("failed", "completed", "expired", "cancelled"))
ENDED_JOB: frozenset[str] = frozenset(("completed", "failed", "expired", "cancelled"))

T = TypeVar("T")


def new_id(prefix: Literal["file-", "batch_", "job_"]) -> str:
    """An id nobody can guess, with the prefix that clients' libraries look for."""
    return prefix + secrets.token_hex(12)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, and whether there is more after it."""

    data: tuple[T, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class File:
    """A file that is whole: uploaded, or written by a batch that ended. `purpose` is `batch` or `batch_output`."""

    id: str
    tenant: str
    filename: str
    purpose: str
    bytes: int
    created_at: float
    expires_at: float | None = None  # when it is deleted; None: when the operator's retention says


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer, or of all answers of a batch."""

    input_tokens: int = 0
    cached_tokens: int = 0  # of the input
    output_tokens: int = 0
    reasoning_tokens: int = 0  # of the output

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class LineError:
    """Why a batch was refused as a whole: one of its `errors`."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it stands. `total = completed + failed` once it has ended (not for `failed`, which never began)."""

    id: str
    tenant: str
    klass: str
    endpoint: str  # the path its lines are for
    input_file_id: str
    window: str  # as the client said it: `24h`
    status: BatchStatus
    created_at: float
    expires_at: float  # its deadline: what is not done by then is expired
    model: str = ""  # of all its lines; known once validated
    key_digest: bytes | None = None  # whose key: limits are counted against it
    metadata: tuple[tuple[str, str], ...] | None = None
    output_expires_after: float | None = None  # seconds from created_at
    in_progress_at: float | None = None
    finalizing_at: float | None = None
    completed_at: float | None = None
    failed_at: float | None = None
    expired_at: float | None = None
    cancelling_at: float | None = None
    cancelled_at: float | None = None
    output_file_id: str | None = None  # set when it has ended, and only where there is something in it
    error_file_id: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    usage: Usage = field(default_factory=Usage)
    errors: tuple[LineError, ...] = ()
    repeated: int = 0  # times a line was begun again because a worker vanished with it
    displaced: int = 0  # times a line gave its place to interactive traffic

    @property
    def ended(self) -> bool:
        return self.status in ENDED_BATCH

    @property
    def left(self) -> int:
        """Lines without a terminal record."""
        return max(0, self.total - self.completed - self.failed)


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a batch, as validation found it.

    `offset` and `length` (bytes) say where in the input file the JSON of its `body` stands: a worker is handed exactly
    these bytes. Lines run in the order of `prefix_key` (compared as bytes, at most 64 of them), so that prompts which
    begin alike run one after another; equal keys in the order of lines.
    """

    line: int  # from 1, as in the file
    custom_id: str
    offset: int
    length: int
    prefix_key: bytes = b""


@dataclass(frozen=True, slots=True)
class Result:
    """How an item ended: an answer of a model server (`status`, `body`), or an `error` where there was none.

    An answer of 2xx without an error is `completed`, all else is `failed`. `error` is (code, message).
    """

    status: int = 0  # 0: there was no answer
    body: bytes = b""
    content_type: str = "application/json"
    request_id: str = ""
    usage: Usage = field(default_factory=Usage)
    error: tuple[str, str] | None = None

    @property
    def ok(self) -> bool:
        return self.error is None and 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Claim:
    """An item in the hands of one worker, until its lease ends. `attempt` is the fencing token.

    A claim is worth something only as long as nobody else was given the item: `finish` with an older `attempt` is
    refused. `key` is the store's own name of the item and means nothing to others.
    """

    key: str
    attempt: int
    owner: str
    id: str  # `batch_req_…` or `job_…`: what the client sees, and the request's id upstream
    tenant: str
    klass: str
    model: str
    path: str
    body: bytes
    deadline: float
    key_digest: bytes | None = None
    fields: tuple[tuple[bytes, bytes], ...] = ()  # of a single job: request headers to send on
    batch_id: str | None = None
    custom_id: str = ""
    tries: int = 0  # that ended in `retry`
    lost: int = 0  # leases that ended without a word
    displaced: int = 0  # times it gave its place to others


@dataclass(frozen=True, slots=True)
class Renewal:
    """What became of claims that were renewed: those in neither set are held on.

    `lost` belongs to somebody else by now, or has ended: abort, and write nothing. `stop` is still held, but its batch
    or job was cancelled or has expired: abort, then `release` (a `finish` that comes first still counts).
    """

    lost: frozenset[str] = frozenset()  # keys of claims
    stop: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Submission:
    """A single request to be done later. `idempotency_key` is the client's word for "this one, once"."""

    tenant: str
    klass: str
    model: str
    path: str
    body: bytes
    deadline: float
    fields: tuple[tuple[bytes, bytes], ...] = ()
    key_digest: bytes | None = None
    idempotency_key: str | None = None
    callback: str | None = None  # the URL to call when it has ended


@dataclass(frozen=True, slots=True)
class Job:
    """A single request as it stands, with its result once it has ended."""

    id: str
    tenant: str
    klass: str
    model: str
    path: str
    state: JobState
    created_at: float
    deadline: float
    started_at: float | None = None  # first given to a worker
    ended_at: float | None = None
    result: Result | None = None
    callback: str | None = None
    tries: int = 0
    repeated: int = 0
    displaced: int = 0

    @property
    def ended(self) -> bool:
        return self.state in ENDED_JOB


@dataclass(frozen=True, slots=True)
class Call:
    """A callback that is due: the job that ended, and how often its URL was called in vain."""

    job: Job
    tries: int


@dataclass(frozen=True, slots=True)
class Queue:
    """What stands in line for one class and model. `earliest` is the next deadline among all of it, NaN if empty."""

    klass: str
    model: str
    waiting: int  # may be claimed now or, after a failed try, soon
    claimed: int
    earliest: float
    jobs: int = 0  # of those that wait: single ones, not lines of batches


@dataclass(frozen=True, slots=True)
class Stats:
    """What a store holds, and what it has counted since it was made (not since the process began)."""

    queues: tuple[Queue, ...] = ()
    batches: tuple[tuple[str, int], ...] = ()  # status, how many
    lost: int = 0  # leases that ended without a word
    repeated: int = 0  # items begun again after that: work that may have been done twice
    late: int = 0  # results refused, because the item had ended or belonged to somebody else
    poisoned: int = 0  # items given up because their workers kept vanishing
    displaced: int = 0  # items that gave their place to interactive traffic
