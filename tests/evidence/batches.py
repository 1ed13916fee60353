"""A batch for the evidence: made, uploaded, watched and cancelled over HTTP, as any client would."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loadtest.prompts import PromptMaker
from loadtest.workload import Item
from tests.evidence.support import MODEL, fetch

PATH = "/v1/chat/completions"
_BOUNDARY = "evidence-7d1f3c"


def lines(count: int, prompt_tokens: int, output_tokens: int, seed: int = 0, model: str = MODEL) -> Iterator[bytes]:
    """The lines of an input file; no two prompts share a prefix."""
    maker, item = PromptMaker(seed), Item(0.0, prompt_tokens, output_tokens)
    for number in range(count):
        body = maker.body(item, number, model, PATH, stream=False)
        yield b'{"custom_id":"%d","method":"POST","url":"%b","body":%b}\n' % (number, PATH.encode(), body)


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch at a gateway."""

    url: str
    id: str

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = fetch(f"{self.url}/v1/batches/{self.id}")
        return found

    def cancel(self) -> None:
        """Stop it, if it still runs."""
        try:
            fetch(f"{self.url}/v1/batches/{self.id}/cancel", {})
        except urllib.error.HTTPError as answer:
            if answer.code != 409:  # it has ended
                raise

    def wait_until(self, status: str, patience: float) -> dict[str, Any]:
        """Its state once it has this status (or has ended otherwise, or the time is over)."""
        until = time.monotonic() + patience
        while True:
            state = self.state()
            ended = state["status"] in ("completed", "failed", "expired", "cancelled")
            if state["status"] == status or ended or time.monotonic() > until:
                return state
            time.sleep(0.2)

    def content(self, which: str) -> Iterator[dict[str, Any]]:
        """The lines of its `output_file_id` or `error_file_id`; none where there is no such file."""
        file_id = self.state()[which]
        if file_id is not None:
            with urllib.request.urlopen(f"{self.url}/v1/files/{file_id}/content", timeout=60) as answer:
                for line in answer:
                    yield json.loads(line)


def upload(url: str, content: bytes) -> str:
    """The id of a new input file."""
    head = (f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="in.jsonl"\r\n'
            "content-type: application/jsonl\r\n\r\n")  # fmt: skip
    body = head.encode() + content + f"\r\n--{_BOUNDARY}--\r\n".encode()
    fields = {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/files", body, fields), timeout=120) as answer:
        return str(json.loads(answer.read())["id"])


def submit(url: str, content: bytes) -> Batch:
    """A batch of these lines, created."""
    asked = {"input_file_id": upload(url, content), "endpoint": PATH, "completion_window": "24h"}
    fields = {"content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/batches", json.dumps(asked).encode(), fields)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return Batch(url, str(json.loads(answer.read())["id"]))
