"""Recorded requests and a configuration as a setting for the lab: engines, arrivals, ways, promises.

The idea: arrivals and lengths are the records'. Engines are found in the records of their own pool (measured beats
stated), else taken from the pool's `profile`, else from another pool in which one of its endpoints was seen; a pool of
which nothing is known cannot be foreseen, and the plan says so. Where each request may go was decided by the rules.

How long an answer is that was never given (its request was refused) is drawn from those that its model gave to prompts
about as long.

Left to others: fitting and running (the `Lab`), deciding (`replay`), printing (`report`).
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from random import Random

from gateway.config.types import Config, EndpointSpec, Pool
from gateway.core.types import UNKNOWN
from gateway.discovery.base import endpoint_id
from gateway.plan.records import Past
from gateway.plan.replay import Judged
from gateway.plan.values import Call, Engine, FillerRule, Found, Lab, PoolPlan, Reached, Seen, Setting, Turn
from gateway.queues import rules_of

POOR = 0.25  # a mean error of first tokens from which a stated profile is believed rather than the fit
_TOKENS = 200  # of an answer or a prompt of which nothing is known
_LONGEST = 200_000
_NEAR = 15  # answers to prompts next longer and next shorter, of which one stands for an answer that was never given


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What the lab says of one configuration. `blind`: pools of which no engine is known, and why."""

    lines: tuple[Seen, ...]
    reached: tuple[Reached, ...]
    blind: Mapping[str, str]
    engines: Mapping[str, str]


class Forecaster:
    """Runs configurations on the requests of one history. `records` is a file of their lines, `folder` for profiles.

    `requests` in the order of arrival; `old` is the configuration that they were recorded under, where it is known.
    """

    def __init__(self, lab: Lab, requests: Sequence[Past], old: Config | None, records: Path, folder: Path):
        self._lab, self._old = lab, old
        self._records, self._folder = records, folder
        self._found: dict[str, Found] = {}
        self._seen_at = _endpoints_of(requests)
        self._lengths = _Lengths(requests)
        turns = [Turn(p.tenant, p.model, _session(p), p.prompt, p.cached_tokens) for p in requests]
        shared = lab.shared_blocks(turns)
        self._blocks = dict(zip(requests, shared, strict=True))

    def foresee(self, config: Config, judged: Iterable[Judged], refused: AbstractSet[Past],
                seeds: Sequence[int]) -> Foreseen:  # fmt: skip
        """`refused` never come to a pool."""
        going = [one for one in judged if one.way is not None and one.past not in refused]
        wanted = {pool for one in going if one.way is not None for pool in one.way.pools}
        plans, blind, told = [], {}, {}
        for name in config.pools:
            if name not in wanted:
                continue
            found = self._engines(config.pools[name])
            told[name] = found.told
            if found.profile:
                plans.append(self._pool(config.pools[name], found))
            else:
                blind[name] = found.told
        known = {plan.name for plan in plans}
        calls = tuple(self._call(config, one) for one in going
                      if one.way is not None and known.intersection(one.way.pools))  # fmt: skip
        if not calls:
            return Foreseen((), (), blind, told)
        start = calls[0].at
        calls = tuple(call._replace(at=call.at - start) for call in calls)
        rule = next((kind.filler for kind in config.classes.values() if kind.filler is not None), None)
        filler = FillerRule(rule.slowdown, rule.aborts) if rule is not None else None
        setting = Setting(tuple(plans), calls, rules_of(config.classes), filler)
        lines, reached = self._lab.foresee(setting, seeds)
        return Foreseen(tuple(lines), tuple(reached), blind, told)

    # --- pools --------------------------------------------------------------------------------------------------

    def _engines(self, pool: Pool) -> Found:
        own = self._fit(pool.name)
        if own.profile and not own.errors[0] > POOR:
            return own
        if pool.profile is not None:
            return Found(pool.profile, told=f"the pool's profile {Path(pool.profile).name} (its records: {own.told})")
        if own.profile:
            return own
        for name in (_id_of(spec) for spec in pool.endpoints):
            for other in self._seen_at.get(name, ()):
                if other != pool.name and (found := self._fit(other)).profile:
                    return found
        return own

    def _fit(self, pool: str) -> Found:
        if pool not in self._found:
            self._found[pool] = self._lab.fitted(self._records, pool, self._folder)
        return self._found[pool]

    def _pool(self, pool: Pool, found: Found) -> PoolPlan:
        limits = {_id_of(spec): spec.max_concurrency or 0 for spec in pool.endpoints}
        names = list(limits) or sorted(name for name, pools in self._seen_at.items() if pool.name in pools)
        engines = tuple(Engine(found.own.get(name, found.profile), found.chunk, limit=limits.get(name, 0), name=name)
                        for name in names)  # fmt: skip
        return PoolPlan(pool.name, engines, pool.pick.policy, dict(pool.pick.options), found.profile,
                        pool.max_concurrency, pool.scrape.every, found.overhead)  # fmt: skip

    # --- requests -----------------------------------------------------------------------------------------------

    def _call(self, config: Config, one: Judged) -> Call:
        past, way, model = one.past, one.way, one.model
        assert way is not None and model is not None and past.route is not None
        filler = config.classes[one.klass].filler is not None
        ttft, tpot = (UNKNOWN, UNKNOWN) if filler else self._promised(past, model.slo.ttft, model.slo.tpot)
        prompt, output = self._lengths.of(past)
        blocks = self._blocks[past] if past.prompt > 0.0 else ()
        arm = f"{way.rule} {way.arm}".strip() if len(model.routes) > 1 or way.arm else ""
        return Call(past.at, prompt, output, model.name, way.pools, way.after, arm, one.klass, past.tenant,
                    _session(past), past.stream, ttft, tpot, past.route.prompt_tokens, filler, blocks)  # fmt: skip

    def _promised(self, past: Past, ttft: float | None, tpot: float | None) -> tuple[float, float]:
        """The model's promise, or what the client asked for where that is tighter (told from the old promise)."""
        before = self._old.models.get(past.model) if self._old is not None else None
        if before is None:
            return _or_unknown(ttft), _or_unknown(tpot)
        pairs = ((ttft, past.ttft_slo, before.slo.ttft), (tpot, past.tpot_slo, before.slo.tpot))
        first, each = (_tighter(_or_unknown(now), own, _or_unknown(then)) for now, own, then in pairs)
        return first, each


class _Lengths:
    """Tokens of prompts and answers; drawn from those of the model where a request has none."""

    def __init__(self, requests: Sequence[Past]):
        self._random = Random("lengths that were never known")
        self._outputs: dict[str, list[tuple[float, float]]] = {}  # (prompt, answer), by the prompt
        for past in requests:
            if past.is_whole and past.completion_tokens >= 1.0 and past.prompt >= 1.0:
                self._outputs.setdefault(past.model, []).append((past.prompt, past.completion_tokens))
        for pairs in self._outputs.values():
            pairs.sort()
        prompts = [past.prompt for past in requests if past.prompt >= 1.0]
        self._prompt = statistics.median(prompts) if prompts else float(_TOKENS)
        self._drawn: dict[Past, int] = {}

    def of(self, past: Past) -> tuple[int, int]:
        """The same for the same request, whoever asks."""
        prompt = past.prompt if past.prompt >= 1.0 else self._prompt
        known = past.completion_tokens >= 1.0 and (past.is_whole or past.id.startswith("trace-"))
        output = int(past.completion_tokens) if known else self._output(past)
        return min(_LONGEST, max(1, round(prompt))), min(_LONGEST, max(1, output))

    def _output(self, past: Past) -> int:
        if past not in self._drawn:
            seen = self._outputs.get(past.model) or [(0.0, float(_TOKENS))]
            limit = past.route.limit if past.route is not None else None
            at = bisect_left(seen, (past.prompt, 0.0)) if past.prompt >= 1.0 else self._random.randrange(len(seen))
            drawn = self._random.choice(seen[max(0, at - _NEAR) : at + _NEAR])[1]
            self._drawn[past] = int(drawn if limit is None else min(drawn, limit))
        return self._drawn[past]


def _id_of(spec: EndpointSpec) -> str:
    """What an endpoint of the file is called in records."""
    return spec.id or endpoint_id(spec.url)


def _endpoints_of(requests: Iterable[Past]) -> dict[str, set[str]]:
    """The pools in which each endpoint was seen."""
    found: dict[str, set[str]] = {}
    for past in requests:
        for name in {past.chosen, *(one.endpoint for one in past.candidates)} - {""}:
            found.setdefault(name, set()).add(past.pool)
    return found


def _session(past: Past) -> str:
    return past.route.session if past.route is not None else ""


def _or_unknown(value: float | None) -> float:
    return UNKNOWN if value is None else value


def _tighter(now: float, own: float, then: float) -> float:
    """`own` was promised when `then` was the model's: less than that only because the client asked for it."""
    is_asked = own == own and not own >= then * (1.0 - 1e-9)
    return own if is_asked and not now < own else now if now == now else math.nan
