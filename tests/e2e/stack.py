"""A gateway and simulated model servers as processes of their own, and a way to compare what clients see of both.

The idea of the comparison: a step is a function of an SDK's client. It is taken twice, once with a client that talks to
a simulated server and once with one that talks to the gateway in front of two of them, and what it returns, or raises,
must be the same but for what is different in every answer: ids, times, and the words.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[2]
MODEL = "llama-3.1-8b"
ALIAS = "gpt-4o-mini"
KEY = "sk-client"
OTHER_KEY = "sk-other"  # of another tenant
ENGINE_KEY = "sk-engine"

# Different in each answer and of no meaning to a client, or (the texts) only as long as they are.
_VOLATILE = {"id", "item_id", "created", "created_at", "completed_at", "request_id", "_request_id"}
_TEXTS = {"text", "content", "delta"}

Client = TypeVar("Client")


@dataclass(frozen=True, slots=True)
class Stack:
    """Where things listen: the gateway's two listeners, and the model servers behind it."""

    gateway: str
    admin: str
    servers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Both(Generic[Client]):
    """One client for a model server, one for the gateway."""

    direct: Client
    through: Client

    def same(self, step: Callable[[Client], Any]) -> Any:
        """Take the step both ways, compare, and return what came through the gateway."""
        directly, through = step(self.direct), step(self.through)
        assert neutral(through) == neutral(directly)
        return through

    def same_error(self, step: Callable[[Client], Any]) -> Any:
        """Both ways must raise, the same class; returns what was raised through the gateway, and directly."""
        raised = []
        for client in (self.through, self.direct):
            try:
                got = step(client)
            except Exception as error:
                raised.append(error)
            else:
                raise AssertionError(f"no error but {got!r}")
        through, direct = raised
        assert type(through) is type(direct), (through, direct)
        return through, direct


@contextmanager
def fault(stack: Stack, **wanted: Any) -> Iterator[None]:
    """Every model server behind the gateway has this fault meanwhile."""

    def tell(what: dict[str, Any]) -> None:
        for server in stack.servers:
            with urlopen(f"{server}/sim/fault", json.dumps(what).encode(), timeout=30):
                pass

    tell(wanted)
    try:
        yield
    finally:
        tell({"kind": wanted["kind"], "clear": True})


def neutral(value: Any) -> Any:
    """A value without what is different in every answer; a text becomes the number of its words."""
    if hasattr(value, "model_dump"):
        return type(value).__name__, neutral(value.model_dump())
    if isinstance(value, dict):
        return {
            name: type(item).__name__ if name in _VOLATILE
            else len(item.split()) if name in _TEXTS and isinstance(item, str)
            else neutral(item)
            for name, item in value.items()
        }  # fmt: skip
    if isinstance(value, list | tuple):
        return [neutral(item) for item in value]
    return value


@contextmanager
def program(*words: str) -> Iterator[subprocess.Popen[str]]:
    """`headway WORDS`, stopped at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", *words], cwd=ROOT, stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        assert process.stdout is not None
        process.stdout.read()
        process.wait()
        process.stdout.close()


def read_until(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """The first line of its output that the pattern finds."""
    told = []
    assert process.stdout is not None
    for line in process.stdout:
        told.append(line)
        found = re.search(pattern, line)
        if found:
            return found
    raise AssertionError("".join(told))


@contextmanager
def stack(where: Path) -> Iterator[Stack]:
    """Two servers that want a key, and a gateway with keys of its own, an alias and jobs in front of them."""
    words = ("sim", "--profile", "h100_llama-3.1-8b_bf16_tp1", "--count", "2", "--speed", "20")
    with program(*words, "--mean-output", "20", "--api-key", ENGINE_KEY) as sim:
        servers = tuple(read_until(sim, r"(http://\S+) model=")[1] for _ in range(2))
        file = where / "gateway.yaml"
        file.write_text(
            f"""version: 1
listen: 127.0.0.1:0
admin: 127.0.0.1:0
drain: {{delay: 0s, timeout: 1s}}
log: {{level: warning}}
pools:
  main: {{engine: vllm, endpoints: [{", ".join(servers)}], api_key: {ENGINE_KEY}}}
models:
  {MODEL}: {{to: main, aliases: [{ALIAS}]}}
keys:
  {KEY}: {{tenant: tests}}
  {OTHER_KEY}: {{tenant: others}}
jobs: {{store: "sqlite:jobs.db"}}
"""
        )
        with program("serve", "-c", str(file)) as gateway:
            found = read_until(gateway, r"serving (http://\S+), admin (http://\S+),")
            yield Stack(found[1], found[2], servers)
