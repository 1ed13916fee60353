"""A plan's word: what it foresees of changed files, beside a rerun with the true engines, which it has never seen.

One old configuration is run in the lab on engines that only this program knows, and leaves decision records. From the
records alone `headway plan` says what share of requests would keep their promise under each changed file: an engine
fewer, other weights, a fallback, a tighter promise, another policy, long prompts apart. Then the same requests are run
under that file with the true engines. Bar: the two are within 3 points, for every model of every file. And asked about
the old file itself, the plan must give back every recorded decision.

    python -m tests.evidence.plan [--short] [--requests N] [--seeds N] [--load X]
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.plan import make
from gateway.plan_records import read
from gateway.plan_values import Engine
from loadtest.lab import foresight
from loadtest.lab.arrivals import draw
from loadtest.lab.scenario import Scenario, Source, Traffic
from tests.bench.rounds import Bar
from tests.evidence.plan_world import World, at_once, config_of, recorded, true_profile, truth
from tests.evidence.support import conclude, folder, parse

POINTS = 3.0
FAST, SLOW = [f"10.0.0.{n}:8000" for n in range(1, 5)], [f"10.0.1.{n}:8000" for n in range(1, 4)]


@dataclass(frozen=True, slots=True)
class Compared:
    """One model under one file: shares of kept promises, and half the 95 % interval of the truth over seeds."""

    file: str
    model: str
    foreseen: float
    true: float
    reach: float

    @property
    def points(self) -> float:
        return 100.0 * abs(self.foreseen - self.true)


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
    fast = true_profile(where, "true-fast", "a100_llama-3.1-8b_bf16_tp1", base=1.15, slope3=0.9, ctx=1.2)
    slow = true_profile(where, "true-slow", "l40s_llama-3.1-8b_bf16_tp1", base=0.9, slope3=1.1)
    engines = {at: Engine(fast, 2048, pace) for at, pace in zip(FAST, (1.0, 1.0, 1.0, 1.25), strict=True)}
    engines |= {at: Engine(slow, 1024) for at in SLOW}
    drawn = {}
    for name, share, source in (("chat", 0.85, Source(trace="azure_conv_2023")),
                                ("code", 0.15, Source(prompt=(4000.0, 0.7), output=(120.0, 0.8), longest=16000))):
        scenario = Scenario(name, traffic=Traffic((source,), cv=1.3), requests=round(share * requests))
        drawn[name] = draw(scenario, share * load, 11).items
    return World(engines, at_once([(name, item) for name, items in drawn.items() for item in items]))


def compare(where: Path, world: World, seeds: Sequence[int], file: str) -> list[Compared]:
    """Foreseen and true, for each model and all together."""
    old = config_of(where, "old", old_file())
    new = config_of(where, "new", changed_files()[file])
    history = read(str(where / "records.jsonl"))
    plan = make(new, old, history, foresight, seeds, len(world.requests))
    assert plan.after is not None and not plan.after.blind, plan.after
    setting, runs = truth(world, new, [100 + seed for seed in seeds])
    said = {one.model: one.attainment.value for one in plan.after.lines if not one.pool}
    seen = {one.model: one.attainment for one in foresight.summed(setting, runs) if not one.pool}
    if plan.same:
        print(f"  asked about the old file: {len(plan.replayed.mismatches)} decisions come out otherwise, "
              f"{plan.replayed.checked} endpoints checked, {plan.replayed.determined} without another choice")
        assert not plan.replayed.mismatches, plan.replayed.mismatches[:3]
    return [Compared(file, model or "all", said[model], figure.value, (figure.high - figure.low) / 2.0)
            for model, figure in seen.items()]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--requests", type=int, default=6000)
        parser.add_argument("--seeds", type=int, default=3)
        parser.add_argument("--load", type=float, default=27.0, help="requests a second (default: %(default)s)")

    options = parse(__doc__ or "", argv, add)
    requests, seeds = (1200, 1) if options.short else (options.requests, options.seeds)
    worst = 0.0
    with folder() as where:
        world = world_of(where, requests, options.load)
        recorded(world, config_of(where, "old", old_file()), where / "records.jsonl", 1)
        print(f"{len(world.requests)} requests recorded under the old file, {options.load:g} a second")
        print(f"  {'file':<28}{'model':<8}{'foreseen':>10}{'true':>10}{'':>8}{'points':>8}", flush=True)
        for file in changed_files():
            began = time.monotonic()
            for one in compare(where, world, range(seeds), file):
                print(f"  {one.file:<28}{one.model:<8}{one.foreseen:>10.1%}{one.true:>10.1%} ± {100 * one.reach:<5.1f}"
                      f"{one.points:>8.1f}")  # fmt: skip
                worst = max(worst, one.points)
            print(f"  ({time.monotonic() - began:.0f} s)", flush=True)
    bar = Bar("worst difference between foreseen and true, points", worst, POINTS)
    return conclude([] if options.short else [bar], [bar] if options.short else [], options.short)


if __name__ == "__main__":
    sys.exit(main())
