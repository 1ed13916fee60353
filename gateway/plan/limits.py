"""Tenants' limits of a configuration, tried on recorded requests in virtual time: who would have been refused.

The idea: the gateway's own `Limiter`, with the record's clock. Each request asks when it came, and is settled when it
ended with what it used; what was expected of its answer then is not recorded, so it is what such answers came to. A
request that was refused when it was recorded is taken to run as long as others of its model and to write as much.

A limit in shadow is tried like the others; whether it refuses or only counts is said with each finding.

Left to others: limits that count across gateways (each record is one gateway's), rules and queues.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count

from gateway.config.types import Config, Key
from gateway.core.errors import BadRequest
from gateway.grants import Grant, TenantLimit
from gateway.limits import Limiter
from gateway.plan.records import Past
from gateway.plan.replay import Judged

TENANT_LIMIT = "tenant_limit"
_MEAN, _SECONDS = 200.0, 5.0  # tokens of an answer and seconds it takes, of which nothing is known


class Wall:
    """The record's clock: Unix seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Denied:
    """One request that does not fit its tenant's limits. `shadow`: it is only counted."""

    past: Past
    tenant: str
    code: str
    why: str
    shadow: bool


def denied(config: Config, judged: Sequence[Judged], old: Config | None = None) -> list[Denied]:
    """Those of the requests that their tenants' limits would not let through, in the order of arrival.

    Where a key's limits are those of `old`, under which the requests were recorded, it is what was recorded.
    """
    wall = Wall()
    before = {key.digest: key.limits for key in old.keys} if old is not None else {}
    enforced = {key.digest: _enforced(key) for key in config.keys}
    limiter = Limiter(replace(config, keys=tuple(enforced.values())), wall=wall)
    usual = {model: _usual([one.past for one in judged if one.past.model == model])
             for model in {one.past.model for one in judged}}  # fmt: skip
    running: list[tuple[float, int, Grant, float, float]] = []
    found, serial = [], count()
    for one in judged:
        past, key = one.past, enforced.get(one.key.digest)
        if key is None or one.key.limits is None or one.way is None or not past.prompt >= 0.0:
            continue
        if not one.key.limits.shadow and before.get(one.key.digest) == one.key.limits:
            if past.code == TENANT_LIMIT:
                found.append(Denied(past, key.tenant, past.code, "over its limits, as recorded", False))
            continue
        while running and running[0][0] <= past.at:
            at, _, grant, prompt, tokens = heappop(running)
            wall.now = at
            grant.settle(prompt, tokens, False, at)
        wall.now = past.at
        mean, seconds = usual[past.model]
        limit = past.route.limit if past.route is not None else None
        expected = mean if limit is None else min(mean, float(limit))
        try:
            grant = limiter.admit(key, past.prompt, expected, limit, past.at)
        except (TenantLimit, BadRequest) as error:
            found.append(Denied(past, key.tenant, error.code, str(error).split(";")[0], one.key.limits.shadow))
            continue
        written = past.completion_tokens if past.completion_tokens >= 0.0 else expected
        lasts = past.duration if past.is_whole and past.duration > 0.0 else seconds
        heappush(running, (past.at + lasts, next(serial), grant, past.prompt, written))
    return found


def _enforced(key: Key) -> Key:
    limits = key.limits
    return key if limits is None or not limits.shadow else replace(key, limits=replace(limits, shadow=False))


def _usual(requests: Iterable[Past]) -> tuple[float, float]:
    """What an answer comes to: tokens on average, and seconds in the middle."""
    whole = [one for one in requests if one.is_whole]
    tokens = [one.completion_tokens for one in whole if one.completion_tokens >= 0.0]
    seconds = [one.duration for one in whole if one.duration > 0.0]
    return (statistics.fmean(tokens) if tokens else _MEAN, statistics.median(seconds) if seconds else _SECONDS)
