"""Records of a real gateway before simulated servers, and whether a plan of the same file gives them all again.

Everything that decides is in the file: keys that may use this and not that, classes, conditions on headers, prompts and
streams, splits by weight and by identity, a canary, a rule in shadow, a fallback, a model that is an alias and one that
stands for many names; two pools with policies that compare different things.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.subjects import ROOT, start, stop, wait_until_listening
from tests.evidence.support import fetch, simulators, wait_for
from tests.support.ports import free_ports

KEYS = {name: "sha256:" + hashlib.sha256(name.encode()).hexdigest() for name in ("acme", "globex", "testers")}
MODELS = ("chat", "gpt-4o-mini", "sticky", "rolled", "any-7b", "any-70b", "work", "nowhere")
AT_ONCE = 16


def content(port: int, admin: int, one: Sequence[str], two: Sequence[str], records: Path) -> dict[str, Any]:
    """The configuration."""
    def split(*shares: tuple[str, str, float]) -> list[dict[str, Any]]:
        return [{"arm": arm, "to": to, "weight": weight} for arm, to, weight in shares]

    return {
        "version": 1, "listen": f"127.0.0.1:{port}", "admin": f"127.0.0.1:{admin}",
        "drain": {"delay": "0s", "timeout": "10s"}, "decisions": {"file": str(records)},
        "pools": {"one": {"engine": "vllm", "endpoints": list(one), "pick": "predicted_latency"},
                  "two": {"engine": "vllm", "endpoints": list(two), "pick": "prefix_affinity", "cost": 0.5}},
        "models": {
            "chat": {"aliases": ["gpt-4o-mini"], "slo": {"ttft": "2s"}, "as": "llama-3.1-8b", "routes": [
                {"name": "research", "when": {"header": {"x-team": {"prefix": "res"}}}, "to": "two"},
                {"name": "seen", "when": {"stream": False}, "to": "two", "shadow": True},
                {"name": "long", "when": {"prompt": {"at_least": 300}}, "to": "two", "fallback": ["one"],
                 "cheapest": True},
                {"split": split(("stable", "one", 90), ("next", "two", 10)), "fallback": ["two"]}]},
            "sticky": {"as": "llama-3.1-8b", "routes": [
                {"split": split(("a", "one", 1), ("b", "two", 2)), "sticky": {"header": "x-user"}}]},
            "rolled": {"as": "llama-3.1-8b", "routes": [
                {"name": "roll", "split": [{"arm": "a", "to": "one"}, {"arm": "b", "to": "two"}], "sticky": "session",
                 "canary": {"arm": "b", "steps": ["30%", "100%"], "hold": "1h"}}]},
            "any": {"aliases": ["any-*"], "as": "llama-3.1-8b", "to": "two"},
            "work": {"to": "one", "as": "llama-3.1-8b", "class": "bulk"},
        },
        "classes": {"interactive": {"default": True, "priority": 10}, "bulk": {"priority": 5}},
        "keys": {
            KEYS["acme"]: {"tenant": "acme"},
            KEYS["globex"]: {"tenant": "globex", "models": ["chat", "sticky"], "classes": ["interactive"]},
            KEYS["testers"]: {"tenant": "testers", "arms": ["*"], "classes": ["bulk"]},
        },
    }  # fmt: skip


@contextmanager
def running(where: Path, urls: Sequence[str]) -> Iterator[tuple[int, int, Path]]:
    """The gateway with that file: its port, its admin port, its file."""
    where.mkdir(parents=True, exist_ok=True)
    (port, admin), file = free_ports(2), where / "headway.yaml"
    half = len(urls) // 2
    file.write_text(json.dumps(content(port, admin, urls[:half], urls[half:], where / "records.jsonl"), indent=1))
    process = start("headway", [sys.executable, "-m", "gateway", "serve", "-c", str(file)], port, where)
    try:
        wait_until_listening(process, where)
        wait_for("readiness", lambda: fetch(f"http://127.0.0.1:{admin}/readyz")["status"] == "ready")
        yield port, admin, file
    finally:
        stop(process)


def ask(port: int, number: int) -> int:
    """One request; its status. What it is follows from its number."""
    draws = random.Random(number)
    words = "go on " * draws.choice((5, 40, 400))
    model, tokens, streams = draws.choice(MODELS), draws.randint(1, 6), draws.random() < 0.7
    body = {"model": model, "max_tokens": tokens, "stream": streams, "messages": [{"role": "user", "content": words}]}
    headers = {"Authorization": f"Bearer {draws.choice(tuple(KEYS))}", "Content-Type": "application/json"}
    for name, values in (("x-team", ("research", "sales", None)), ("x-user", ("u1", "u2", "u3", None)),
                         ("x-session-id", ("s1", "s2", "s3", "s4", None)),
                         ("x-headway-class", ("bulk", None, None, None, "nothing")),
                         ("x-headway-arm", ("next", "a", "none", *[None] * 12))):  # fmt: skip
        if (value := draws.choice(values)) is not None:
            headers[name] = value
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.read()
        return error.code


async def ask_all(port: int, count: int) -> list[int]:
    """So many requests, a few at once."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> int:
        async with gate:
            return await asyncio.to_thread(ask, port, number)

    return list(await asyncio.gather(*(one(number) for number in range(count))))


def plan(file: Path, against: str) -> dict[str, Any]:
    """What the verb says of the same file again, as JSON."""
    command = [sys.executable, "-m", "gateway", "plan", str(file), "--old", str(file), "--against", against, "--no-lab",
               "--json"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    if not done.stdout:
        raise SystemExit(f"headway plan said nothing: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def replayed(where: Path, count: int) -> list[dict[str, Any]]:
    """What the plan reproduces, of the file of records and of the running gateway's memory."""
    with (simulators(4, where, 8.0) as sims,
          running(where / "headway", [sim.url for sim in sims]) as (port, admin, file)):  # fmt: skip
        statuses = asyncio.run(ask_all(port, count))
        print(f"  {count} requests: " + ", ".join(f"{statuses.count(one)} x {one}" for one in sorted(set(statuses))))
        live = plan(file, f"http://127.0.0.1:{admin}")
    return [plan(file, str(where / "headway" / "records.jsonl")), live]
