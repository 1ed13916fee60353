"""Files, batches and jobs as clients see them: OpenAI's objects, and one of our own where OpenAI has none.

What is ours in OpenAI's objects stands under `headway`, where no client looks by accident: when a batch is expected to
end, how often a line was begun again, and how often it gave its place to interactive traffic.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec

from gateway.jobs.model import Batch, File, Job, Result, Usage


class Eta(NamedTuple):
    """When something is expected to end (wall clock), and the interval in which it does so nine times of ten.

    `ahead`: requests that will have ended by then, its own among them.
    """

    at: float
    low: float
    high: float
    ahead: int


EtaOf = Callable[[Batch | Job], Awaitable[Eta | None]]


def _moment(at: float | None) -> int | None:
    return None if at is None else int(at)


def file_object(file: File) -> dict[str, Any]:
    return {
        "id": file.id, "object": "file", "bytes": file.bytes, "created_at": int(file.created_at),
        "expires_at": _moment(file.expires_at), "filename": file.filename, "purpose": file.purpose,
        "status": "processed", "status_details": None,
    }  # fmt: skip


def deleted_file(id_: str) -> dict[str, Any]:
    return {"id": id_, "object": "file", "deleted": True}


def batch_object(batch: Batch, eta: Eta | None = None) -> dict[str, Any]:
    errors = [{"code": e.code, "line": e.line, "message": e.message, "param": e.param} for e in batch.errors]
    return {
        "id": batch.id, "object": "batch", "endpoint": batch.endpoint, "model": batch.model or None,
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_file_id": batch.input_file_id, "completion_window": batch.window, "status": batch.status,
        "output_file_id": batch.output_file_id, "error_file_id": batch.error_file_id,
        "created_at": int(batch.created_at), "in_progress_at": _moment(batch.in_progress_at),
        "expires_at": int(batch.expires_at), "finalizing_at": _moment(batch.finalizing_at),
        "completed_at": _moment(batch.completed_at), "failed_at": _moment(batch.failed_at),
        "expired_at": _moment(batch.expired_at), "cancelling_at": _moment(batch.cancelling_at),
        "cancelled_at": _moment(batch.cancelled_at),
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": _usage(batch.usage), "metadata": None if batch.metadata is None else dict(batch.metadata),
        "headway": {"eta": _eta(eta), "repeated": batch.repeated, "displaced": batch.displaced},
    }  # fmt: skip


def job_object(job: Job, eta: Eta | None = None) -> dict[str, Any]:
    result = job.result
    return {
        "id": job.id, "object": "job", "status": job.state, "path": job.path, "model": job.model or None,
        "class": job.klass, "created_at": int(job.created_at), "started_at": _moment(job.started_at),
        "ended_at": _moment(job.ended_at), "deadline": int(job.deadline), "eta": _eta(eta), "callback": job.callback,
        "tries": job.tries, "repeated": job.repeated, "displaced": job.displaced,
        "response": _response(result) if result is not None and result.status else None,
        "error": _error(result.error) if result is not None and result.error is not None else None,
    }  # fmt: skip


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens, "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens, "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }  # fmt: skip


def _eta(eta: Eta | None) -> dict[str, int] | None:
    return None if eta is None else {
        "at": round(eta.at), "low": round(eta.low), "high": round(eta.high), "ahead": eta.ahead,
    }  # fmt: skip


def _error(error: tuple[str, str]) -> dict[str, str]:
    return {"code": error[0], "message": error[1]}


def _response(result: Result) -> dict[str, Any]:
    return {"status_code": result.status, "request_id": result.request_id, "body": _embedded(result.body)}


def _embedded(body: bytes) -> msgspec.Raw:
    """An answer's body as it came where it is JSON, so that no figure of it changes; else as a string."""
    try:
        body.decode("utf-8")  # the decoder below does not look inside strings
        msgspec.json.decode(body, type=msgspec.Raw)
        return msgspec.Raw(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.Raw(msgspec.json.encode(body.decode("utf-8", "replace")))
