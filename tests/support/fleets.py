"""Fleets of a few endpoints, and places taken in them, for tests of the fleet itself."""

from __future__ import annotations

import random

from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.types import Decision, Endpoint, Request


def make_endpoint(number: int, limit: int | None = None) -> Endpoint:
    return Endpoint(f"e{number}", f"http://10.0.0.{number}:8000", "pool", "vllm", max_concurrency=limit)


def make_fleet(count: int = 4, limit: int | None = None, fresh: bool = True, **rule_options) -> Fleet:
    fleet = Fleet("pool", Rule(**rule_options), random.Random(1))
    fleet.update([make_endpoint(i, limit) for i in range(count)], 0.0, fresh=fresh)
    return fleet


def make_request(prompt: float = 100.0, output: float = 50.0) -> Request:
    return Request("r", "m", 0.0, prompt_tokens=prompt, output_tokens=output)


def take(fleet: Fleet, row: int, prompt: float = 100.0, output: float = 50.0, cached: float = 0.0, now: float = 0.0):
    return fleet.reserve(Decision(row, "test", cached_tokens=cached), make_request(prompt, output), now)
