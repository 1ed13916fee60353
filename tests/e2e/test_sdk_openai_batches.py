"""The official `openai` client's files and batches, unchanged; and one request answered later."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import openai
import pytest
from openai import OpenAI
from openai.types import Batch

from tests.e2e.stack import ALIAS, KEY, MODEL, OTHER_KEY, Stack

CHAT: Any = "/v1/chat/completions"
PATIENCE = 60.0  # seconds; far more than any of it takes


@pytest.fixture(scope="module")
def client(stack: Stack) -> OpenAI:
    return OpenAI(base_url=f"{stack.gateway}/v1", api_key=KEY, max_retries=0)


def lines(*bodies: dict[str, Any], url: str = CHAT) -> bytes:
    made = ({"custom_id": f"c{n}", "method": "POST", "url": url, "body": body} for n, body in enumerate(bodies, 1))
    return b"".join(json.dumps(line).encode() + b"\n" for line in made)


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 6, **more}


def until(look: Callable[[], Any], is_over: Callable[[Any], bool]) -> Any:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = look()
        if is_over(found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"still {found}")


def ended(client: OpenAI, batch: Batch) -> Batch:
    over = ("completed", "failed", "expired", "cancelled")
    found = until(lambda: client.batches.retrieve(batch.id), lambda batch: batch.status in over)
    assert isinstance(found, Batch)
    return found


def made(client: OpenAI, raw: bytes, **more: Any) -> Batch:
    file = client.files.create(file=("in.jsonl", raw), purpose="batch")
    return client.batches.create(
        **{"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **more}  # type: ignore[arg-type]
    )


def test_a_batch_runs_and_every_line_ends_in_one_of_its_files(client: OpenAI) -> None:
    bodies = [chat(f"question {n}") for n in range(40)]
    bodies[7]["max_tokens"] = -1  # the model server's to refuse
    batch = made(client, lines(*bodies), metadata={"purpose": "test"})
    assert batch.status == "validating" and batch.metadata == {"purpose": "test"}
    batch = ended(client, batch)
    assert batch.status == "completed" and batch.request_counts is not None and batch.usage is not None
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (40, 39, 1)
    assert batch.output_file_id is not None and batch.error_file_id is not None
    output = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    errors = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
    assert sorted(line["custom_id"] for line in output + errors) == sorted(f"c{n}" for n in range(1, 41))
    for line in output:
        assert line["id"].startswith("batch_req_") and line["error"] is None
        assert line["response"]["status_code"] == 200 and line["response"]["request_id"]
        assert line["response"]["body"]["object"] == "chat.completion" and line["response"]["body"]["model"] == MODEL
    assert batch.usage.output_tokens == sum(line["response"]["body"]["usage"]["completion_tokens"] for line in output)
    assert [(line["custom_id"], line["response"]["status_code"]) for line in errors] == [("c8", 400)]
    assert [batch.id for batch in client.batches.list(limit=1).data] == [batch.id]


def test_an_alias_comes_back_as_it_was_spelt_and_other_paths_run_too(client: OpenAI) -> None:
    batch = ended(client, made(client, lines(chat("hi", model=ALIAS), chat("hi"))))
    assert batch.output_file_id is not None
    models = {line["custom_id"]: line["response"]["body"]["model"]
              for line in map(json.loads, client.files.content(batch.output_file_id).text.splitlines())}  # fmt: skip
    assert models == {"c1": ALIAS, "c2": MODEL}
    raw = lines({"model": MODEL, "prompt": "Once", "max_tokens": 4}, url="/v1/completions")
    batch = ended(client, made(client, raw, endpoint="/v1/completions"))
    assert batch.status == "completed" and batch.error_file_id is None


def test_a_file_that_is_wrong_fails_its_batch_with_line_numbers(client: OpenAI) -> None:
    batch = ended(client, made(client, lines(chat("a"), chat("b", model="nobody"), chat("c", stream=True)) + b"{"))
    assert batch.status == "failed" and batch.errors is not None
    assert [(error.line, error.code) for error in batch.errors.data or []] == [
        (2, "model_not_found"), (3, "stream_not_allowed"), (4, "invalid_json_line")
    ]  # fmt: skip


def test_a_batch_is_cancelled_and_what_ran_is_kept(client: OpenAI) -> None:
    batch = made(client, lines(*(chat(f"{n}", max_tokens=400, ignore_eos=True) for n in range(400))))
    until(lambda: client.batches.retrieve(batch.id), lambda batch: batch.status != "validating")
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    batch = ended(client, batch)
    assert batch.status == "cancelled" and batch.request_counts is not None and batch.error_file_id is not None
    assert batch.request_counts.total == 400 == batch.request_counts.completed + batch.request_counts.failed
    codes = {(json.loads(line)["error"] or {}).get("code")
             for line in client.files.content(batch.error_file_id).text.splitlines()}  # fmt: skip
    assert "batch_cancelled" in codes


def test_files_pass_whole_and_belong_to_their_tenant(client: OpenAI, stack: Stack) -> None:
    data = bytes(range(256)) * 150_000  # more than the gateway takes as an ordinary body
    file = client.files.create(file=BytesIO(data), purpose="batch",
                               expires_after={"anchor": "created_at", "seconds": 3600})  # fmt: skip
    assert (file.bytes, file.expires_at) == (len(data), file.created_at + 3600)
    with client.files.with_streaming_response.content(file.id) as answer:
        assert b"".join(answer.iter_bytes()) == data
    assert file.id in {one.id for one in client.files.list(limit=2)}  # pages on by itself
    other = OpenAI(base_url=f"{stack.gateway}/v1", api_key=OTHER_KEY, max_retries=0)
    with pytest.raises(openai.NotFoundError):
        other.files.content(file.id)
    assert not list(other.files.list()) and not list(other.batches.list())
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def ask(stack: Stack, method: str, path: str, body: object = None, key: str = KEY, **fields: str) -> Any:
    """Status, fields and JSON of one plain request; `fields` with underscores for hyphens."""
    named = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    named |= {name.replace("_", "-"): value for name, value in fields.items()}
    data = None if body is None else json.dumps(body).encode()
    try:
        answer = urlopen(Request(stack.gateway + path, data, named, method=method), timeout=30)
    except HTTPError as error:
        answer = error
    with answer:
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, json.loads(answer.read())


def test_a_request_is_answered_later_once(stack: Stack) -> None:
    later = {"prefer": "respond-async", "idempotency_key": "invoice-1"}
    status, fields, _ = ask(stack, "POST", CHAT, chat("later", model=ALIAS), **later)
    assert status == 202 and fields["preference-applied"] == "respond-async"
    where = fields["location"]
    assert ask(stack, "POST", CHAT, chat("later"), **later)[1]["location"] == where
    job = until(lambda: ask(stack, "GET", where)[2], lambda job: job["status"] not in ("queued", "running"))
    assert job["status"] == "completed" and job["response"]["status_code"] == 200
    body = job["response"]["body"]
    assert body["object"] == "chat.completion" and body["model"] == ALIAS
    assert ask(stack, "GET", where, key=OTHER_KEY)[0] == 404


def test_a_job_is_cancelled(stack: Stack) -> None:
    body = chat("long", max_tokens=3000, ignore_eos=True)
    where = ask(stack, "POST", CHAT, body, prefer="respond-async")[1]["location"]
    assert ask(stack, "DELETE", where)[2]["status"] in ("cancelling", "cancelled")
    job = until(lambda: ask(stack, "GET", where)[2], lambda job: job["status"] not in ("cancelling", "running"))
    assert job["status"] == "cancelled" and job["error"]["code"] == "cancelled"
