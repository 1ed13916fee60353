"""One request answered later: `Prefer: respond-async` makes a job of it, `/v1/jobs/{id}` tells how it stands.

The request has been checked like any other when it comes here (its `Ask` exists), so what becomes a job could have been
served. The body is kept as the client wrote it; names are translated when it runs, by the configuration of then.

A response may be large (`collected.MOST`), and a client may ask for it on many connections without reading any of
them. So each tenant's large responses are read and sent a few at a time, no faster than they are taken.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import msgspec

from gateway.ask import Ask
from gateway.config.types import Config
from gateway.core.errors import BadRequest, Refused
from gateway.jobs.base import PIECE, Store
from gateway.jobs.desk import PATIENCE, Said, Visit, in_time
from gateway.jobs.model import Job, Submission
from gateway.jobs.objects import EtaOf, job_object
from gateway.jobs.wishes import DEADLINE, callback, idempotency_key, job_class
from gateway.wire.reply import Reply

_LONGEST = 30 * 86_400.0  # seconds a job may be kept waiting, as a batch's longest window
LARGE = 1 << 20  # bytes of a response
_FULL = 10.0  # seconds after which a queue that is full may have room
_READS = 16  # of jobs at once: how large they are shows when they are there
_OF_ONE = 2  # large responses to one tenant at once
_KNOWN = 4096  # jobs whose response was seen to be large
_OWN_FIELDS = frozenset((b"x-request-id",))  # of a forwarded request: a job has its own


WaitingOf = Callable[[str, str], int]
"""How many jobs of a class wait for a model, lines of batches not counted; about a second old."""


class AsyncRequests:
    """What is asked of single jobs. `config` may be replaced.

    `made` hears of new jobs, `cancelled` that some are to stop.
    """

    def __init__(self, store: Store, config: Config, made: Callable[[], None], cancelled: Callable[[], None],
                 eta: EtaOf, waiting: WaitingOf):  # fmt: skip
        self._store = store
        self.config = config
        self._made = made
        self._cancelled = cancelled
        self._eta = eta
        self._waiting = waiting
        self._reads = asyncio.Semaphore(_READS)
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_OF_ONE))
        self._large: dict[str, None] = {}  # ids, the oldest first

    def check(self, visit: Visit) -> None:
        """What the head alone tells, before the body is read. Raises BadRequest."""
        job_class(self.config, visit.key, visit.head)
        idempotency_key(visit.head)
        callback(visit.head, self._hosts())

    async def submit(self, visit: Visit, ask: Ask, body: bytes, charge: Callable[[], Awaitable[None]]) -> Said:
        """202 and where to look; the first job again for an idempotency key that was used before."""
        request = ask.request
        if request.stream:
            raise BadRequest("an answer that comes later cannot be streamed", code="stream_not_allowed",
                             param="stream")  # fmt: skip
        if ask.way.forced:  # (it is drawn when it runs, by the rules of then)
            raise BadRequest("an arm cannot be chosen for an answer that comes later", code="arm_not_allowed",
                             param="x-headway-arm")  # fmt: skip
        klass = job_class(self.config, visit.key, visit.head)
        left = request.deadline - time.monotonic()
        if left <= 0.0:
            late = Refused("the deadline has passed", reason="deadline")
            late.should_retry = False
            raise late
        if left > _LONGEST:
            raise BadRequest("the deadline of a job is at most 720h away", code="invalid_value",
                             param=DEADLINE.decode())  # fmt: skip
        await charge()
        visit.fields = ask.reply_fields
        rule = self.config.classes[klass]
        if not rule.shadow and self._waiting(klass, request.model) >= rule.queue.limit:
            raise Refused(f"{rule.queue.limit} jobs of this class wait already", reason="queue_full",
                          retry_after=_FULL)  # fmt: skip
        at = time.time()
        once = idempotency_key(visit.head)
        stored = self._store.submit(Submission(
            visit.tenant, klass, request.model, ask.route, body,
            at + (rule.queue.wait if math.isnan(left) else left), _sent_on(ask.fields),
            visit.key.digest or None, once, callback(visit.head, self._hosts()),
        ), at)  # fmt: skip
        job, is_new = await in_time(stored if once is None else self._read(stored))
        if is_new:
            self._made()
        where = b"location: /v1/jobs/%b\r\npreference-applied: respond-async\r\n" % job.id.encode()
        return Said(self._in_short(job), 202, where)

    async def get(self, visit: Visit, id_: str, reply: Reply) -> Said | None:
        if id_ not in self._large:
            job: Job = await in_time(self._read(self._store.job(visit.tenant, id_)))
            if not self._is_large(job):
                return Said(job_object(job, None if job.ended else await in_time(self._eta(job))))
            del job  # read again when it is its turn: those that wait hold nothing
        async with self._turn(visit.tenant):
            body = msgspec.json.encode(job_object(await in_time(self._store.job(visit.tenant, id_))))
            fields = b"content-type: application/json\r\nx-request-id: %b\r\n" % visit.request_id.encode()
            reply.start(200, fields, len(body))
            for start in range(0, len(body), PIECE):
                await reply.drained()
                reply.write(body[start : start + PIECE])
            reply.end()
        return None

    async def cancel(self, visit: Visit, id_: str) -> Said:
        job = await in_time(self._read(self._store.cancel_job(visit.tenant, id_, time.time())))
        self._cancelled()
        return Said(self._in_short(job))

    async def _read(self, work: Awaitable[Any]) -> Any:
        async with self._reads:
            return await work

    @asynccontextmanager
    async def _turn(self, tenant: str) -> AsyncIterator[None]:
        """One of a tenant's places for large responses. Raises Refused where none becomes free."""
        turns = self._turns[tenant]
        try:
            async with asyncio.timeout(PATIENCE):
                await turns.acquire()
        except TimeoutError:
            raise Refused("too many large responses are being read at once", reason="jobs_unavailable", status=503,
                          retry_after=1.0) from None  # fmt: skip
        try:
            yield
        finally:
            turns.release()

    def _is_large(self, job: Job) -> bool:
        if job.result is None or len(job.result.body) <= LARGE:
            return False
        self._large[job.id] = None
        if len(self._large) > _KNOWN:
            del self._large[next(iter(self._large))]
        return True

    def _in_short(self, job: Job) -> dict[str, Any]:
        """The job, without its response where that is large: there is a way to ask for it."""
        if not self._is_large(job):
            return job_object(job)
        return {**job_object(replace(job, result=None)), "response_omitted": True}

    def _hosts(self) -> tuple[str, ...]:
        return self.config.jobs.callbacks if self.config.jobs is not None else ()


def _sent_on(lines: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Ready header lines as pairs, without those that the job's own request gets anew."""
    pairs = (line.partition(b": ")[::2] for line in lines.split(b"\r\n") if line)
    return tuple((name, value) for name, value in pairs if name not in _OWN_FIELDS)
