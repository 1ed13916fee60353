"""More than the fleet can do, in real time: what is still served well, how a no is said, and whom a crowd costs.

Chat before simulated engines. Bars: offered 1.5 and 3 times what they can do, interactive goodput (answers that keep
their promises, per second) is at least 0.95 of its maximum over all loads; every refusal has a status, a reason, and
`Retry-After` or `x-should-retry: false`; one on arrival comes within 50 ms of the request's last byte. One tenant at
ten times its share: the other's TTFT p95 is at most 1.2 x that without it. With deadlines, at most 5 % of the answers
that are served come after them, and what cannot make it is refused on arrival.

    python -m tests.evidence.overload [--short] [--only goodput fairness deadlines]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import uvloop

from loadtest.measure import Record, Slo
from loadtest.workload import Item, arrivals, constant, read_trace, with_arrivals
from tests.bench.rounds import Bar, table
from tests.evidence.fleets import LOST, Group, engines
from tests.evidence.streams import PATH, TRACE, Run
from tests.evidence.support import CAPACITY, MODEL, Gateway, Shares, conclude, counts, folder, gateway, parse

SLO = Slo(1.0, 0.060)
TOLD = {"ttft": "1s", "tpot": "60ms"}
LOADS = (0.8, 1.0, 1.5, 3.0)  # of what the engines complete
KEPT, ON_ARRIVAL, LATER, MISSED = 0.95, 0.050, 1.2, 0.05
DEADLINE = 20.0  # seconds
WARM_UP = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much and how long. `speed` of the engines makes the short form short."""

    engines: int
    speed: float
    seconds: float
    longest: int

    @property
    def capacity(self) -> float:
        """Requests a second that these engines complete."""
        return self.engines * self.speed * CAPACITY

    def items(self, share: float, seed: int) -> list[Item]:
        """Poisson arrivals at this share of the capacity, with the trace's lengths."""
        chat = [item for item in read_trace(TRACE) if item.output_tokens <= self.longest]
        start = seed * 997 % len(chat)
        drawn = arrivals(constant(share * self.capacity), self.seconds, seed)
        return list(islice(with_arrivals(chat[start:] + chat[:start], drawn), 50_000))


FULL, SHORT = Plan(2, 1.0, 60.0, 10_000), Plan(1, 4.0, 5.0, 80)


@dataclass(frozen=True, slots=True)
class Crowd:
    """Some clients: what they send, with these header lines."""

    items: list[Item]
    headers: Mapping[str, str]


@dataclass(slots=True)
class Told:
    """One run: what became of each crowd's requests, the gateway's own log lines, and whether the run counts."""

    records: list[list[Record]]
    log: list[dict[str, Any]]
    why_not: str

    @property
    def refused(self) -> list[dict[str, Any]]:
        return [line for line in self.log if line["status"] in (429, 503) and not line["tries"]]


def run(plan: Plan, crowds: Sequence[Crowd], top: Mapping[str, object] | None = None, probe: bool = False,
        ) -> tuple[Told, list[str]]:  # fmt: skip
    """A fresh fleet and gateway, and these crowds at once. With `probe`, also what is wrong with how a no is said."""
    with (
        folder() as where,
        engines((Group(plan.engines, plan.speed),), where) as sims,
        gateway(where / "headway", [sim.url for sim in sims], slo=TOLD, top=top, pick="predicted_latency") as running,
    ):
        runs = [Run.on(running.url, 10 + n, headers=dict(crowd.headers)) for n, crowd in enumerate(crowds)]

        async def load() -> tuple[Shares, list[str]]:
            own, began = time.process_time(), time.monotonic()
            probing = asyncio.create_task(asyncio.to_thread(_probe, running, plan.seconds if probe else 0.0))
            async with Shares({"gateway": lambda: running.pid, "sims": lambda: sims[0].pid}) as shares:
                await asyncio.gather(*(one.send(crowd.items) for one, crowd in zip(runs, crowds, strict=True)))
            wrong = await probing
            shares.mean["client"] = (time.process_time() - own) / (time.monotonic() - began)
            return shares, wrong

        shares, wrong = uvloop.run(load())
        lost = max(sim.state()["lost_seconds"] for sim in sims) / plan.seconds
        time.sleep(0.3)  # the last log lines
        log = (running.where / "log").read_bytes().splitlines()
    bars = [*counts(shares, max(one.lag for one in runs)), Bar("simulators behind their clock, share", lost, LOST)]
    why_not = "; ".join(f"{bar.what} {bar.figure:.2f}" for bar in bars if not bar.kept)
    lines = [json.loads(line[line.index(b"{"):]) for line in log if b'"event":"request"' in line]
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares.mean.items())
    print(f"  of a core: {told}; start lag p99 {max(one.lag for one in runs) * 1e3:.1f} ms"
          + (f" (does not count: {why_not})" if why_not else ""), flush=True)  # fmt: skip
    return Told([one.records for one in runs], lines, why_not), wrong


def _probe(running: Gateway, seconds: float) -> list[str]:
    """Requests that look at the head of each no. Returns what is wrong with them; the first entry counts the noes."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "a word " * 200}], "max_tokens": 100,
                       "stream": True, "ignore_eos": True}).encode()  # fmt: skip
    until, wrong, seen = time.monotonic() + seconds, [], 0
    while time.monotonic() < until:
        request = urllib.request.Request(running.url + PATH, body, {"content-type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=30).close()
        except urllib.error.HTTPError as answer:
            seen += 1
            if problem := what_is_wrong(answer.code, dict(answer.headers.items()), answer.read()):
                wrong.append(problem)
        time.sleep(0.1)
    return [str(seen), *wrong]


def what_is_wrong(status: int, fields: Mapping[str, str], body: bytes) -> str:
    """With how a refusal is said; nothing if nothing is."""
    named = {name.lower(): value for name, value in fields.items()}
    if status not in (429, 503):
        return f"status {status}"
    if "x-headway-reason" not in named:
        return f"{status} without x-headway-reason"
    if not ("retry-after" in named or named.get("x-should-retry") == "false"):
        return f"{status} {named['x-headway-reason']} without Retry-After and x-should-retry: false"
    return "" if json.loads(body)["error"]["code"] == named["x-headway-reason"] else "reason and code differ"


def after_warm_up(records: Sequence[Record], plan: Plan) -> list[Record]:
    return [record for record in records if record.intended >= min(WARM_UP, plan.seconds / 4.0)]


def _ttft95(records: Sequence[Record]) -> float:
    found = [record.ttft for record in records if record.ok and record.ttft is not None]
    return float(np.percentile(found, 95)) if found else float("nan")


# --- goodput ---------------------------------------------------------------------------------------------------------


def goodput(plan: Plan) -> tuple[list[Bar], list[Bar]]:
    print("\ngoodput", flush=True)
    rows, good, slowest, problems, refusals = [], {}, 0.0, [], 0
    for number, share in enumerate(LOADS):
        told, wrong = run(plan, (Crowd(plan.items(share, 1 + number), {}),), probe=share > 1.0)
        records = after_warm_up(told.records[0], plan)
        span = plan.seconds - min(WARM_UP, plan.seconds / 4.0)
        rate = sum(map(SLO.met, records)) / span
        if not told.why_not or plan is SHORT:
            good[share] = rate
        at_once = [line["duration"] for line in told.refused if line["queued"] < 1e-3]
        slowest = max([slowest, *at_once])
        problems += wrong[1:]
        refusals += int(wrong[0])
        reasons = Counter(line["code"] for line in told.refused)
        served = sum(record.ok for record in records) / span
        rows.append([f"{share:.0%}", f"{rate:.1f}", f"{served:.1f}", f"{_ttft95(records):.3f}",
                     str(len(told.refused)), str(len(at_once)), str(dict(reasons))])  # fmt: skip
    head = ("offered", "goodput /s", "served /s", "TTFT p95 s", "refused", "on arrival", "why")
    print(table(head, rows), flush=True)
    most = max(good.values(), default=float("nan"))
    timed = [Bar(f"goodput lost at {share:.0%}", 1.0 - good.get(share, float("nan")) / most, 1.0 - KEPT)
             for share in LOADS if share > 1.0]  # fmt: skip
    timed.append(Bar("slowest refusal on arrival, ms", slowest * 1e3, ON_ARRIVAL * 1e3))
    for problem in sorted(set(problems)):
        print(f"  wrong: {problem}")
    return [Bar(f"refusals of {refusals} looked at that are not said as promised", len(problems), 0)], timed


# --- fairness --------------------------------------------------------------------------------------------------------


def fairness(plan: Plan) -> tuple[list[Bar], list[Bar]]:
    print("\nfairness", flush=True)
    keys = {f"sk-evidence-{name}": {"tenant": name} for name in ("modest", "greedy")}
    modest = Crowd(plan.items(0.3, 5), {"authorization": "Bearer sk-evidence-modest"})
    greedy = Crowd(plan.items(3.0, 6), {"authorization": "Bearer sk-evidence-greedy"})
    alone, _ = run(plan, (modest,), {"keys": keys})
    both, _ = run(plan, (modest, greedy), {"keys": keys})
    first, second = (_ttft95(after_warm_up(told.records[0], plan)) for told in (alone, both))
    served, others = (sum(record.ok for record in records) / len(records) for records in both.records)
    print(f"modest tenant: TTFT p95 {first * 1e3:.0f} ms alone, {second * 1e3:.0f} ms beside one at ten times its "
          f"load; {served:.1%} of its requests served, {others:.1%} of the other's", flush=True)  # fmt: skip
    if (alone.why_not or both.why_not) and plan is not SHORT:
        first = float("nan")
    return [], [Bar("modest tenant's TTFT p95 beside a greedy one, of that alone", second / first, LATER, " x"),
                Bar("modest tenant's requests refused", 1.0 - served, 0.01)]  # fmt: skip


# --- deadlines -------------------------------------------------------------------------------------------------------


def deadlines(plan: Plan) -> tuple[list[Bar], list[Bar]]:
    print("\ndeadlines", flush=True)
    limit = DEADLINE if plan is not SHORT else 3.0
    feasible = Crowd(plan.items(1.1, 7), {"x-headway-deadline": f"{limit:g}s"})
    hopeless = Crowd(plan.items(0.05, 8), {"x-headway-deadline": "20ms"})
    told, _ = run(plan, (feasible, hopeless))
    served = [record for record in told.records[0] if record.ok]
    late = [record.ended - record.intended - limit for record in served if record.ended - record.intended > limit]
    refused = Counter(line["code"] for line in told.refused)
    answered = [record for record in told.records[1] if record.ok]
    print(f"{len(served)} of {len(told.records[0])} served, {len(late)} after their deadline, the latest by "
          f"{max(late, default=0.0):.2f} s; hopeless ones served: {len(answered)} of {len(told.records[1])}; "
          f"refusals {dict(refused)}", flush=True)  # fmt: skip
    share = len(late) / max(1, len(served))
    if told.why_not and plan is not SHORT:
        share = float("nan")
    # Before anything was learnt (the first answers) nothing can be known to be hopeless.
    known = [record for record in answered if record.intended > min(WARM_UP, plan.seconds / 4.0)]
    return [], [Bar("served after their deadline, share", share, MISSED), Bar("hopeless ones served", len(known), 0)]


PARTS = {"goodput": goodput, "fairness": fairness, "deadlines": deadlines}


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))

    options = parse(__doc__ or "", argv, add)
    counted: list[Bar] = []
    timed: list[Bar] = []
    for name in options.only:
        bars = PARTS[name](SHORT if options.short else FULL)
        counted += bars[0]
        timed += bars[1]
    return conclude(counted, timed, short=options.short)


if __name__ == "__main__":
    sys.exit(main())
