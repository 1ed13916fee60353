"""What the evidence for plans plans for: old files, what an operator might do to them, and the traffic.

Two worlds. In the first, chat of a real trace and long prompts share two pools of different engines, one of which has a
slower endpoint; in the second, sessions of a coding agent live off the caches of one pool. No engine is like any
profile that ships.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gateway.plan.values import Engine
from loadtest.lab.arrivals import draw
from loadtest.lab.scenario import Scenario, Source, Traffic
from tests.evidence.plan_world import World, at_once, true_profile

FAST, SLOW = [f"10.0.0.{n}:8000" for n in range(1, 5)], [f"10.0.1.{n}:8000" for n in range(1, 4)]
A100, L40S = "a100_llama-3.1-8b_bf16_tp1", "l40s_llama-3.1-8b_bf16_tp1"


class Case(NamedTuple):
    """One world: `world(folder, requests, rate)`, the old file and what becomes of it, requests a second."""

    name: str
    old: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    world: Callable[[Path, int, float], World]
    rate: float


def old_file() -> dict[str, Any]:
    """Two pools of different engines; one model is split over both, the other has one rule."""
    return {
        "version": 1,
        "pools": {
            "fast": {"engine": "vllm", "endpoints": [f"http://{at}" for at in FAST], "pick": "predicted_latency"},
            "slow": {"engine": "vllm", "endpoints": [f"http://{at}" for at in SLOW], "pick": "predicted_latency"},
        },
        "models": {
            "chat": {"slo": {"ttft": "500ms", "tpot": "50ms"},
                     "routes": [{"split": [{"arm": "stable", "to": "fast", "weight": 80},
                                           {"arm": "next", "to": "slow", "weight": 20}]}]},
            "code": {"slo": {"ttft": "1500ms", "tpot": "60ms"}, "to": "fast"},
        },
    }  # fmt: skip


def changed_files() -> dict[str, dict[str, Any]]:
    """What an operator might do to it."""
    files: dict[str, dict[str, Any]] = {}

    def file(name: str) -> dict[str, Any]:
        files[name] = copy.deepcopy(old_file())
        return files[name]

    file("the same file")
    file("an engine fewer")["pools"]["fast"]["endpoints"].pop()
    split = file("weights 60 : 40")["models"]["chat"]["routes"][0]["split"]
    split[0]["weight"], split[1]["weight"] = 60, 40
    chat = file("fast first, slow when full")["models"]["chat"]
    chat["routes"] = [{"to": "fast", "fallback": ["slow"], "fallback_after": "100ms"}]
    file("promise 300 ms, 35 ms")["models"]["chat"]["slo"] = {"ttft": "300ms", "tpot": "35ms"}
    file("least_tokens")["pools"]["fast"]["pick"] = "least_tokens"
    file("round_robin")["pools"]["fast"]["pick"] = "round_robin"
    models = file("long prompts apart")["models"]
    models["chat"]["routes"].insert(0, {"name": "long", "when": {"prompt": {"at_least": 2500}}, "to": "slow"})
    return files


def world_of(where: Path, requests: int, load: float) -> World:
    """Engines like no profile that ships, and an hour of traffic made short: chat of a real trace, and long prompts."""
    fast = true_profile(where, "true-fast", A100, base=1.15, slope3=0.9, ctx=1.2)
    slow = true_profile(where, "true-slow", L40S, base=0.9, slope3=1.1)
    engines = {at: Engine(fast, 2048, pace) for at, pace in zip(FAST, (1.0, 1.0, 1.0, 1.25), strict=True)}
    engines |= {at: Engine(slow, 1024) for at in SLOW}
    drawn = {}
    for name, share, source in (("chat", 0.85, Source(trace="azure_conv_2023")),
                                ("code", 0.15, Source(prompt=(4000.0, 0.7), output=(120.0, 0.8), longest=16000))):
        scenario = Scenario(name, traffic=Traffic((source,), cv=1.3), requests=round(share * requests))
        drawn[name] = draw(scenario, share * load, 11).items
    return World(engines, at_once([(name, item) for name, items in drawn.items() for item in items]))


def agents_file() -> dict[str, Any]:
    """One pool, one model."""
    pool = {"engine": "vllm", "endpoints": [f"http://{at}" for at in FAST], "pick": "predicted_latency"}
    return {"version": 1, "pools": {"fast": pool},
            "models": {"agent": {"slo": {"ttft": "1s", "tpot": "40ms"}, "to": "fast"}}}  # fmt: skip


def agents_files() -> dict[str, dict[str, Any]]:
    """A fleet that is smaller, and one that forgets its caches."""
    files = {name: agents_file() for name in ("the same file", "an engine fewer", "least_tokens")}
    files["an engine fewer"]["pools"]["fast"]["endpoints"].pop()
    files["least_tokens"]["pools"]["fast"]["pick"] = "least_tokens"
    return files


def agents_world(where: Path, requests: int, rate: float) -> World:
    """Sessions of a coding agent: nine tenths of each prompt were there the turn before."""
    fast = true_profile(where, "true-fast", A100, base=1.15, slope3=0.9, ctx=1.2)
    traffic = Traffic((Source(trace="agents_miniswe"),), arrivals="sessions")
    items = draw(Scenario("agent", traffic=traffic, requests=requests), rate, 5).items
    return World({at: Engine(fast, 2048) for at in FAST}, at_once([("agent", item) for item in items]))


CASES = (
    Case("chat and long prompts", old_file(), changed_files(), world_of, 27.0),
    Case("sessions of an agent", agents_file(), agents_files(), agents_world, 10.0),
)
