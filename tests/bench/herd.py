"""Does a burst spread? 256 equal requests at once on 8 idle endpoints, over many seeds: `python -m tests.bench.herd`.

Prints busiest / mean for every policy (median, p99 and worst over the seeds) and PASS or FAIL against its bar. No
answer comes back and no server reports anything during a burst, so a policy that trusts only what servers say fails.
Prompts are equal in length and share no prefix; each has its own session. Ends with status 1 if a bar is missed.
"""

import argparse
import math
import random
import sys
from collections.abc import Mapping

import numpy as np

from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.predictor import Predictor
from gateway.core.types import Endpoint, Request
from policies.picking import POLICIES, create

ENDPOINTS = 8
REQUESTS = 256

# Busiest endpoint's requests / mean, for the worst seed. The others have no bar of their own.
BARS: Mapping[str, float] = {
    "round_robin": 1.0,
    "least_inflight": 1.05,
    "least_tokens": 1.05,
    "power_of_two": 1.07,
    "session_hash": math.ceil(1.25 * REQUESTS / ENDPOINTS) / (REQUESTS / ENDPOINTS),
    "prefix_affinity": 1.05,
    "sticky_until_saturated": 1.05,
    "uncached_tokens": 1.05,
    "lmetric": 1.05,
    "sglang_cache_aware": 1.05,
    "dynamo_kv": 1.05,
}


def make_burst(seed: int, requests: int = REQUESTS, same_session: bool = False) -> list[Request]:
    """Requests of one size without a shared prefix, all of the same moment."""
    dice = random.Random(seed)
    burst = []
    for i in range(requests):
        prompt = b'[{"role":"user","content":"%s"}]' % dice.randbytes(1024).hex().encode()
        session = "one" if same_session else f"s{seed}-{i}"
        burst.append(Request(f"r{i}", "m", 0.0, prompt, 512.0, 256.0, session=session))
    return burst


def spread(name: str, seed: int, burst: list[Request], endpoints: int = ENDPOINTS) -> float:
    """Busiest / mean after the burst went through the policy `name` with its defaults."""
    fleet = Fleet("herd", Rule(), random.Random(seed))
    members = [Endpoint(f"seed{seed}-e{i}", f"http://10.0.0.{i}:8000", "herd", "vllm") for i in range(endpoints)]
    fleet.update(members, 0.0, fresh=True)
    policy = create(name, {})
    if policy.predicts:
        fleet.predictor = Predictor()
    for request in burst:
        decision = policy.pick(request, fleet.snapshot(0.0))
        decision.taken()
        fleet.reserve(decision, request, 0.0)
    ours = fleet.ours[:endpoints]
    return float(ours.max() / ours.mean())


def main() -> int:
    parser = argparse.ArgumentParser(description="How evenly each policy spreads a burst of equal requests.")
    parser.add_argument("--seeds", type=int, default=200)
    seeds = parser.parse_args().seeds
    print(f"{REQUESTS} simultaneous equal requests, {ENDPOINTS} idle endpoints, {seeds} seeds: busiest / mean")
    print(f"{'policy':<24}{'median':>8}{'p99':>8}{'worst':>8}{'bar':>8}")
    failed = False
    for name in POLICIES:
        found = [spread(name, seed, make_burst(seed)) for seed in range(seeds)]
        median, p99, worst = np.quantile(found, (0.5, 0.99, 1.0))
        bar = BARS.get(name)
        passed = bar is None or worst <= bar
        failed = failed or not passed
        verdict = "" if bar is None else f"{bar:8.3f}  {'PASS' if passed else 'FAIL'}"
        print(f"{name:<24}{median:8.3f}{p99:8.3f}{worst:8.3f}{verdict}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
