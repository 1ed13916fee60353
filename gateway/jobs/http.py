"""Asynchronous work as clients see it: which request of which path goes where, and the loop that validates batches.

`screen` judges the head of a request under /v1/files, /v1/batches and /v1/jobs; `submit` takes a routed request whose
client prefers an answer later. Both give back what the listener needs and never wait themselves.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.ask import Ask
from gateway.config.types import Config, Key
from gateway.core.errors import BadRequest, HeadwayError
from gateway.intake import Intake
from gateway.jobs.async_requests import AsyncRequests, WaitingOf
from gateway.jobs.base import Store, StoreUnavailable
from gateway.jobs.batches import Batches
from gateway.jobs.desk import Desk, Visit
from gateway.jobs.files import Files
from gateway.jobs.model import Batch, Job
from gateway.jobs.objects import Eta, EtaOf
from gateway.jobs.validate import Validator
from gateway.jobs.wishes import CALLBACK, wants_async
from gateway.records import RequestRecord
from gateway.wire.above import Answering, Sink, Verdict
from gateway.wire.head import RequestHead
from gateway.wire.reply import Reply

_PATH = re.compile(rb"/v1/(files|batches|jobs)(?:/([A-Za-z0-9_-]{1,80})(?:/(content|cancel))?)?")
_LOOK = 1.0  # seconds between looks for batches that others made, or left behind
_PAUSE = 2.0  # seconds a store that failed is left alone
# What each path understands; the last part of a path with an id and a word is that word.
_METHODS: dict[tuple[str, str], tuple[str, ...]] = {
    ("files", ""): ("GET", "POST"),
    ("files", "id"): ("GET", "DELETE"),
    ("files", "content"): ("GET",),
    ("batches", ""): ("GET", "POST"),
    ("batches", "id"): ("GET",),
    ("batches", "cancel"): ("POST",),
    ("jobs", "id"): ("GET", "DELETE"),
}


def _nobody() -> None:
    """Who is told where nobody listens."""


async def _unknown(work: Batch | Job) -> Eta | None:
    return None


def _none(klass: str, model: str) -> int:
    """How many jobs wait where nobody counts."""
    return 0


class JobsApi:
    """One per process; `reconfigure` after a reload. `record` gets one record a request; `made` hears of new work,
    `cancelled` that some of it is to stop.

    `start` begins to validate batches, `stop` ends that and all answers that are still waited for. The store is opened
    and closed by whoever gives it.
    """

    def __init__(self, store: Store, config: Config, intake: Intake, record: Callable[[RequestRecord], None], *,
                 made: Callable[[], None] = _nobody, cancelled: Callable[[], None] = _nobody,
                 eta: EtaOf = _unknown, waiting: WaitingOf = _none):  # fmt: skip
        self._desk = Desk(record)
        self._files = Files(store, self._desk, config)
        self._new_batch = asyncio.Event()
        self._batches = Batches(store, config, intake, self._new_batch.set, cancelled, eta)
        self._requests = AsyncRequests(store, config, made, cancelled, eta, waiting)
        self._made = made
        self._validator = Validator(store, f"validator-{secrets.token_hex(8)}", lambda: self._batches.intake,
                                    lambda: self._files.config.limits.body)  # fmt: skip
        self._validating: asyncio.Task[Any] | None = None

    def reconfigure(self, config: Config, intake: Intake) -> None:
        self._files.config = self._batches.config = self._requests.config = config
        self._batches.intake = intake

    # --- what the front asks -------------------------------------------------------------------------------------

    def screen(self, head: RequestHead, key: Key) -> Verdict | Sink:
        """Who answers a request for files, batches or jobs. Raises BadRequest, and StoreUnavailable."""
        match = _PATH.fullmatch(head.path)
        method = "GET" if head.method == b"HEAD" else head.method.decode("latin-1")
        if match is None:
            raise _no_such_path(head)
        kind, id_, word = (part.decode("ascii") if part else "" for part in match.groups())
        allowed = _METHODS.get((kind, word or ("id" if id_ else "")))
        if allowed is None:
            raise _no_such_path(head)
        if method not in allowed:
            raise BadRequest(f"use {' or '.join(allowed)} here", status=405, code="method_not_allowed")
        coding = head.named.get(b"content-encoding", b"identity").lower()
        if method == "POST" and coding != b"identity":
            raise BadRequest("request bodies must not be compressed", status=415, code="content_encoding")
        visit = self._desk.visit(head, key)
        return {"files": self._for_files, "batches": self._for_batches, "jobs": self._for_jobs}[kind](
            visit, method, id_, word
        )

    def _for_files(self, visit: Visit, method: str, id_: str, word: str) -> Verdict | Sink:
        files, later = self._files, self._desk.later
        if word:
            return later(visit, lambda reply: files.content(visit, id_, reply))
        if id_:
            one = files.delete if method == "DELETE" else files.get
            return later(visit, lambda reply: one(visit, id_))
        return files.upload(visit) if method == "POST" else later(visit, lambda reply: files.list(visit))

    def _for_batches(self, visit: Visit, method: str, id_: str, word: str) -> Verdict | Sink:
        batches, desk = self._batches, self._desk
        if id_:
            one = batches.cancel if word else batches.get
            return desk.later(visit, lambda reply: one(visit, id_))
        if method == "POST":
            return desk.with_body(visit, lambda body: batches.create(visit, body))
        return desk.later(visit, lambda reply: batches.list(visit))

    def _for_jobs(self, visit: Visit, method: str, id_: str, word: str) -> Verdict:
        jobs, later = self._requests, self._desk.later
        if method == "DELETE":
            return later(visit, lambda reply: jobs.cancel(visit, id_))
        return later(visit, lambda reply: jobs.get(visit, id_, reply))

    def wants(self, head: RequestHead, key: Key) -> bool:
        """Whether this routed request is to be answered later; raises BadRequest where its head forbids that."""
        if not wants_async(head):
            if CALLBACK in head.named:
                raise BadRequest("x-headway-callback is for requests with `Prefer: respond-async`",
                                 code="invalid_value", param=CALLBACK.decode())  # fmt: skip
            return False
        self._requests.check(self._desk.visit(head, key))
        return True

    def submit(self, head: RequestHead, ask: Ask, body: bytes, reply: Reply,
               charge: Callable[[], Awaitable[None]]) -> Answering:  # fmt: skip
        """Make a job of a checked request; `body` is as the client wrote it. Answers 202, or with an error.

        `charge` is called once it is known to be wanted; it may refuse it.
        """
        visit = Visit(head, ask.key, ask.request.id)
        visit.bytes_in = len(body)
        return self._desk.begin(visit, reply, lambda: self._requests.submit(visit, ask, body, charge))

    # --- beside the requests -------------------------------------------------------------------------------------

    def start(self) -> None:
        self._validating = asyncio.get_running_loop().create_task(self._validate())

    async def stop(self) -> None:
        if self._validating is not None:
            self._validating.cancel()
            await asyncio.gather(self._validating, return_exceptions=True)
        await self._desk.stop()

    async def _validate(self) -> None:
        """Batches that wait to be validated, one after the other, until cancelled."""
        while True:
            self._new_batch.clear()
            pause = _LOOK
            try:
                if await self._validator.next():
                    self._made()
                    continue
            except StoreUnavailable:
                pause = _PAUSE
            except Exception as error:  # a bug of ours: the batch waits, all others are not to wait with it for ever
                pause = _PAUSE
                context = {"message": "the validation of a batch failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
            try:
                async with asyncio.timeout(pause):
                    await self._new_batch.wait()
            except TimeoutError:
                pass


def _no_such_path(head: RequestHead) -> HeadwayError:
    return BadRequest(f"there is no {head.path.decode('latin-1')[:200]!r} here", status=404, code="unknown_path")
