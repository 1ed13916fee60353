"""Objects as the official client reads them: every member of OpenAI's, of the right type, ours out of the way."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai.types import Batch as TheirBatch
from openai.types import FileObject

from gateway.jobs.model import Batch, File, Job, LineError, Result, Usage
from gateway.jobs.objects import Eta, batch_object, file_object, job_object

BATCH = Batch("batch_1", "t", "async", "/v1/completions", "file-1", "24h", "validating", 10.9, 20.0)
FULL = Batch(
    "batch_1", "t", "async", "/v1/completions", "file-1", "24h", "expired", 1.0, 2.0, "m", b"k", (("a", "b"),), 3600.0,
    3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, "file-o", "file-e", 5, 3, 2, Usage(10, 4, 20, 2), (LineError("c", "m", 7, "p"),),
    1, 2,
)  # fmt: skip


def as_client(value: Any) -> Any:
    return json.loads(msgspec.json.encode(value))


def test_a_file_is_what_the_client_expects() -> None:
    made = as_client(file_object(File("file-1", "t", "a.jsonl", "batch", 7, 10.9, 20.0)))
    assert FileObject.model_validate(made, strict=True).expires_at == 20
    assert set(made) == {"id", "object", "bytes", "created_at", "expires_at", "filename", "purpose", "status",
                         "status_details"}  # fmt: skip


@pytest.mark.parametrize("batch", [BATCH, FULL])
def test_a_batch_is_what_the_client_expects(batch: Batch) -> None:
    made = as_client(batch_object(batch, Eta(30.6, 25.0, 90.0, 7)))
    theirs = TheirBatch.model_validate(made, strict=True)
    assert theirs.model_extra is not None and set(theirs.model_extra) == {"headway"}
    assert set(TheirBatch.model_fields) <= set(made)
    assert made["headway"]["eta"] == {"at": 31, "low": 25, "high": 90, "ahead": 7}
    assert all(value is None or isinstance(value, int) for name, value in made.items() if name.endswith("_at"))


def test_the_whole_of_a_batch_is_told() -> None:
    made = as_client(batch_object(FULL))
    assert made["request_counts"] == {"total": 5, "completed": 3, "failed": 2}
    assert made["errors"] == {"object": "list", "data": [{"code": "c", "line": 7, "message": "m", "param": "p"}]}
    assert made["usage"]["total_tokens"] == 30 and made["usage"]["input_tokens_details"] == {"cached_tokens": 4}
    assert made["metadata"] == {"a": "b"} and made["headway"] == {"eta": None, "repeated": 1, "displaced": 2}
    assert (as_client(batch_object(BATCH))["metadata"], as_client(batch_object(BATCH))["errors"]) == (None, None)


@pytest.mark.parametrize(
    ("body", "shown"),
    [(b'{"a": 1.50}', {"a": 1.5}), (b"[1]", [1]), (b"plain", "plain"), (b"", ""), (b'{"a": "\xff"}', '{"a": "\ufffd"}'),
     (b"[" * 2000, "[" * 2000)],
)  # fmt: skip
def test_an_answer_stands_in_its_job_as_json_or_as_a_string(body: bytes, shown: Any) -> None:
    job = Job("job_1", "t", "async", "m", "/p", "completed", 1.0, 2.0, result=Result(200, body, request_id="r"))
    assert as_client(job_object(job))["response"] == {"status_code": 200, "request_id": "r", "body": shown}


def test_a_job_without_an_answer_says_why() -> None:
    job = Job("job_1", "t", "async", "m", "/p", "failed", 1.0, 2.0, result=Result(error=("deadline", "too late")))
    made = as_client(job_object(job))
    assert made["response"] is None and made["error"] == {"code": "deadline", "message": "too late"}
