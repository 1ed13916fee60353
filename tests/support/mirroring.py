"""Mirrors in front of a running gateway's proxy, and requests to be copied."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from gateway.ask import Ask
from gateway.config.types import Arm, Config, Mirror, Model, Route
from gateway.intake import ANYONE
from gateway.mirrors.mirrors import Copy, Mirrors
from gateway.peek import rewrite
from gateway.records import RequestRecord
from gateway.wire.head import RequestHead
from tests.support.client import chat
from tests.support.gateway import Running

PATH = "/v1/chat/completions"
RULE = "routes[0]"


def mirrored(to: str = "shadow", share: float = 1.0, as_: str | None = None, concurrency: int = 8,
             **more: Any) -> Model:  # fmt: skip
    """Model `m` of pool `p`, with a mirror."""
    mirror = Mirror(to, share, as_, concurrency)
    return Model("m", (Route((Arm("", "p"),), mirror=mirror),), **more)


class Rig:
    """`offer` copies a request as the front would; `counted` is the metric."""

    def __init__(self, running: Running, config: Config, free: float = 1e9):
        self.counted: Counter[str] = Counter()
        self.bugs: list[BaseException] = []
        self.running = running
        self.free = free
        self.mirrors = Mirrors(running.gateway.proxy, self._count, lambda: self.free, self.bugs.append, Random(1))
        self.mirrors.reconfigure(config)

    def _count(self, model: str, pool: str, outcome: str) -> None:
        assert (model, pool) == ("m", "shadow")
        self.counted[outcome] += 1

    def ask(self, body: bytes = chat(), request_id: str = "r1") -> Ask:
        head = RequestHead.made(PATH.encode(), ((b"content-type", b"application/json"),))
        return self.running.gateway.front.intake.of_job(head, body, ANYONE, "interactive", request_id, float("nan"))

    def offer(self, body: bytes = chat(), request_id: str = "r1") -> Copy | None:
        ask = self.ask(body, request_id)
        return self.mirrors.offer(ask, RULE, lambda name: (rewrite(ask.body, {"model": name}), ask.target))

    def copy(self, body: bytes = chat(), request_id: str = "r1") -> Copy:
        found = self.offer(body, request_id)
        assert found is not None
        return found


def record(status: int = 200, ended: str = "complete", tokens: float = 2.0, **more: Any) -> RequestRecord:
    """What the original came to."""
    return RequestRecord("r1", 0.0, status, ended, model="m", pool="p", completion_tokens=tokens, tries=1, **more)
