"""A mirror of everything: what interactive first tokens pay for it.

One gateway, one pool of simulated engines, and a shadow pool of as many apart from it. Two models lead to the first
pool; one of them is mirrored to the second, all of it. Chat is played to one and then to the other: the same requests
at the same times, before empty engines, in rounds whose order alternates (plain, mirrored; mirrored, plain; …). Bar:
TTFT p95 with the mirror at most 1.02 x that without, over all rounds; its 95 % interval is a bootstrap over rounds.

A round counts if the client kept its times in both halves (start lag p99 below 10 ms) and no simulator fell behind its
clock; at least three quarters must. Counted: nobody's request fails, the plain model has no copies, each request of the
other has one, and at least 99 % of these are compared. The cost of a copy is what the whole gateway used per request,
with the mirror over without.

    python -m tests.evidence.mirror [--short] [--rounds N]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import uvloop

from loadtest.client import Client, Target
from loadtest.measure import Record
from loadtest.open_loop import Asking, OpenLoop
from loadtest.workload import Item, arrivals, constant, read_trace, with_arrivals
from tests.bench.machine import cpu_seconds
from tests.bench.rounds import LAG, Bar, table
from tests.evidence.fleets import LOST, Group, engines, read_gauges
from tests.evidence.streams import PATH, TRACE, Run
from tests.evidence.support import (
    MODEL,
    Gateway,
    Shares,
    Sim,
    conclude,
    configuration,
    counts,
    fetch,
    fetch_beside,
    folder,
    gateway,
    parse,
)

ENGINES = 2
RATE, SECONDS, ROUNDS = 6.0, 30.0, 8
TIMES, COMPARED, SPOILT = 1.02, 0.99, 0.25
POLICY = "predicted_latency"
PLAIN, MIRRORED = "plain", "mirrored"
HEAD = ("rounds", "requests a side", "TTFT p95 plain, ms", "mirrored, ms", "ratio", "95 % interval",
        "gateway's CPU per request, us")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Window:
    """One model's part of a round."""

    records: list[Record]
    lag: float
    cpu: float  # seconds that the gateway used
    lost: float  # share of its time that a simulator was behind its clock

    @property
    def ttft(self) -> list[float]:
        return [record.ttft for record in self.records if record.ttft is not None]


Round = tuple[Window, Window]  # plain, mirrored


def chat(rate: float, seconds: float, seed: int, longest: int) -> list[Item]:
    """Requests of the conversation trace at Poisson arrivals."""
    items = [item for item in read_trace(TRACE) if item.output_tokens <= longest and item.prompt_tokens <= 4000]
    start = seed * 997 % len(items)
    return list(with_arrivals(items[start:] + items[:start], arrivals(constant(rate), seconds, seed)))


def lead_both(running: Gateway, main: Sequence[str], shadow: Sequence[str]) -> None:
    """Two models to one pool, one of them mirrored."""
    made = configuration(running.port, running.admin, main, pick=POLICY)
    made["pools"]["shadow"] = {**made["pools"]["main"], "endpoints": list(shadow)}
    mirror = {"to": "shadow", "share": "100%", "concurrency": 1000}
    made["models"] = {
        PLAIN: {"as": MODEL, "to": "main"},
        MIRRORED: {"as": MODEL, "routes": [{"to": "main", "mirror": mirror}]},
    }
    running.file.write_text(json.dumps(made, indent=1))
    fetch(f"http://127.0.0.1:{running.admin}/api/reload", {})


async def window(running: Gateway, sims: Sequence[Sim], model: str, items: Sequence[Item], seed: int) -> Window:
    """Play it, and wait until the copies have ended, too."""
    client = Client(Target.parse(running.url, PATH, {}), time.monotonic)
    loop = OpenLoop(client, Asking(model, PATH, True, seed), timeout=120.0)
    run, before, began = Run(loop, client, running.url, loop.records), cpu_seconds([running.pid]), time.monotonic()
    lost = await _lost(sims)
    await run.send(items)
    await quiet(running)
    cpu, took = cpu_seconds([running.pid]) - before, time.monotonic() - began
    behind = max(after - first for first, after in zip(lost, await _lost(sims), strict=True)) / took
    return Window(run.records, run.lag, cpu, behind)


async def quiet(running: Gateway) -> None:
    """Nothing is on its way to any engine."""
    for _ in range(600):
        gauges = await asyncio.to_thread(read_gauges, running)
        if not sum(value for name, value in gauges.items() if name.startswith("headway_endpoint_inflight{")):
            return
        await asyncio.sleep(0.1)
    raise SystemExit("waited a minute in vain for the copies to end")


async def play(running: Gateway, sims: Sequence[Sim], rounds: int, rate: float, seconds: float,
               longest: int) -> tuple[list[Round], Shares]:  # fmt: skip
    """All rounds, and what everybody used meanwhile."""
    pids = {sim.where.name: (lambda sim=sim: sim.pid) for sim in sims}
    found: list[Round] = []
    for model in (PLAIN, MIRRORED):  # connections, code and prices are warm
        await window(running, sims, model, chat(rate, min(seconds, 10.0), 77, longest), 77)
    began, own = time.monotonic(), time.process_time()
    async with Shares({"gateway": lambda: running.pid, **pids}) as shares:
        for number in range(rounds):
            items, seed = chat(rate, seconds, number + 1, longest), 100 + number
            made = {}
            for model in (PLAIN, MIRRORED) if number % 2 == 0 else (MIRRORED, PLAIN):
                made[model] = await window(running, sims, model, items, seed)
            found.append((made[PLAIN], made[MIRRORED]))
            print(_line(number, found[-1]), flush=True)
    took = time.monotonic() - began
    shares.mean["client"] = (time.process_time() - own) / took
    return found, shares


async def _lost(sims: Sequence[Sim]) -> list[float]:
    return [(await fetch_beside(f"{sim.url}/sim/state"))["lost_seconds"] for sim in sims]


def p95(rounds: Sequence[Round]) -> tuple[float, float]:
    """TTFT p95 without and with the mirror, over these rounds."""
    plain, mirrored = ([ttft for pair in rounds for ttft in pair[side].ttft] for side in (0, 1))
    return float(np.percentile(plain, 95)), float(np.percentile(mirrored, 95))


def _line(number: int, pair: Round) -> str:
    plain, mirrored = p95([pair])
    lag, lost = max(one.lag for one in pair), max(one.lost for one in pair)
    return (f"round {number + 1}: TTFT p95 {plain * 1e3:.1f} ms plain, {mirrored * 1e3:.1f} ms mirrored "
            f"({mirrored / plain:.3f} x); start lag p99 {lag * 1e3:.1f} ms, simulators behind {lost:.2%}"
            + ("" if counts_at_all(pair) else " (does not count)"))  # fmt: skip


def counts_at_all(pair: Round) -> bool:
    """Whether the machine had time for it."""
    return all(one.lag <= LAG and one.lost <= LOST for one in pair)


def interval(rounds: Sequence[Round]) -> tuple[float, float]:
    """A 95 % interval of the ratio of p95s: rounds drawn again and again."""
    draw = np.random.default_rng(1)
    drawn = [p95([rounds[n] for n in draw.integers(0, len(rounds), len(rounds))]) for _ in range(1000)]
    low, high = np.percentile([mirrored / plain for plain, mirrored in drawn], [2.5, 97.5])
    return float(low), float(high)


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rounds", type=int, default=ROUNDS)

    options = parse(__doc__ or "", argv, add)
    short = options.short
    rate, seconds, rounds, longest = (RATE, 3.0, 2, 60) if short else (RATE, SECONDS, options.rounds, 400)
    group = Group(ENGINES, 4.0 if short else 1.0)
    with folder() as where, contextlib.ExitStack() as stack:
        sims = stack.enter_context(engines((group, group), where))  # a process for each pool
        urls = [sim.url for sim in sims]
        running = stack.enter_context(gateway(where / "headway", urls[:ENGINES], pick=POLICY))
        lead_both(running, urls[:ENGINES], urls[ENGINES:])
        found, shares = uvloop.run(play(running, sims, rounds, rate, seconds, longest))
        gauges = read_gauges(running)
    return judge(found, shares, gauges, short)


def judge(found: list[Round], shares: Shares, gauges: dict[str, float], short: bool) -> int:
    """Print the figures; the exit code."""
    valid = [pair for pair in found if counts_at_all(pair)]
    plain, mirrored = p95(valid or found)
    low, high = interval(valid or found)
    requests = sum(len(pair[1].records) for pair in found)
    outcomes = {name.split('outcome="')[1].split('"')[0]: value for name, value in gauges.items()
                if name.startswith("headway_mirror_total{")}  # fmt: skip
    drawn = sum(outcomes.values())  # with the warm-up's
    compared = sum(value for name, value in outcomes.items() if name == "same" or name.startswith("differs_"))
    cpu = [sum(pair[side].cpu for pair in found) / requests * 1e6 for side in (0, 1)]
    print("shares of a core: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.mean.items()))
    row = [f"{len(valid)} of {len(found)}", str(requests), f"{plain * 1e3:.1f}", f"{mirrored * 1e3:.1f}",
           f"{mirrored / plain:.4f}", f"{low:.3f} to {high:.3f}",
           f"{cpu[0]:.0f}, with the mirror {cpu[1]:.0f}"]  # fmt: skip
    print(table(HEAD, [row]))
    print("copies: " + ", ".join(f"{name} {value:.0f}" for name, value in sorted(outcomes.items())))
    failed = sum(not record.ok for pair in found for one in pair for record in one.records)
    of_plain = sum(value for name, value in gauges.items()
                   if name.startswith("headway_mirror_total{") and f'model="{PLAIN}"' in name)  # fmt: skip
    counted = [
        Bar("requests that failed", failed, 0),
        Bar("copies of the plain model's requests", of_plain, 0),
        Bar("requests of the mirrored model without a copy", max(0, requests - drawn), 0),
        Bar("share of copies that were not compared", 1.0 - compared / max(1.0, drawn), 1.0 - COMPARED),
    ]
    lag = max((one.lag for pair in valid for one in pair), default=float("inf"))
    timed = [Bar("TTFT p95 with a mirror of everything, x without", mirrored / plain, TIMES), *counts(shares, lag),
             Bar("rounds that do not count, share", 1.0 - len(valid) / len(found), SPOILT)]  # fmt: skip
    return conclude(counted, timed, short=short)


if __name__ == "__main__":
    sys.exit(main())
