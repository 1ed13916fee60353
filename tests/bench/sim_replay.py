"""Does the simulated engine behave like the real ones? Replays recorded runs and fixed-concurrency measurements.

    python tests/bench/sim_replay.py [DIRECTORY]

Two checks, in virtual time and without HTTP. *Runs*: the recorded requests of two real vLLM servers, at their own
arrival times, with their own prompt blocks: mean and p99 of TTFT, TPOT and latency against the record (bar: means
within 5 %, p99 within 10 %). *Points*: TPOT of real servers at a fixed concurrency: the engine answers that many
requests at a time until the first wave is over, then two more waves are averaged (bar: mean absolute error over all
rows that have a profile at most 6 %). TensorRT-LLM rows count too, with vLLM's scheduler and overhead: they say how
far the profile is from another engine on the same GPU. Rows whose requests cannot all be in the profile's KV cache at
once are listed, not counted: the real server must have had another cache size.

What was fitted to what: the profiles to tables of single kernels and layers, and their overhead to real servers, by
those who made the profiles (with tp 1 to these two runs); nothing by us. So the RTX 4090's run, the only one whose KV
cache is too small for its load, misses the bar: everything comes 6 to 7 % late. Not the schedule is to blame but the
clock:

- An independent port of vLLM 0.19's scheduler on the same requests (casys-kaist/LLMServingSim, its published log of
  this run) counts 198 preemptions, 4,848 prompt tokens found in the cache, 113,620 computed again after a preemption.
  Here: 198, 4,848 and 108,000 to 109,000, by how one counts; vLLM has since begun to use blocks without content first,
  as we do.
- The published second-by-second counters of the run itself: in the 7th to 17th second requests only leave a full batch
  and an iteration takes 25.5 ms, by the profile 26.9 (+5 %); in the 175th and 176th nobody comes, leaves or waits, and
  16 sequences take 20.2 ms, by the profile 22.6 (+12 %).
- All six figures are late by nearly the same share, and each request's TPOT follows the record (correlation 0.99).

A simpler loop that never evicts anything from the prefix cache comes out within 1.2 % because two errors cancel: after
a preemption it finds 88 % of the tokens (here, with eviction, 37 %), and the prefill so saved makes up for the slow
clock. In the record the token rate falls visibly when the preempted come back: below 85 % of undisturbed decoding in
24 % of the seconds without a new prompt; here in 22 %, in that loop in 1 %.

DIRECTORY holds `vllm_runs/` and `timing/`; without it the copies in tests/data/sim are used. Exit status 1 if a bar is
missed.
"""

import argparse
import csv
import gzip
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from backends.sim.engine import Engine, EngineOptions
from backends.sim.generation import SimRequest
from backends.sim.profiles import Profile, names, profile

DATA = Path(__file__).parents[1] / "data" / "sim"
RUNS = {
    "rtxpro6000_llama-3.1-8b": EngineOptions(max_batched_tokens=2048, max_seqs=128),
    "rtx4090_llama-3.1-8b": EngineOptions(max_batched_tokens=2048, max_seqs=256, kv_tokens=41408),
}
MODELS = {"Llama-3.1-8B-Instruct": "llama-3.1-8b", "Llama-3.1-70B": "llama-3.1-70b"}
MEAN_BAR, P99_BAR, TPOT_BAR = 0.05, 0.10, 0.06
CHUNK = 2048  # token budget of the fixed-concurrency servers; the source does not say


@dataclass(frozen=True, slots=True)
class Comparison:
    """One statistic, measured and simulated, in milliseconds."""

    name: str
    measured: float
    simulated: float
    bar: float

    @property
    def error(self) -> float:
        """Relative error."""
        return self.simulated / self.measured - 1.0

    @property
    def holds(self) -> bool:
        """Within its bar."""
        return abs(self.error) <= self.bar


@dataclass(frozen=True, slots=True)
class Replay:
    """A replayed run. `cached`: prompt tokens found in the cache when a request first began; `again`: tokens that had
    been in the cache and were computed once more after a preemption."""

    comparisons: list[Comparison]
    requests: int
    preemptions: int
    cached: int
    again: int


@dataclass(frozen=True, slots=True)
class Point:
    """One fixed-concurrency measurement and what the engine makes of it; `simulated` None: not counted."""

    engine: str
    profile: str
    concurrency: int
    prompt: int
    output: int
    measured: float
    simulated: float | None


def replay(path: Path, name: str, options: EngineOptions) -> Replay:
    """A recorded run through the engine of profile `name`."""
    with gzip.open(path, "rt") as lines:
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    engine = Engine(profile(name), options, Random(0))
    times: list[tuple[float, float]] = [(0.0, 0.0)] * len(rows)
    coming = computed = cached = 0
    while coming < len(rows) or engine.in_flight:
        while coming < len(rows) and rows[coming]["arrival_s"] <= engine.next_event_at():
            row = rows[coming]
            request = SimRequest(str(coming), row["prompt_tokens"], row["output_tokens"], row["blocks"])
            engine.submit(request, row["arrival_s"], coming)
            coming += 1
        step = engine.step(engine.next_event_at())
        computed += step.tokens
        for g in step.finished:
            times[g.tag] = ((g.first_token_at - g.arrived_at) * 1e3, (step.at - g.arrived_at) * 1e3)
            cached += g.cached_tokens
    output = np.maximum([row["output_tokens"] - 1 for row in rows], 1)
    real = np.array([(row["ttft_ms"], row["e2e_ms"]) for row in rows])
    once = sum(row["prompt_tokens"] + row["output_tokens"] - 1 for row in rows) - cached
    return Replay(_compare(real, np.array(times), output), len(rows), engine.preemptions, cached, computed - once)


def _compare(real: np.ndarray, simulated: np.ndarray, gaps: np.ndarray) -> list[Comparison]:
    found: list[Comparison] = []
    columns = {
        "TTFT": (real[:, 0], simulated[:, 0]),
        "TPOT": ((real[:, 1] - real[:, 0]) / gaps, (simulated[:, 1] - simulated[:, 0]) / gaps),
        "latency": (real[:, 1], simulated[:, 1]),
    }
    for name, (was, came) in columns.items():
        found.append(Comparison(f"{name} mean", float(was.mean()), float(came.mean()), MEAN_BAR))
        p99 = [float(np.percentile(column, 99)) for column in (was, came)]
        found.append(Comparison(f"{name} p99", p99[0], p99[1], P99_BAR))
    return found


def closed_loop(which: Profile, concurrency: int, prompt: int, output: int, waves: int = 3) -> float:
    """Mean TPOT in ms with `concurrency` requests always in the engine; the first wave is left out."""
    options = EngineOptions(max_batched_tokens=CHUNK, max_seqs=max(256, concurrency))
    engine = Engine(which, options, Random(0))
    gaps: list[float] = []
    sent = ended = 0
    for _ in range(concurrency):
        engine.submit(SimRequest(str(sent), prompt, output), 0.0)
        sent += 1
    while ended < waves * concurrency:
        step = engine.step(engine.next_event_at())
        for g in step.finished:
            ended += 1
            if ended > concurrency:
                gaps.append((step.at - g.first_token_at) / max(1, output - 1))
            engine.submit(SimRequest(str(sent), prompt, output), step.at)
            sent += 1
    return float(np.mean(gaps)) * 1e3


def points(table: Path, every: int = 1) -> Iterator[Point]:
    """The measurements that have a profile, each `every`-th, simulated."""
    known = set(names())
    with gzip.open(table, "rt") as lines:
        rows = list(csv.DictReader(lines))
    named = ((f"{r['gpu']}_{MODELS.get(r['model'], r['model'])}_{r['precision']}_tp{r['tp']}", r) for r in rows)
    for name, row in [pair for pair in named if pair[0] in known][::every]:
        size, prompt, output = int(row["concurrency"]), int(row["isl"]), int(row["osl"])
        which = profile(name)
        fits = size * (prompt + output / 2) <= which.kv_tokens
        simulated = closed_loop(which, size, prompt, output) if fits else None
        yield Point(row["engine"], name, size, prompt, output, float(row["tpot_ms"]), simulated)


def mape(found: list[Point]) -> float:
    """Mean absolute relative error of the counted points."""
    return float(np.mean([abs(p.simulated / p.measured - 1.0) for p in found if p.simulated is not None]))


def report_runs(folder: Path) -> bool:
    """Print the replays; True if every bar holds."""
    good = True
    for stem, options in RUNS.items():
        run = replay(folder / f"{stem}.jsonl.gz", f"{stem}_bf16_tp1", options)
        print(
            f"{stem}: {run.requests} requests, {run.preemptions} preemptions, {run.cached} prompt tokens cached,"
            f" {run.again} tokens computed again"
        )
        for c in run.comparisons:
            good &= c.holds
            verdict = "" if c.holds else f"   MISSED (bar {c.bar:.0%})"
            print(
                f"  {c.name:13s} measured {c.measured:10.1f} ms   simulated {c.simulated:10.1f} ms"
                f"   {c.error:+6.1%}{verdict}"
            )
    return good


def report_points(table: Path) -> bool:
    """Print the fixed-concurrency errors per engine and profile; True if the bar holds."""
    found = list(points(table))
    groups: dict[tuple[str, str], list[Point]] = {}
    for p in found:
        groups.setdefault((p.engine, p.profile), []).append(p)
    print("TPOT at a fixed concurrency")
    for (engine, name), group in sorted(groups.items(), reverse=True):
        left_out = sum(p.simulated is None for p in group)
        note = f", {left_out} left out (more than the KV cache holds)" if left_out else ""
        print(f"  {engine:7s} {name:30s} {len(group) - left_out:3d} points   error {mape(group):6.1%}{note}")
    vllm = [p for p in found if p.engine == "vllm"]
    everything = mape(found)
    print(f"  vLLM rows {mape(vllm):.1%}, all rows {everything:.1%} (bar {TPOT_BAR:.0%})")
    return everything <= TPOT_BAR and mape(vllm) <= TPOT_BAR


def main() -> int:
    """Print everything; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path, help="where vllm_runs/ and timing/ are")
    args = parser.parse_args()
    runs = args.directory / "vllm_runs" if args.directory else DATA
    table = (args.directory / "timing" if args.directory else DATA) / "serving_points.csv.gz"
    for needed in [runs / f"{stem}.jsonl.gz" for stem in RUNS] + [table]:
        if not needed.is_file():
            parser.error(f"{needed} is not there")
    good = report_runs(runs)
    good &= report_points(table)
    print("all bars hold" if good else "a bar is missed")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
