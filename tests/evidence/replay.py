"""A real trace: azure_conv_2023 open loop through the gateway to 4 simulated A100 servers at 60 % of capacity.

The trace's own arrivals, scaled in time. Bar: every request answered whole. The run counts only if no process used more
than 80 % of a core and the client's start lag p99 stayed under 10 ms. Writes the load generator's HTML report.

    python -m tests.evidence.replay [--short] [--seconds S] [--share S] [--speed X] [--out FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from loadtest import report
from loadtest.client import Target
from loadtest.measure import Record, Slo
from loadtest.open_loop import Asking
from loadtest.replay import run_load
from loadtest.workload import Item, at_rate, read_trace
from tests.bench.rounds import Bar
from tests.bench.subjects import ROOT
from tests.evidence.streams import PATH, TRACE
from tests.evidence.support import (
    CAPACITY,
    MODEL,
    PROFILE,
    Gateway,
    Shares,
    Sim,
    conclude,
    counts,
    folder,
    gateway,
    parse,
    simulators,
)

SERVERS = 4


async def run(running: Gateway, sims: list[Sim], items: Sequence[Item], seed: int,
              ) -> tuple[dict[str, Any], list[Record], Shares]:  # fmt: skip
    pids = {f"sim{n}": (lambda sim=sim: sim.pid) for n, sim in enumerate(sims)}
    async with Shares({"gateway": lambda: running.pid, **pids}) as shares:
        summary, records = await run_load(Target.parse(running.url, PATH, {}), items, Asking(MODEL, PATH, seed=seed),
                                          Slo(1.0, 0.1), 600.0, 180.0, progress=30.0)  # fmt: skip
    generator = summary["generator"]
    shares.mean["generator"], shares.busiest["generator"] = generator["cpu_mean"], generator["cpu_peak"]
    return summary, records, shares


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: object) -> None:
        parser.add_argument("--seconds", type=float, default=300.0)  # type: ignore[attr-defined]
        parser.add_argument("--share", type=float, default=0.6)  # type: ignore[attr-defined]
        parser.add_argument("--speed", type=float, default=1.0)  # type: ignore[attr-defined]
        parser.add_argument("--out", default=str(ROOT / "build" / "replay.html"))  # type: ignore[attr-defined]

    options = parse(__doc__ or "", argv, add)
    seconds = 3.0 if options.short else options.seconds
    rate = options.share * SERVERS * CAPACITY * options.speed
    longest = 80 if options.short else 1 << 30
    whole = [item for item in read_trace(TRACE) if item.output_tokens <= longest]
    items = at_rate(whole[: int(rate * seconds)], rate)  # its mean over these seconds, not over the trace's hour
    print(f"the first {len(items)} requests of {TRACE.name} in {seconds:g} s: {options.share:.0%} of what {SERVERS} x "
          f"{PROFILE} at speed {options.speed:g} can do ({rate:.1f} requests/s)", flush=True)  # fmt: skip
    with (folder() as where, simulators(SERVERS, where, options.speed) as sims,
          gateway(where / "headway", [sim.url for sim in sims]) as running):  # fmt: skip
        summary, records, shares = uvloop.run(run(running, sims, items, seed=5))
        lost = sum(float(sim.state()["lost_seconds"]) for sim in sims)
    print(report.table(summary))
    shares.show()
    if not options.short:
        facts = {"trace": TRACE.name, "servers": f"{SERVERS} x {PROFILE}", "speed": str(options.speed),
                 "share of capacity": f"{options.share:.0%}"}  # fmt: skip
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        Path(options.out).write_text(report.page("azure_conv_2023 through Headway", facts, summary, records))
        print(f"report: {options.out}")
    lag = (summary["latency"]["start_lag"] or {"p99": 0.0})["p99"]
    counted = [Bar(f"not answered whole, of {summary['requests']}", summary["requests"] - summary["ok"], 0),
               Bar("never sent", len(items) - summary["requests"], 0)]  # fmt: skip
    timed = [Bar("time the simulated engines stood still for want of CPU, s", lost, 0.5), *counts(shares, lag)]
    return conclude(counted, timed, options.short)


if __name__ == "__main__":
    sys.exit(main())
