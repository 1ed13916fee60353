"""What one routing decision costs: look, pick and reserve, for every policy at 8, 64 and 1,000 endpoints.

No I/O and no clock but the stopwatch around the calls. Some endpoints are busy, every one was scraped, 256 requests are
in flight, prompts of 4 KB come from 64 conversations (policies that remember prefixes and sessions have some to find),
and each request that ends is settled and observed, outside the stopwatch. Policies that predict have a predictor that
learns from these ends; its predictions and its booking of the place are within the stopwatch.

    python -m tests.bench.decision_cost [--decisions N]
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import sys
import time
from collections import deque

from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.predictor import Predictor
from gateway.core.reservation import Reservation
from gateway.core.types import Endpoint, Load, Outcome, Request
from policies.picking import POLICIES, create
from tests.bench.machine import machine
from tests.bench.rounds import table

SIZES = (8, 64, 1000)
IN_FLIGHT = 256
WAITING = 64  # of those in flight, the newest: their first token has not come
PROMPT = 4096
CONVERSATIONS = 64


def make_fleet(size: int, seed: int) -> Fleet:
    draw = random.Random(seed)
    fleet = Fleet("bench", Rule(), random.Random(seed), stale_after=1e9)
    addresses = [f"10.0.{i // 250}.{i % 250 + 1}:8000" for i in range(size)]
    fleet.update([Endpoint(address, f"http://{address}", "bench", "vllm") for address in addresses], 0.0, fresh=True)
    for row in range(size):
        load = Load(0.0, waiting=float(draw.randrange(4)), running=float(draw.randrange(32)), kv_used=draw.random())
        fleet.observe(row, load, 0.0)
    return fleet


def make_prompts(seed: int) -> list[bytes]:
    draw = random.Random(seed)
    return [draw.randbytes(PROMPT // 2).hex().encode() for _ in range(CONVERSATIONS)]


def outcome_of(reservation: Reservation, request: Request) -> Outcome:
    return Outcome(request, reservation.endpoint, reservation.row, 200, "complete", 2.0, 0.1, 1000.0, 500.0, 200.0)


def decide(name: str, size: int, decisions: int) -> float:
    """Median seconds of one decision."""
    fleet, policy, prompts = make_fleet(size, 1), create(name, {}), make_prompts(2)
    if policy.predicts:
        fleet.predictor = Predictor()
    draw = random.Random(3)
    flying: deque[tuple[Reservation, Request]] = deque()
    spent = []
    gc.collect()
    gc.disable()
    for number in range(decisions + IN_FLIGHT):
        now = number * 0.001
        which = draw.randrange(CONVERSATIONS)
        request = Request(str(number), "m", now, prompts[which], 1000.0, 200.0, True, f"session-{which}")
        began = time.perf_counter()
        decision = policy.pick(request, fleet.snapshot(now))
        decision.taken()
        reservation = fleet.reserve(decision, request, now)
        spent.append(time.perf_counter() - began)
        flying.append((reservation, request))
        if len(flying) > WAITING:
            flying[-1 - WAITING][0].first_token(now)
        if len(flying) > IN_FLIGHT:
            oldest, its = flying.popleft()
            outcome = outcome_of(oldest, its)
            oldest.settle(now, outcome)
            policy.observe(outcome)
    gc.enable()
    return statistics.median(spent[IN_FLIGHT:])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.decision_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--decisions", type=int, default=5000)
    options = parser.parse_args()
    print(f"machine: {machine()}\n", flush=True)
    print(decision_table(options.decisions))
    return 0


def decision_table(decisions: int) -> str:
    rows = []
    for name in POLICIES:
        rows.append([name, *(f"{decide(name, size, decisions) * 1e6:.1f}" for size in SIZES)])
    return table(["µs a decision (median)", *(f"{size:,} endpoints" for size in SIZES)], rows)


if __name__ == "__main__":
    sys.exit(main())
