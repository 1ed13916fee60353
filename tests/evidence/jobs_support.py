"""What the evidence about jobs shares: gateways with a store, a batch and single jobs from outside, and the reckoning.

Clients here do what real ones do: they repeat what was not answered, with an idempotency key where there is one.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.subjects import ROOT, Running, start, stop, wait_until_listening
from tests.evidence.support import configuration, fetch
from tests.support.ports import free_ports

ENDED = ("completed", "failed", "expired", "cancelled")


@contextmanager
def model_server() -> Iterator[str]:
    """The evidence's model server; its URL."""
    command = [sys.executable, "-m", "tests.evidence.jobs_server"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        stop(Running("model server", 0, process))


@dataclass(slots=True)
class Gateway:
    """A gateway with a store of jobs, which may be killed and started again on its port."""

    where: Path
    port: int
    admin: int
    running: Running

    @classmethod
    def made(cls, where: Path, server: str, store: str, interactive: str | None = None, **pool: Any) -> Gateway:
        """The model `m` of the batch is at `server`; with `interactive`, the model `bench` is there."""
        where.mkdir(parents=True, exist_ok=True)
        port, admin = free_ports(2)
        said = configuration(port, admin, [server], "m", engine="http", **pool)
        said["jobs"] = {"store": store}
        if interactive is not None:
            said["pools"]["people"] = {"engine": "vllm", "endpoints": [interactive], "pick": "least_tokens"}
            said["models"]["bench"] = {"to": "people"}
        said["drain"] = {"delay": "0s", "timeout": "10s"}
        file = where / "headway.yaml"
        file.write_text(json.dumps(said, indent=1))
        command = [sys.executable, "-m", "gateway", "serve", "-c", str(file)]
        made = cls(where, port, admin, start("headway", command, port, where))
        wait_until_listening(made.running, where)
        return made

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """kill -9, and collect it."""
        self.running.process.send_signal(signal.SIGKILL)
        self.running.process.wait()

    def again(self) -> None:
        """A new life on the same port, listening."""
        command = [str(part) for part in self.running.process.args]  # type: ignore[union-attr]
        self.running = start("headway", command, self.port, self.where)
        wait_until_listening(self.running, self.where)

    def stop(self) -> None:
        if self.running.process.poll() is None:
            stop(self.running)


def asked(url: str, data: bytes | None = None, patience: float = 60.0, **headers: str) -> Any:
    """The JSON of an answer, asked for again while there is none, or a 503."""
    until = time.monotonic() + patience
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, named), timeout=10.0) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > until:
                raise
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(0.05)


def line(number: int, padding: str = "") -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": f"say {number}{padding}"}]}
    return json.dumps({"custom_id": f"c{number}", "method": "POST", "url": "/v1/chat/completions",
                       "body": body}).encode() + b"\n"  # fmt: skip


def upload(url: str, content: bytes) -> str:
    """A file of lines; its id."""
    edge = b"headway-evidence"
    data = b"".join((
        b'--%b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n' % edge,
        b'--%b\r\ncontent-disposition: form-data; name="file"; filename="in.jsonl"\r\n' % edge,
        b"content-type: application/jsonl\r\n\r\n", content, b"\r\n--%b--\r\n" % edge,
    ))  # fmt: skip
    made = asked(f"{url}/v1/files", data, content_type=f"multipart/form-data; boundary={edge.decode()}")
    return str(made["id"])


def batch_of(url: str, file: str) -> str:
    """A batch of a file; its id."""
    said = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    made = asked(f"{url}/v1/batches", json.dumps(said).encode(), content_type="application/json",
                 idempotency_key="the-batch")  # fmt: skip
    return str(made["id"])


def content(url: str, file: str | None) -> list[dict[str, Any]]:
    """The lines of an output or error file; none for none."""
    if file is None:
        return []
    with urllib.request.urlopen(f"{url}/v1/files/{file}/content", timeout=60.0) as answer:
        return [json.loads(text) for text in answer]


@dataclass(slots=True)
class Singles:
    """A client that submits single jobs, one after the other, until it is stopped."""

    url: str
    every: float
    accepted: dict[str, str] = field(default_factory=dict)  # the idempotency key, and the job's id
    other: int = 0  # a repeated key that gave another job
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._submit, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _submit(self) -> None:
        number = 0
        while not self._stop.wait(self.every):
            key = f"single-{number}"
            body = json.dumps({"model": "m", "messages": [{"role": "user", "content": key}]}).encode()
            for _ in range(2 if number % 10 == 0 else 1):  # one in ten is submitted again
                job = asked(f"{self.url}/v1/chat/completions", body, content_type="application/json",
                            prefer="respond-async", idempotency_key=key)  # fmt: skip
                self.other += self.accepted.setdefault(key, job["id"]) != job["id"]
            number += 1

    def outcome(self, patience: float = 60.0) -> tuple[int, int]:
        """How many of the accepted did not come to their own answer; how many of those are not known any more."""
        until, wrong, gone = time.monotonic() + patience, 0, 0
        for key, id_ in self.accepted.items():
            while True:
                try:
                    job = fetch(f"{self.url}/v1/jobs/{id_}")
                except urllib.error.HTTPError:
                    gone, wrong = gone + 1, wrong + 1
                    break
                if job["status"] in ENDED or time.monotonic() > until:
                    response = job["response"] or {"body": {}}
                    said = response["body"].get("choices", [{"message": {"content": None}}])[0]["message"]["content"]
                    wrong += said != key
                    break
                time.sleep(0.05)
        return wrong, gone


@dataclass(frozen=True, slots=True)
class Reckoning:
    """What became of a batch: what is missing, what is there twice, what failed, and what was executed how often."""

    lost: int
    doubled: int
    failed: int
    wrong: int
    executions: int
    again: int  # executions beyond the first of each
    counted: int  # times the gateways say that they began something again
    stats: Mapping[str, int]


def reckon(gateway: Gateway, server: str, batch: str, items: int) -> Reckoning:
    """Read everything there is to know of a batch that has ended."""
    said = fetch(f"{gateway.url}/v1/batches/{batch}", timeout=30.0)
    good = content(gateway.url, said["output_file_id"])
    bad = content(gateway.url, said["error_file_id"])
    seen = Counter(one["custom_id"] for one in (*good, *bad))
    wrong = sum(one["response"]["body"]["choices"][0]["message"]["content"] != f"say {one['custom_id'][1:]}"
                for one in good)  # fmt: skip
    runs = fetch(f"{server}/runs", timeout=30.0)
    time.sleep(1.5)  # the figures of the store are a second old
    stats = fetch(f"http://127.0.0.1:{gateway.admin}/api/jobs")["since_ever"]
    return Reckoning(
        lost=sum(f"c{number}" not in seen for number in range(items)),
        doubled=sum(count - 1 for count in seen.values()) + sum(said["request_counts"].values()) - 2 * items,
        failed=len(bad), wrong=wrong, executions=sum(runs.values()), again=sum(count - 1 for count in runs.values()),
        counted=stats["repeated"], stats=stats,
    )  # fmt: skip


def wait_for_end(url: str, batch: str, patience: float) -> str:
    """The status a batch comes to; `timeout` where it does not."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        status = str(asked(f"{url}/v1/batches/{batch}")["status"])
        if status in ENDED:
            return status
        time.sleep(0.2)
    return "timeout"
