"""One request answered later: `Prefer: respond-async` makes a job of it, `/v1/jobs/{id}` tells how it stands.

The request has been checked like any other when it comes here (its `Ask` exists), so what becomes a job could have been
served. The body is kept as the client wrote it; names are translated when it runs, by the configuration of then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from gateway.ask import Ask
from gateway.config.types import Config
from gateway.core.errors import BadRequest, Refused
from gateway.jobs.base import Store
from gateway.jobs.desk import Said, Visit, in_time
from gateway.jobs.model import Job, Submission
from gateway.jobs.objects import EtaOf, job_object
from gateway.jobs.wishes import DEADLINE, callback, idempotency_key, job_class

_LONGEST = 30 * 86_400.0  # seconds a job may be kept waiting, as a batch's longest window
_OWN_FIELDS = frozenset((b"x-request-id",))  # of a forwarded request: a job has its own


class AsyncRequests:
    """What is asked of single jobs. `config` may be replaced.

    `made` hears of new jobs, `cancelled` that some are to stop.
    """

    def __init__(self, store: Store, config: Config, made: Callable[[], None], cancelled: Callable[[], None],
                 eta: EtaOf):  # fmt: skip
        self._store = store
        self.config = config
        self._made = made
        self._cancelled = cancelled
        self._eta = eta

    def check(self, visit: Visit) -> None:
        """What the head alone tells, before the body is read. Raises BadRequest."""
        job_class(self.config, visit.key, visit.head)
        idempotency_key(visit.head)
        callback(visit.head, self._hosts())

    async def submit(self, visit: Visit, ask: Ask, body: bytes) -> Said:
        """202 and where to look; the first job again for an idempotency key that was used before."""
        request = ask.request
        if request.stream:
            raise BadRequest("an answer that comes later cannot be streamed", code="stream_not_allowed",
                             param="stream")  # fmt: skip
        klass = job_class(self.config, visit.key, visit.head)
        left = request.deadline - time.monotonic()
        if left <= 0.0:
            late = Refused("the deadline has passed", reason="deadline")
            late.should_retry = False
            raise late
        if left > _LONGEST:
            raise BadRequest("the deadline of a job is at most 720h away", code="invalid_value",
                             param=DEADLINE.decode())  # fmt: skip
        at = time.time()
        job, is_new = await in_time(self._store.submit(Submission(
            visit.tenant, klass, request.model, ask.route, body,
            at + (self.config.classes[klass].queue.wait if math.isnan(left) else left), _sent_on(ask.fields),
            visit.key.digest or None, idempotency_key(visit.head), callback(visit.head, self._hosts()),
        ), at))  # fmt: skip
        if is_new:
            self._made()
        where = b"location: /v1/jobs/%b\r\npreference-applied: respond-async\r\n" % job.id.encode()
        return Said(job_object(job), 202, where)

    async def get(self, visit: Visit, id_: str) -> Said:
        job: Job = await in_time(self._store.job(visit.tenant, id_))
        return Said(job_object(job, None if job.ended else await in_time(self._eta(job))))

    async def cancel(self, visit: Visit, id_: str) -> Said:
        job = await in_time(self._store.cancel_job(visit.tenant, id_, time.time()))
        self._cancelled()
        return Said(job_object(job))

    def _hosts(self) -> tuple[str, ...]:
        return self.config.jobs.callbacks if self.config.jobs is not None else ()


def _sent_on(lines: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Ready header lines as pairs, without those that the job's own request gets anew."""
    pairs = (line.partition(b": ")[::2] for line in lines.split(b"\r\n") if line)
    return tuple((name, value) for name, value in pairs if name not in _OWN_FIELDS)
