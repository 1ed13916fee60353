"""A plan's word: what it foresees of changed files, beside a rerun with the true engines, which it has never seen.

One old configuration is run in the lab on engines that only this program knows, and leaves decision records. From the
records alone `headway plan` says what share of requests would keep their promise under each changed file: an engine
fewer, other weights, a fallback, a tighter promise, another policy, long prompts apart. Then the same requests are run
under that file with the true engines. Bar: the two are within 3 points, for every model of every file. And asked about
the old file itself, the plan must give back every recorded decision: of the lab, and of a real gateway whose file uses
everything that decides.

    python -m tests.evidence.plan [--short] [--requests N] [--seeds N] [--load X] [--real N]
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gateway.plan import replay
from gateway.plan_lab import Forecaster
from gateway.plan_records import History, read
from gateway.plan_replay import Replay
from gateway.plan_values import Engine, Figure
from loadtest.lab import foresight
from loadtest.lab.arrivals import draw
from loadtest.lab.scenario import Scenario, Source, Traffic
from tests.bench.rounds import Bar
from tests.evidence.plan_gateway import replayed
from tests.evidence.plan_world import World, at_once, config_of, recorded, true_profile, truth
from tests.evidence.support import conclude, folder, parse

POINTS = 3.0
FAST, SLOW = [f"10.0.0.{n}:8000" for n in range(1, 5)], [f"10.0.1.{n}:8000" for n in range(1, 4)]


class Compared(NamedTuple):
    """One model under one file: shares of kept promises."""

    file: str
    model: str
    foreseen: Figure
    true: Figure

    @property
    def points(self) -> float:
        return 100.0 * abs(self.foreseen.value - self.true.value)

    def __str__(self) -> str:
        shown = "".join(f"{100 * one.value:>8.1f} ± {50 * (one.high - one.low):<5.1f}"
                        for one in (self.foreseen, self.true))  # fmt: skip
        return f"  {self.file:<28}{self.model:<8}{shown}{self.points:>8.1f}"


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


def compare(forecaster: Forecaster, where: Path, world: World, history: History, seeds: Sequence[int],
            file: str) -> list[Compared]:  # fmt: skip
    """Foreseen and true, for each model and all together."""
    old, new = config_of(where, "old", old_file()), config_of(where, "new", changed_files()[file])
    asked = Replay(new, old)
    found = forecaster.foresee(new, [asked.judge(past) for past in history.requests], set(), seeds)
    assert not found.blind, found
    setting, runs = truth(world, new, [100 + seed for seed in seeds])
    said = {one.model: one.attainment for one in found.lines if not one.pool}
    seen = {one.model: one.attainment for one in foresight.summed(setting, runs) if not one.pool}
    return [Compared(file, model or "all", said[model], figure) for model, figure in seen.items()]


def again(where: Path, world: World, history: History) -> list[Bar]:
    """The old file asked about its own records."""
    old = config_of(where, "old", old_file())
    found = replay(old, old, history, same=True)
    print(f"asked about the old file: of {len(world.requests)} requests {len(found.mismatches)} come out otherwise; "
          f"{found.checked} endpoints chosen again, {found.determined} of them without another choice")  # fmt: skip
    return [Bar("decisions of the lab that do not come out again", len(found.mismatches), 0)]


def real(where: Path, count: int) -> list[Bar]:
    """The same of a real gateway, from its file and from its memory."""
    print("a real gateway before four simulated servers", flush=True)
    bars = []
    for source, found in zip(("file", "memory"), replayed(where, count), strict=True):
        one = found["reproduced"]
        print(f"  from its {source}: {one['reproduced']} of {one['decisions']} decisions come out as recorded; "
              f"{one['endpoints_checked']} endpoints chosen again, {one['endpoints_determined']} of them without "
              "another choice")
        for wrong in one["mismatches"][:5]:
            print(f"    {wrong['request_id']}: {wrong['told']}")
        bars.append(Bar(f"decisions of the gateway's {source} that do not come out again",
                        one["decisions"] - one["reproduced"], 0))  # fmt: skip
    return bars


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--requests", type=int, default=6000)
        parser.add_argument("--seeds", type=int, default=8)
        parser.add_argument("--load", type=float, default=27.0, help="requests a second (default: %(default)s)")
        parser.add_argument("--real", type=int, default=3000, help="requests to a real gateway (default: %(default)s)")

    options = parse(__doc__ or "", argv, add)
    requests, seeds, asked = (1500, 1, 150) if options.short else (options.requests, options.seeds, options.real)
    worst = 0.0
    with folder() as where:
        counted = real(where, asked)
        world = world_of(where, requests, options.load)
        recorded(world, config_of(where, "old", old_file()), where / "records.jsonl", 1)
        history = read(str(where / "records.jsonl"))
        counted += again(where, world, history)
        forecaster = Forecaster(foresight, history.requests, config_of(where, "old", old_file()),
                                where / "records.jsonl", where)  # fmt: skip
        print(f"{requests} requests recorded under the old file, {options.load:g} a second, {seeds} seeds; promises "
              "kept, per cent")
        print(f"  {'file':<28}{'model':<8}{'foreseen':>8}{'true':>16}{'points':>16}", flush=True)
        for file in list(changed_files())[: 2 if options.short else None]:
            for one in compare(forecaster, where, world, history, range(seeds), file):
                print(one, flush=True)
                worst = max(worst, one.points)
    bar = Bar("worst difference between foreseen and true, points", worst, POINTS)
    return conclude(counted, [bar], options.short)


if __name__ == "__main__":
    sys.exit(main())
