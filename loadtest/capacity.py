"""Find the highest rate a server carries inside its SLO, and the rate to plan for: 0.7 of it.

    python -m loadtest.capacity --url http://127.0.0.1:8080 --trace loadtest/traces/azure_conv_2023.jsonl.gz \\
        --slo-ttft 1s --slo-tpot 100ms

A probe is a short open-loop run: Poisson arrivals at one rate, lengths from the trace, the first fifth left
out as warm-up. It passes if the p99 of TTFT and of TPOT are inside the SLO, a failed request counting as
infinitely late. Rates are doubled until one fails, then the gap is halved (as a ratio) to the precision
asked for. Close to capacity queues grow slowly and a short probe is kind to the server; hence the 0.7, which
also leaves room for bursts and for one server of a few being away. A probe the generator could not
drive is run once more and then counts as failed, and the answer says so.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import math
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.client import Target
from loadtest.measure import Record, Slo, warnings
from loadtest.open_loop import Asking
from loadtest.replay import (
    add_target_options,
    make_asking,
    make_target,
    parse_duration,
    parse_positive,
    run_in_loop,
    run_load,
)
from loadtest.workload import Item, WorkloadError, arrivals, constant, read_trace, with_arrivals

SHARE = 0.7  # of the highest rate: what to plan for
WARM_UP = 0.2  # of a probe: not judged
ENOUGH = 200  # requests a probe needs for a p99 worth the name


@dataclass(frozen=True, slots=True)
class Probe:
    """One run at one rate. Latencies in seconds, infinite where too many requests failed."""

    rate: float
    passed: bool
    ttft_p99: float = math.nan
    tpot_p99: float = math.nan
    requests: int = 0
    failed: int = 0
    limited: tuple[str, ...] = ()  # why the generator, not the server, may have decided


@dataclass(frozen=True, slots=True)
class Answer:
    """The highest rate that passed (0: none did), and whether something other than the server ended the search."""

    rate: float
    probes: tuple[Probe, ...]
    stopped_by: str  # "server", "generator" or "bounds"


async def search(
    probe: Callable[[float], Awaitable[Probe]],
    first: float,
    lowest: float,
    highest: float,
    precision: float = 0.1,
    most_probes: int = 12,
) -> Answer:
    """Bracket by doubling or halving from `first`, then bisect until failed / passed <= 1 + precision.

    Rates stay in [lowest, highest]; at most `most_probes` probes are run.
    """
    done: list[Probe] = []
    passed, failed = 0.0, math.inf
    rate = min(max(first, lowest), highest)
    while len(done) < most_probes:
        done.append(await probe(rate))
        if done[-1].passed:
            passed = rate
        else:
            failed = rate
        if passed >= highest or failed <= lowest or (passed and failed / passed <= 1 + precision):
            break
        if math.isinf(failed):
            rate = min(2 * passed, highest)
        elif not passed:
            rate = max(failed / 2, lowest)
        else:
            rate = math.sqrt(passed * failed)
    ceiling = next((one for one in done if one.rate == failed), None)
    if ceiling is None or not passed:
        stopped_by = "bounds"
    else:
        stopped_by = "generator" if ceiling.limited else "server"
    return Answer(passed, tuple(done), stopped_by)


def judge(rate: float, records: Sequence[Record], slo: Slo, limited: Sequence[str], warm_up: float) -> Probe:
    """Whether the requests whose time came after `warm_up` s kept the SLO at p99."""
    judged = [record for record in records if record.intended >= warm_up]
    ttft = _p99([math.inf if not r.ok or r.ttft is None else r.ttft for r in judged])
    tpot = _p99([math.inf if not r.ok else r.tpot or 0.0 for r in judged])
    inside = (slo.ttft is None or ttft <= slo.ttft) and (slo.tpot is None or tpot <= slo.tpot)
    whole = bool(judged) and math.isfinite(ttft)
    failed = sum(not record.ok for record in judged)
    return Probe(rate, inside and whole and not limited, ttft, tpot, len(judged), failed, tuple(limited))


def _p99(values: Sequence[float]) -> float:
    return float(np.percentile(values, 99, method="higher")) if values else math.inf


class Prober:
    """Runs probes against a target, each with prompts never sent before, and prints a line for each."""

    def __init__(self, target: Target, items: Sequence[Item], asking: Asking, slo: Slo, seconds: float) -> None:
        self._target = target
        self._items = items
        self._asking = asking
        self._slo = slo
        self._seconds = seconds
        self._count = 0

    async def __call__(self, rate: float) -> Probe:
        """One probe at `rate` requests per second; run once more if the generator fell behind in the first."""
        found = await self._once(rate)
        return await self._once(rate) if found.limited else found

    async def _once(self, rate: float) -> Probe:
        self._count += 1
        if self._count > 1:
            await asyncio.sleep(1.0)  # let the server finish with what the last probe left behind
        seconds = min(max(self._seconds, ENOUGH / rate / (1 - WARM_UP)), 4 * self._seconds)
        items = list(with_arrivals(self._items, arrivals(constant(rate), seconds, self._count)))
        asking = dataclasses.replace(self._asking, seed=self._asking.seed + self._count)
        patience = 10 * (self._slo.ttft or 1.0) + 60.0
        summary, records = await run_load(self._target, items, asking, self._slo, patience, patience)
        found = judge(rate, records, self._slo, warnings(summary) if records else (), WARM_UP * seconds)
        print(
            f"{rate:9.2f}/s  {'inside ' if found.passed else 'outside'}  TTFT p99 {found.ttft_p99 * 1e3:8.0f} ms  "
            f"TPOT p99 {found.tpot_p99 * 1e3:7.1f} ms  {found.requests} judged, {found.failed} failed"
            + "".join(f"\n           {reason}" for reason in found.limited),
            flush=True,
        )
        return found


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m loadtest.capacity`."""
    made = argparse.ArgumentParser(prog="python -m loadtest.capacity", description=(__doc__ or "").split("\n")[0])
    add_target_options(made)
    made.add_argument("--first", type=parse_positive, default=4.0, help="rate to begin with, per second (%(default)s)")
    made.add_argument("--lowest", type=parse_positive, default=0.1, help="give up below this rate (%(default)s)")
    made.add_argument("--highest", type=parse_positive, default=1000.0, help="never go above this rate (%(default)s)")
    made.add_argument("--probe", type=parse_duration, default=30.0, help="length of a probe (30s); longer at low rates")
    made.add_argument("--precision", type=parse_positive, default=0.1, help="stop when this close (%(default)s)")
    made.add_argument("--most-probes", type=int, default=12, help="at most (%(default)s)")
    return made


def words(answer: Answer) -> str:
    """The answer in a sentence or two."""
    if not answer.rate:
        return f"no rate down to {min(probe.rate for probe in answer.probes):.2f}/s stayed inside the SLO"
    text = f"highest rate inside the SLO at p99: {answer.rate:.2f}/s; plan for {SHARE * answer.rate:.2f}/s (x {SHARE})"
    if answer.stopped_by == "generator":
        text += "\nWARNING: the generator was the limit, so the server may carry more; use more machines or processes"
    elif answer.stopped_by == "bounds":
        text += (
            "\nWARNING: the search ended at its bounds and the server may carry more; raise --highest or --most-probes"
        )
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 found, 1 not even the lowest rate passed, 2 bad usage."""
    arguments = parser()
    options = arguments.parse_args(argv)
    try:
        target, items = make_target(options), read_trace(options.trace)
        if options.lowest > options.highest:
            raise WorkloadError("--lowest is above --highest")
        asking = make_asking(options)
    except (ValueError, OSError) as error:
        arguments.error(str(error))
    prober = Prober(target, items, asking, Slo(options.slo_ttft, options.slo_tpot), options.probe)
    bounds = (options.first, options.lowest, options.highest, options.precision, options.most_probes)
    answer: Answer = run_in_loop(search(prober, *bounds))
    print(words(answer))
    if options.json:
        Path(options.json).write_text(json.dumps(_to_json(answer), indent=1) + "\n")
    return 0 if answer.rate else 1


def _to_json(answer: Answer) -> dict[str, Any]:
    value = {"plan_for": SHARE * answer.rate, **dataclasses.asdict(answer)}
    for probe in value["probes"]:
        for name in ("ttft_p99", "tpot_p99"):
            probe[name] = probe[name] if math.isfinite(probe[name]) else None
    return value


if __name__ == "__main__":
    sys.exit(main())
