"""Runs one piece of durable work as the request it is, and says how it went in the dispatcher's three words.

A job goes the way every request goes (intake, limits, admission, picking, relay), under its own class; only its
answer is collected instead of sent. How it went: `Done` (there is a terminal record to write), `Again` (try later;
`counted` if something was tried and failed) or `GaveWay` (it was stopped to make room for others).

A client error is final at once: the same bytes would be refused again. So is an answer that is too large to keep. What
the gateway refuses for now, and a fleet that is away, cost no try; the deadline bounds them. `whose` tells whom "not
now" was said to: this piece of work, everything of its tenant, or everything for its model.

Left to others: when to try again (`retry`), who waits meanwhile (`gate`), leases (`dispatcher`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, nan
from typing import Literal, Protocol

import msgspec

from gateway.answers import TryFailed
from gateway.config.types import Key
from gateway.core.errors import BadRequest, HeadwayError, NoEndpoint, Refused, UpstreamError
from gateway.jobs.collected import Collected
from gateway.jobs.lines import EXPIRED
from gateway.jobs.model import Claim, Result, Usage
from gateway.jobs.retry import FAILURES, SATURATED

Whose = Literal["item", "tenant", "model"]

# Answers of a model server that say "not now" and not "never": too early, too many, conflict, its own time-out.
_NOT_NOW = frozenset((408, 409, 425, 429))
_OF_A_LINE = ((b"content-type", b"application/json"),)  # a line of a batch has no header fields of its own


@dataclass(frozen=True, slots=True)
class Done:
    """It has ended, well or not."""

    result: Result


@dataclass(frozen=True, slots=True)
class Again:
    """Not now. `after`: seconds that somebody asked to wait, NaN if nobody did. `result`: how it ends if never.

    `most` is the try (from 1) after which it has ended, 0 where this does not count as one.
    """

    after: float
    most: int
    whose: Whose
    result: Result


@dataclass(frozen=True, slots=True)
class GaveWay:
    """Stopped in the middle to make room; what was done is lost."""


End = Done | Again | GaveWay


class Performer(Protocol):
    """Sends a job's request on its way (the front does)."""

    def key_of(self, digest: bytes | None, tenant: str) -> Key | None: ...

    async def perform(self, path: str, body: bytes, fields: tuple[tuple[bytes, bytes], ...], key: Key, klass: str,
                      request_id: str, deadline: float, reply: Collected, sent: Callable[[], None],
                      aborted: int) -> None:  # fmt: skip
        """Raises a HeadwayError where there is no answer. `deadline` is monotonic, NaN for none.

        `aborted`: how often it was stopped to make room; there is an end to that (`filler.aborts`).
        """
        ...


class Executor(Protocol):
    """Runs one piece of work. `sent` is called when it has got its turn."""

    async def run(self, claim: Claim, klass: str, sent: Callable[[], None]) -> End: ...


class Execution(Executor):
    """`performer` gives the one in use now: a reload makes a new one."""

    def __init__(self, performer: Callable[[], Performer]):
        self._performer = performer

    async def run(self, claim: Claim, klass: str, sent: Callable[[], None]) -> End:
        """Run it as a request of this class; `sent` is called with its turn. A cancel ends it upstream at once."""
        performer = self._performer()
        # What was accepted is done, also where its key has been taken away since, or runs as a better class in the end.
        key = performer.key_of(claim.key_digest, claim.tenant) or Key(b"", claim.tenant)
        key = dataclasses.replace(key, classes=None)
        left = claim.deadline - time.time()
        deadline = time.monotonic() + left if isfinite(left) else nan
        reply = Collected()
        try:
            fields = claim.fields if claim.batch_id is None else _OF_A_LINE
            await performer.perform(claim.path, claim.body, fields, key, klass, claim.id, deadline, reply, sent,
                                    claim.displaced)  # fmt: skip
        except HeadwayError as error:
            return _failed(error, claim)
        except Exception as error:  # a bug of ours: it must not look as if the whole process had vanished
            context = {"message": "a job's request failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
            result = Result(error=("internal_error", "an internal error"), request_id=claim.id)
            return Again(nan, FAILURES, "item", result)
        return _answered(reply, claim.id)


def _answered(reply: Collected, request_id: str) -> End:
    if reply.too_large:
        return Done(Result(error=("answer_too_large", "the answer is too large to be kept"), request_id=request_id))
    if not reply.whole:
        result = Result(error=("upstream_failed", "the answer broke off"), request_id=request_id)
        return Again(nan, FAILURES, "item", result)
    body, kind = reply.body, _content_type(reply.fields)
    result = Result(reply.status, body, kind, request_id, usage_of(body) if reply.status == 200 else Usage())
    if reply.status not in _NOT_NOW:
        return Done(result)
    return Again(nan, SATURATED, "model", result) if reply.status == 429 else Again(nan, FAILURES, "item", result)


def _failed(error: HeadwayError, claim: Claim) -> End:
    request_id = claim.id
    result = Result(error=(error.code, error.message), request_id=request_id)
    if error.code == "model_not_found":
        # It was there when the work was accepted: a reload took it away, and the next one may bring it back.
        return Again(nan, 0, "model", result)
    if isinstance(error, BadRequest):
        return Done(Result(error.status, _as_body(error), "application/json", request_id))
    after = error.retry_after if error.retry_after is not None else nan
    if isinstance(error, Refused):
        if not error.should_retry and not isinstance(error, NoEndpoint):
            is_late = error.reason == "deadline" and claim.batch_id is not None
            return Done(EXPIRED if is_late else result)  # in the word that a batch has for it
        return Again(after, 0, "tenant" if error.reason == "tenant_limit" else "model", result)
    if not isinstance(error, UpstreamError):
        return Again(after, FAILURES, "item", result)
    if error.cause == "displaced":
        return GaveWay()
    if isinstance(error, TryFailed) and error.answer is not None:  # the engine's own last word
        status, fields, body = error.answer
        named = dict(fields)
        kind = named.get(b"content-type", b"application/json").decode("latin-1")
        result = Result(status, body, kind, request_id)
        after = _seconds(named.get(b"retry-after", b""))
    if error.cause == "saturated":
        return Again(after, SATURATED, "model", result)
    if error.cause == "stopping":  # we are
        return Again(after, 0, "item", result)
    return Again(after, FAILURES, "item", result) if error.sent else Again(after, 0, "model", result)


def _seconds(said: bytes) -> float:
    """A `Retry-After` in seconds; NaN for none, and for a date."""
    return float(said) if said.isdigit() and len(said) < 8 else nan


def _as_body(error: HeadwayError) -> bytes:
    return msgspec.json.encode({"error": {
        "message": error.message, "type": "invalid_request_error", "code": error.code, "param": error.param,
    }})  # fmt: skip


def _content_type(fields: bytes) -> str:
    for line in fields.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-type":
            return value.strip().decode("latin-1")
    return "application/json"


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Counts(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    input_tokens: int | None = None
    completion_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Answer(msgspec.Struct, gc=False):
    usage: _Counts | None = None


_MOST_TOKENS = 1 << 40  # of one answer that anybody may claim: sums of it fit into every store
_decode = msgspec.json.Decoder(_Answer).decode


def usage_of(body: bytes) -> Usage:
    """The token counts of an answer in any of the shapes the paths have; zeros where it tells none."""
    try:
        counts = _decode(body).usage
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Usage()
    if counts is None:
        return Usage()
    given = counts.prompt_tokens_details or counts.input_tokens_details or _Details()
    made = counts.completion_tokens_details or counts.output_tokens_details or _Details()
    said = (counts.prompt_tokens or counts.input_tokens, given.cached_tokens,
            counts.completion_tokens or counts.output_tokens, made.reasoning_tokens)  # fmt: skip
    return Usage(*(min(max(0, tokens or 0), _MOST_TOKENS) for tokens in said))
