"""A world in which a plan can be found right or wrong: engines that it does not know, and records that it does.

The idea: configurations are real files, read by the real loader; rules are asked as the gateway asks them; the engines
behind the endpoints are known here only. A run of the old file writes decision records as the gateway does, which is
all that the plan is given. A run of a changed file, with the same requests and the true engines, is what it must have
said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from backends.sim.generation import Generation
from backends.sim.profiles import FILE
from gateway.config.loader import load
from gateway.config.types import Config
from gateway.core.snapshot import Snapshot
from gateway.core.types import UNKNOWN, Decision
from gateway.decisions import DecisionRing, describe
from gateway.plan.records import Past, Route
from gateway.plan.replay import Judged, Replay
from gateway.plan.values import Call, Engine, PoolPlan, Setting
from gateway.queues import rules_of
from gateway.records import Candidates, Forecast, RequestRecord, Routed, Work
from loadtest.lab.foresight import Measured, measured
from loadtest.lab.gate import Gate
from loadtest.lab.router import Flight
from loadtest.lab.several import Several
from loadtest.workload import Item
from policies.picking import create

BEGAN = 1_700_000_000.0
GOLDEN = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class World:
    """`engines` by endpoint (host:port), `requests` in the order of arrival: whose model, and what it is like."""

    engines: Mapping[str, Engine]
    requests: Sequence[tuple[str, Item]]
    headers: Sequence[Mapping[str, str]] = field(default=())


def true_profile(folder: Path, name: str, like: str, **factors: float) -> str:
    """A profile file that is nobody's: `like` with some of its coefficients multiplied."""
    row = json.loads(FILE.read_text(encoding="utf-8"))["profiles"][like]
    known = {key: value for key, value in row.items() if key != "about"}
    changed = {key: value * factors.get(key, 1.0) if key in factors else value for key, value in known.items()}
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**changed, "name": name}), encoding="utf-8")
    return str(path)


def config_of(folder: Path, name: str, content: Mapping[str, Any]) -> Config:
    """The configuration as the loader has it (JSON is YAML)."""
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return load(path, {}).config


class Asked:
    """The requests of a world as if they had been recorded, with nothing known but what was asked."""

    def __init__(self, world: World, config: Config):
        self.config, self.world = config, world
        golden = (0.37 + GOLDEN * np.arange(1, len(world.requests) + 1)) % 1.0
        self.pasts = [self._past(at, name, item, drawn) for at, ((name, item), drawn)
                      in enumerate(zip(world.requests, golden.tolist(), strict=True))]  # fmt: skip

    def _past(self, number: int, name: str, item: Item, drawn: float) -> Past:
        headers = self.world.headers[number] if self.world.headers else {}
        route = Route(name, drawn=drawn, path="/v1/chat/completions", session=item.session, headers=headers,
                      prompt_tokens=float(item.prompt_tokens))  # fmt: skip
        slo = self.config.models[name].slo
        return Past(f"r{number}", BEGAN + item.at, name, klass="interactive", tenant=item.tenant or "anonymous",
                    ttft_slo=slo.ttft or UNKNOWN, tpot_slo=slo.tpot or UNKNOWN, route=route)  # fmt: skip

    def setting(self) -> tuple[Setting, list[Judged]]:
        """The world under this configuration, with the engines as they are."""
        replay = Replay(self.config)
        judged = [replay.judge(past) for past in self.pasts]
        assert all(one.way is not None for one in judged)
        pools = tuple(self._pool(name) for name in self.config.pools)
        return Setting(pools, tuple(map(self._call, judged)), rules_of(self.config.classes)), judged

    def _pool(self, name: str) -> PoolPlan:
        pool = self.config.pools[name]
        names = [spec.url.partition("://")[2] for spec in pool.endpoints]
        engines = tuple(replace(self.world.engines[at], name=at) for at in names)
        return PoolPlan(name, engines, pool.pick.policy, dict(pool.pick.options), "", pool.max_concurrency,
                        pool.scrape.every)  # fmt: skip

    def _call(self, one: Judged) -> Call:
        past, way = one.past, one.way
        assert way is not None and one.model is not None
        item = self.world.requests[int(past.id[1:])][1]
        return Call(item.at, item.prompt_tokens, item.output_tokens, one.model.name, way.pools, way.after, way.rule,
                    one.klass, past.tenant, item.session, True, past.ttft_slo, past.tpot_slo, float(item.prompt_tokens),
                    False, item.blocks)  # fmt: skip


class Recording(Several):
    """A run that writes what the gateway would."""

    def __init__(self, setting: Setting, judged: Sequence[Judged], config: Config, seed: int):
        super().__init__(setting, seed)
        self.lines = bytearray()
        self._judged, self._config = judged, config
        self._ring = DecisionRing(0)
        self._tables: dict[int, tuple[Candidates, Decision]] = {}
        self._terms = {gate.fleet: create(gate.plan.policy, gate.plan.options).TERMS for gate in self.gates}

    def chosen(self, flight: Flight, decision: Decision, snapshot: Snapshot) -> None:
        super().chosen(flight, decision, snapshot)
        table = self._ring.capture(snapshot, decision, self._terms[snapshot.fleet])
        self._tables[flight.number] = table, decision

    def _refuse(self, flight: Flight, reason: str) -> None:
        super()._refuse(flight, reason)
        self._write(self._record(flight, status=429, ended="rejected", code=reason))

    def _finish(self, g: Generation, now: float) -> None:
        super()._finish(g, now)
        flight: Flight = g.tag
        run, number, place = self.run_, flight.number, flight.reservation
        assert place is not None and isinstance(flight.router, Gate)
        table, decision = self._tables.pop(number)
        there = run.ttft.item(number) - (flight.at - flight.request.arrived)
        self._write(msgspec.structs.replace(
            self._record(flight, status=200, ended="complete", code=""), pool=flight.router.plan.name,
            endpoint=place.endpoint.id, policy=flight.router.plan.policy, reason=decision.reason, tries=1,
            queued=flight.at - flight.request.arrived, ttft=run.ttft.item(number), ttft_there=there,
            tpot=run.tpot.item(number), duration=run.e2e.item(number), candidates=table, work=Work.of(place),
            predicted=None if place.forecast is None else Forecast.of(place.forecast),
            prompt_tokens=flight.prompt_tokens, cached_tokens=float(g.cached_tokens),
            completion_tokens=float(g.generated),
        ))  # fmt: skip

    def _record(self, flight: Flight, status: int, ended: str, code: str) -> RequestRecord:
        one = self._judged[flight.number]
        past, way, route = one.past, one.way, one.past.route
        assert way is not None and route is not None
        routed = Routed(
            asked=route.asked, rule=way.rule, arm=way.arm, drawn=way.drawn, share=UNKNOWN, forced=way.forced,
            pools=way.pools, path=route.path, session=route.session, user=way.user, headers=dict(route.headers),
            prompt_tokens=route.prompt_tokens,
        )  # fmt: skip
        return RequestRecord(
            past.id, past.at, status, ended, model=past.model, arm=way.arm, klass=one.klass, tenant=past.tenant,
            stream=True, code=code, ttft_slo=past.ttft_slo, tpot_slo=past.tpot_slo, route=routed,
        )  # fmt: skip

    def _write(self, record: RequestRecord) -> None:
        self.lines += msgspec.json.encode(describe(record)) + b"\n"


def recorded(world: World, config: Config, path: Path, seed: int) -> None:
    """Run the world under this configuration once and write its records."""
    setting, judged = Asked(world, config).setting()
    run = Recording(setting, judged, config, seed)
    run.run()
    path.write_bytes(bytes(run.lines))


def truth(world: World, config: Config, seeds: Sequence[int]) -> tuple[Setting, list[Measured]]:
    """Run the world under this configuration with its true engines."""
    setting, _ = Asked(world, config).setting()
    return setting, [measured(setting, seed) for seed in seeds]


def at_once(requests: Sequence[tuple[str, Item]]) -> list[tuple[str, Item]]:
    """In the order of arrival, the first at 0."""
    ordered = sorted(requests, key=lambda one: one[1].at)
    start = ordered[0][1].at
    return [(name, replace(item, at=item.at - start)) for name, item in ordered]
