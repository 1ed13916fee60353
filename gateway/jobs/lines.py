"""One line of a batch's output or error file, and the words for items that never ran.

The same bytes whatever the store. The body of an answer goes in as it came, only without the line breaks a JSONL file
cannot hold; one that is not JSON goes in as a JSON string.
"""

from __future__ import annotations

import msgspec

from gateway.jobs.model import Result

CANCELLED = Result(error=("batch_cancelled", "This request was not executed: the batch was cancelled."))
EXPIRED = Result(error=("batch_expired", "This request could not be executed before the completion window expired."))
JOB_CANCELLED = Result(error=("cancelled", "This request was not executed: it was cancelled."))
JOB_EXPIRED = Result(error=("deadline", "This request could not be executed before its deadline."))
POISONED = Result(error=("poisoned", "This request was given up: every worker that ran it stopped without an answer."))


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _Error(msgspec.Struct):
    code: str
    message: str


class _Line(msgspec.Struct):
    id: str
    custom_id: str
    response: _Response | None
    error: _Error | None


def line_id(batch_id: str, line: int) -> str:
    """The id of one line of a batch, the same in every life of the gateway."""
    return f"batch_req_{batch_id.removeprefix('batch_')}{line:05x}"


def output_line(id_: str, custom_id: str, result: Result) -> bytes:
    """The terminal record of an item, with its line break."""
    response = (
        _Response(result.status, result.request_id, msgspec.Raw(_one_line(result.body))) if result.status else None
    )
    error = _Error(*result.error) if result.error else None
    return msgspec.json.encode(_Line(id_, custom_id, response, error)) + b"\n"


def _one_line(body: bytes) -> bytes:
    try:
        body.decode()  # format() does not look inside strings, and one stray byte would spoil the file for its reader
        return msgspec.json.format(body, indent=-1)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.encode(body.decode("utf-8", "replace"))
