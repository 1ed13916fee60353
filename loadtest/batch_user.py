"""Asynchronous work beside interactive users: batches of exact size, one after another, by OpenAI's files and batches.

Each user uploads a file, makes a batch of it, asks until it has ended, and counts the lines of its output file. Rows of
kind `batch`: `whole batch` is the time from the upload to the end and `line` the time from the batch's start to the end
of each hundredth of its lines, so that its rate is seen while it runs; `lines that failed` are failures. What is under
way when the run time is over is cancelled, and is no whole batch.

Left to others: options and interactive users (`locustfile`).
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from itertools import count
from typing import Any, ClassVar

import gevent  # type: ignore[import-untyped]  # ships no types
from locust import User, task
from locust.runners import WorkerRunner

from loadtest.prompts import PromptMaker
from loadtest.workload import Item

PATH = "/v1/chat/completions"
ENDED = frozenset(("completed", "failed", "expired", "cancelled"))
POLL = 1.0  # seconds
PATIENCE = 45.0  # seconds for one answer
_BOUNDARY = "loadtest-9b1fe2"


def input_file(prompts: PromptMaker, first: int, lines: int, tokens: tuple[int, int], model: str) -> bytes:
    """The lines of a batch; `first` is the number of the first prompt, so that no two prompts are the same."""
    item = Item(0.0, *tokens)
    bodies = (prompts.body(item, first + n, model, PATH, stream=False) for n in range(lines))
    return b"".join(
        b'{"custom_id":"%d","method":"POST","url":"%b","body":%b}\n' % (n, PATH.encode(), body)
        for n, body in enumerate(bodies)
    )


def form(content: bytes) -> tuple[bytes, str]:
    """A multipart body that uploads it for a batch, and its content type."""
    head = (f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="load.jsonl"\r\n\r\n')  # fmt: skip
    return head.encode() + content + f"\r\n--{_BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={_BOUNDARY}"


class BatchUser(User):
    """One batch after another. There are as many of these users as `--batches` says, none without it."""

    fixed_count = 1
    numbers: ClassVar[count[int]] = count()

    def on_start(self) -> None:
        options: Any = self.environment.parsed_options
        self.options = options
        self.fields = {"authorization": f"Bearer {options.api_key}"} if options.api_key else {}
        self.prompts = PromptMaker(options.prompt_seed + 1)
        self.until = time.monotonic() + options.seconds
        runner = self.environment.runner
        self.index = runner.worker_index if isinstance(runner, WorkerRunner) else 0

    @task
    def batch(self) -> None:
        """Upload, create, wait for the end."""
        began = time.monotonic()
        if began >= self.until:
            gevent.sleep(0.2)
            return
        try:
            state = self._watch(self._send())
            if state["status"] == "completed":
                self._check(state)
        except (OSError, ValueError, KeyError) as error:  # an error status is an OSError too
            self._report("whole batch", began, error)
            gevent.sleep(POLL)
            return
        if state["status"] in ENDED:
            wrong = None if state["status"] == "completed" else RuntimeError(state["status"])
            self._report("whole batch", began, wrong)

    def _send(self) -> str:
        """Upload the lines and make a batch of them. Returns its id."""
        lines = self.options.batch_lines
        first = (next(self.numbers) * self.options.workers + self.index) * lines
        prompt, _, output = self.options.batch_tokens.partition(",")
        content = input_file(self.prompts, first, lines, (int(prompt), int(output)), self.options.model)
        file = json.loads(self._ask("/v1/files", *form(content)))
        asked = {"input_file_id": file["id"], "endpoint": PATH, "completion_window": "24h"}
        made: dict[str, Any] = json.loads(self._ask("/v1/batches", json.dumps(asked).encode(), "application/json"))
        return str(made["id"])

    def _check(self, state: dict[str, Any]) -> None:
        """Each line that counts as done is in the output file, once. Raises ValueError."""
        done = state["request_counts"]["completed"]
        content = self._ask(f"/v1/files/{state['output_file_id']}/content") if done else b""
        found = [json.loads(line)["custom_id"] for line in content.splitlines()]
        if not len(found) == len(set(found)) == done:
            raise ValueError(f"{done} lines are done, and the output file has {len(set(found))} in {len(found)} lines")

    def _watch(self, batch_id: str) -> dict[str, Any]:
        """Its last state; what is done meanwhile is reported as it is seen. It is cancelled when time is over."""
        began, done, failed = time.monotonic(), 0, 0
        step = max(1, self.options.batch_lines // 100)
        while True:
            state: dict[str, Any] = json.loads(self._ask(f"/v1/batches/{batch_id}"))
            counts = state["request_counts"]
            for _ in range(counts["completed"] // step - done // step):
                self._report(f"line (x {step})", began, None)
            for _ in range(counts["failed"] - failed):
                self._report("lines that failed", began, RuntimeError("a line failed"))
            done, failed = counts["completed"], counts["failed"]
            if state["status"] in ENDED:
                return state
            if time.monotonic() >= self.until:
                self._ask(f"/v1/batches/{batch_id}/cancel", b"")
                return state
            gevent.sleep(POLL)

    def _ask(self, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        """The body of the answer. Raises OSError where there is none, or an error status."""
        fields = {**self.fields, "content-type": kind} if kind else self.fields
        request = urllib.request.Request((self.host or "").rstrip("/") + path, body, fields)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                found: bytes = answer.read()
        except urllib.error.HTTPError as error:
            said = error.read()[:300].decode("utf-8", "replace")
            raise OSError(f"{path}: {error.code} {said}") from None
        return found

    def _report(self, name: str, began: float, error: Exception | None) -> None:
        self.environment.events.request.fire(
            request_type="batch", name=name, response_time=(time.monotonic() - began) * 1e3, response_length=0,
            exception=error, context={},
        )  # fmt: skip
