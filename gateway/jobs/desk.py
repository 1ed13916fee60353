"""Answers about files, batches and jobs: JSON, or an error in OpenAI's shape, and one record each.

Every answer waits for the store, so each is a task that the connection may cancel. The store has a bounded time for
it: a client gets a clear 503 (`jobs_unavailable`, with `Retry-After`) from a store that hangs, not a connection that
hangs. What is answered is the business of `files`, `batches` and `async_requests`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.config.types import Key
from gateway.core.errors import BadRequest, HeadwayError, Refused
from gateway.dialects import OPENAI
from gateway.fields import own_request_id, request_ids
from gateway.grants import TenantLimit
from gateway.jobs.base import StoreUnavailable
from gateway.records import RequestRecord
from gateway.wire.above import Answering, Sink, Unwanted, Verdict
from gateway.wire.head import RequestHead
from gateway.wire.reply import Reply

PATIENCE = 30.0  # seconds that one answer may wait for the store
_BODY = 128 * 1024  # longest JSON body: metadata at its longest, every character escaped, is a little less
_JSON = b"content-type: application/json\r\n"


@dataclass(frozen=True, slots=True)
class Said:
    """An answer: what becomes its JSON, and ready header lines besides the usual ones."""

    value: Any
    status: int = 200
    fields: bytes = b""


Work = Callable[[], Awaitable[Said | None]]
"""Makes an answer, or None where it was written already."""


class Visit:
    """One request: its head, whose it is, and when it came (`at`: Unix time; `received`: monotonic)."""

    __slots__ = ("head", "key", "request_id", "at", "received", "bytes_in", "fields")

    def __init__(self, head: RequestHead, key: Key, request_id: str):
        self.head = head
        self.key = key
        self.request_id = request_id
        self.at = time.time()
        self.received = time.monotonic()
        self.bytes_in = 0
        self.fields = b""  # header lines for its answer, whatever that is

    @property
    def tenant(self) -> str:
        return self.key.tenant


class Desk:
    """`later` and `with_body` make what the listener calls; `record` is told how each request went."""

    def __init__(self, record: Callable[[RequestRecord], None]):
        self._record = record
        self._new_id = request_ids()
        self._tasks: set[asyncio.Task[Any]] = set()

    def visit(self, head: RequestHead, key: Key) -> Visit:
        return Visit(head, key, own_request_id(head) or self._new_id())

    def later(self, visit: Visit, work: Callable[[Reply], Awaitable[Said | None]]) -> Verdict:
        """What answers a request that needs no body."""
        return lambda reply: self.begin(visit, reply, lambda: work(reply))

    def with_body(self, visit: Visit, work: Callable[[bytes], Awaitable[Said]]) -> Sink:
        """What takes a small body and then answers."""
        return _Gathering(self, visit, work)

    def begin(self, visit: Visit, reply: Reply, work: Work) -> Answering:
        return self.spawn(self._answer(visit, reply, work))

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task that is kept until it has ended. Its failure is for whoever awaits it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _answer(self, visit: Visit, reply: Reply, work: Work) -> None:
        try:
            said = await work()
        except asyncio.CancelledError:
            self._note(visit, reply, "client_gone", None)
            raise
        except HeadwayError as error:
            self.fail(visit, reply, error)
        except Exception as error:  # a bug of ours: the client gets a clear 500, the log the trace
            self.fail(visit, reply, HeadwayError("an internal error"))
            asyncio.get_running_loop().call_exception_handler({"message": "a request failed", "exception": error})
        else:
            if said is not None:
                fields = _JSON + b"x-request-id: %b\r\n" % visit.request_id.encode() + visit.fields + said.fields
                reply.send(said.status, fields, msgspec.json.encode(said.value))
            self._note(visit, reply, "complete", None)

    def fail(self, visit: Visit, reply: Reply, error: HeadwayError) -> None:
        """Answer with an error; an answer that has started is broken off instead."""
        if reply.started:
            reply.cut()
        else:
            fields = _JSON + b"x-request-id: %b\r\n" % visit.request_id.encode() + visit.fields
            if error.retry_after is not None:
                fields += b"retry-after: %d\r\n" % max(1, round(error.retry_after))
            elif not error.should_retry and error.status == 429:
                fields += b"x-should-retry: false\r\n"
            if isinstance(error, TenantLimit):
                fields += error.fields
            if isinstance(error, Refused):
                fields += b"x-headway-reason: %b\r\n" % error.code.encode()
            reply.send(error.status, fields, OPENAI.body(error))
        self._note(visit, reply, "rejected", error)

    def _note(self, visit: Visit, reply: Reply, ended: str, error: HeadwayError | None) -> None:
        head = visit.head
        self._record(RequestRecord(
            request_id=visit.request_id, at=visit.at, status=reply.status, ended=ended,
            method=head.method.decode("latin-1"), path=head.path.decode("latin-1"), klass="", tenant=visit.tenant,
            code=error.code if error is not None else "", duration=time.monotonic() - visit.received,
            bytes_in=visit.bytes_in, bytes_out=reply.bytes_out,
        ))  # fmt: skip

    async def stop(self) -> None:
        """Cancel what still goes on, and wait until it has let go."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Gathering(Sink):
    """A body that is small enough to be held."""

    limit = _BODY

    def __init__(self, desk: Desk, visit: Visit, work: Callable[[bytes], Awaitable[Said]]):
        self._desk = desk
        self._visit = visit
        self._work = work
        self._parts: list[bytes] = []

    def begin(self, resume: Callable[[], None]) -> None:
        pass

    def write(self, data: bytes) -> bool:
        self._parts.append(data)
        return True

    def finish(self, reply: Reply) -> Answering | None:
        body = b"".join(self._parts)
        self._visit.bytes_in = len(body)
        return self._desk.begin(self._visit, reply, lambda: self._work(body))

    def abort(self) -> None:
        self._parts.clear()


async def in_time(work: Awaitable[Any]) -> Any:
    """The store's answer, or StoreUnavailable when it takes too long."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await work
    except TimeoutError:
        raise StoreUnavailable("the store of files and jobs does not answer") from None


def unwanted(desk: Desk, visit: Visit, error: HeadwayError) -> Unwanted:
    """What a sink raises when its body turns out wrong half-way."""

    def answer(reply: Reply) -> None:
        desk.fail(visit, reply, error)

    return Unwanted(answer)


def parse_body(body: bytes, kind: type[Any]) -> Any:
    """A JSON body as a struct, in OpenAI's words where it is not one. Raises BadRequest."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _wrong_value(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None


def _wrong_value(text: str) -> BadRequest:
    what, _, where = text.partition(" - at `$")
    param = where.rstrip("`").lstrip(".") or None
    if "unknown field" in what:
        name = what.partition("`")[2].rstrip("`")
        return BadRequest(f"Unknown parameter: '{name}'.", code="unknown_parameter", param=name)
    if "missing required field" in what:
        name = what.partition("`")[2].rstrip("`")
        return BadRequest(f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name)
    return BadRequest(text, code="invalid_value", param=param)
