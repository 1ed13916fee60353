"""What a decision of `predicted_latency` costs, without and with hashing the prompt; bars and verdict.

The same fleet and requests as in `decision_cost`. Timed are `Policy.pick` (looking the prefix up, predicting for
every candidate, scoring, the forecast for the chosen one, entering the prompt into the index) and, apart, hashing the
same prompt. What is compared with the bars is the median of picks less the median of hashing. The machine decides
much of it: run it when nothing else runs.

    python -m tests.bench.prediction_cost [--decisions N]
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import sys
import time

from gateway.core.predictor import Predictor
from gateway.core.prefixes import hash_blocks
from gateway.core.types import Request
from policies.picking import create
from tests.bench.decision_cost import CONVERSATIONS, IN_FLIGHT, WAITING, make_fleet, make_prompts, outcome_of
from tests.bench.machine import machine
from tests.bench.rounds import table

BARS = {8: None, 64: 60.0, 1000: 120.0}  # µs
HASHING_BAR = 60.0  # µs for 64 KiB


def picks(size: int, decisions: int) -> tuple[float, float]:
    """Median µs of a pick and of hashing its prompt."""
    fleet, policy, prompts = make_fleet(size, 1), create("predicted_latency", {}), make_prompts(2)
    fleet.predictor = Predictor()
    draw = random.Random(3)
    flying = []
    picking, hashing = [], []
    gc.collect()
    gc.disable()
    for number in range(decisions + IN_FLIGHT):
        now = number * 0.001
        prompt = prompts[draw.randrange(CONVERSATIONS)]
        request = Request(str(number), "m", now, prompt, 1000.0, 200.0, True, ttft_slo=0.5, tpot_slo=0.025)
        snapshot = fleet.snapshot(now)
        began = time.perf_counter()
        hash_blocks(prompt, "m")
        hashed = time.perf_counter()
        decision = policy.pick(request, snapshot)
        decision.taken()
        picked = time.perf_counter()
        hashing.append(hashed - began)
        picking.append(picked - hashed)
        flying.append((fleet.reserve(decision, request, now), request))
        if len(flying) > WAITING:
            flying[-1 - WAITING][0].first_token(now)
        if len(flying) > IN_FLIGHT:
            oldest, its = flying.pop(0)
            outcome = outcome_of(oldest, its)
            oldest.settle(now, outcome)
            policy.observe(outcome)
    gc.enable()
    return statistics.median(picking[IN_FLIGHT:]) * 1e6, statistics.median(hashing[IN_FLIGHT:]) * 1e6


def hashing(size: int, rounds: int = 500) -> float:
    """Median µs of hashing a prompt of so many bytes."""
    prompt = random.Random(5).randbytes(size)
    spent = []
    for _ in range(rounds):
        began = time.perf_counter()
        hash_blocks(prompt, "m")
        spent.append(time.perf_counter() - began)
    return statistics.median(spent) * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.prediction_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--decisions", type=int, default=4000)
    options = parser.parse_args()
    print(f"machine: {machine()}\n", flush=True)
    rows, held = [], True
    for size, bar in BARS.items():
        whole, of_it = picks(size, options.decisions)
        held &= bar is None or whole - of_it <= bar
        wanted = "–" if bar is None else f"{bar:g}"
        rows.append([f"{size:,}", f"{whole:.1f}", f"{of_it:.1f}", f"{whole - of_it:.1f}", wanted])
    print(table(["endpoints", "pick, µs", "of it hashing 4 KiB", "without hashing", "bar"], rows))
    spent = hashing(64 << 10)
    held &= spent <= HASHING_BAR
    print(f"\nhashing 64 KiB: {spent:.1f} µs (bar {HASHING_BAR:g})\n{'PASS' if held else 'FAIL'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
