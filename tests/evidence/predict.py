"""Prediction in real time: simulated fleets over HTTP, picked by `predicted_latency` and by what it has to beat.

Chat with 8 % long prompts on equal engines, and chat on engines of which half have 0.4 times the speed, each at a rate
at which the policies differ: the same arrivals and lengths for every policy, in interleaved rounds. Bar: attainment no
lower than with each other policy. Then one engine of eight becomes three times slower and tells nobody: from 10 s on,
TTFT p95 is within 1.2 x of the fleet without that engine; when it recovers, it gets its share again. A run in which a
process or the client was short of CPU does not count.

    python -m tests.evidence.predict [--short] [--rounds N] [--only CASE...] [--against POLICY...]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from loadtest.lab.statistics import mean
from loadtest.measure import Record, Slo
from loadtest.workload import Item, arrivals, constant, read_trace, with_arrivals
from tests.bench.rounds import Bar, table
from tests.evidence.fleets import Group, Played, play
from tests.evidence.streams import TRACE, Run
from tests.evidence.support import Sim, conclude, parse

OURS = "predicted_latency"
AGAINST = ("least_inflight", "lmetric", "predicted_ttft")
LONG_PROMPTS = (9.01, 0.90, 60_000)  # log-normal: mean 11,642 tokens, CV 1.11; the longest
WARM_UP = 15.0  # seconds that are not in the figures
WITHIN, RATIO, RESTORED = 10.0, 1.2, 0.7


@dataclass(frozen=True, slots=True)
class Case:
    """A fleet, what it is asked and what is promised (seconds)."""

    name: str
    groups: tuple[Group, ...]
    rate: float
    long_share: float
    slo: Slo
    seconds: float = 75.0


LONG = Case("chat + 8 % long", (Group(4),), 16.0, 0.08, Slo(2.0, 0.060))
MIXED = Case("mixed hardware", (Group(3), Group(3, speed=0.4)), 28.0, 0.0, Slo(1.0, 0.060))
SHORT = Case("short", (Group(2, speed=4.0),), 20.0, 0.0, Slo(1.0, 0.060), 4.0)
CASES = {"long": LONG, "mixed": MIXED}
SLOW = Case("one of eight 3 x slower", (Group(8, speed=0.5),), 25.0, 0.0, Slo(1.0, 0.120), 120.0)
SLOW_FROM, SLOW_TO = 40.0, 80.0


def load(case: Case, seed: int, longest: int = 10_000) -> list[Item]:
    """Poisson arrivals, the lengths of the trace from a drawn place on, a share of prompts replaced by long ones."""
    random = np.random.default_rng(seed)
    chat = [item for item in read_trace(TRACE) if item.output_tokens <= longest]
    start = int(random.integers(len(chat)))
    middle, sigma, most = LONG_PROMPTS
    items = []
    for item in with_arrivals(chat[start:] + chat[:start], arrivals(constant(case.rate), case.seconds, seed)):
        is_long = random.random() < case.long_share
        tokens = min(most, int(random.lognormal(middle, sigma))) if is_long else item.prompt_tokens
        items.append(Item(item.at, tokens, item.output_tokens))
    return items


# --- one policy against others ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Figures:
    """What the counted rounds of one policy gave: attainment by round, and of each run its line in the table."""

    attained: dict[int, float] = field(default_factory=dict)
    lines: list[list[float]] = field(default_factory=list)


def measured(played: Played, from_: float, to: float = float("inf")) -> list[Record]:
    return [record for record in played.records if from_ <= record.intended < to]


def percentile(values: Sequence[float | None], q: float) -> float:
    known = [value for value in values if value is not None]
    return float(np.percentile(known, q)) if known else float("nan")


def line(played: Played, records: Sequence[Record], slo: Slo) -> list[float]:
    """The figures of one run, in the table's order."""
    ttft, tpot = [r.ttft for r in records], [r.tpot for r in records]
    return [sum(map(slo.met, records)) / len(records), percentile(ttft, 50), percentile(ttft, 95), percentile(ttft, 99),
            1e3 * percentile(tpot, 50), 1e3 * percentile(tpot, 95), played.gauge("error", "ttft"),
            played.gauge("coverage", "ttft"), played.gauge("error", "tpot"), played.gateway]  # fmt: skip


HEAD = ("policy", "rounds", "attained", "TTFT p50 s", "p95", "p99", "TPOT p50 ms", "p95", "TTFT error", "covered",
        "TPOT error", "gateway, of a core")  # fmt: skip


def compare(case: Case, rounds: int, against: Sequence[str], short: bool) -> tuple[list[Bar], list[Bar]]:
    """The rounds of one case, its table, and its bars: counted and timed."""
    policies, failed, slo = (OURS, *against), 0, told(case.slo)
    found = {policy: Figures() for policy in policies}
    print(f"\n{case.name}: {case.rate:g} requests a second on {_fleet(case)}; promised {slo}", flush=True)
    for number in range(rounds):
        items = load(case, 1 + number, 80 if short else 10_000)
        for policy in (*policies[number % len(policies):], *policies[: number % len(policies)]):
            played, _ = play(case.groups, policy, items, 1000 * number + policies.index(policy), slo)
            records = measured(played, 0.0 if short else WARM_UP)
            failed += sum(not record.ok for record in played.records)
            figures = line(played, records, case.slo)
            say(number, policy, played, figures)
            if not played.why_not or short:
                found[policy].attained[number] = figures[0]
                found[policy].lines.append(figures)
    print(table(HEAD, [row(policy, figures) for policy, figures in found.items()]), flush=True)
    bars = [gain(case, found[OURS], found[policy], policy) for policy in against]
    return [Bar(f"{case.name}: requests that failed", failed, 0)], bars


def told(slo: Slo) -> dict[str, str]:
    """What is promised, as the configuration has it."""
    return {"ttft": f"{(slo.ttft or 0) * 1e3:g}ms", "tpot": f"{(slo.tpot or 0) * 1e3:g}ms"}


def _fleet(case: Case) -> str:
    return " + ".join(f"{group.count} x A100 at speed {group.speed:g}" for group in case.groups)


def say(number: int, policy: str, played: Played, figures: Sequence[float]) -> None:
    shares = ", ".join(f"{name} {share:.0%}" for name, share in played.shares.mean.items())
    valid = f" (does not count: {played.why_not})" if played.why_not else ""
    if reasons := Counter(record.failure for record in played.records if not record.ok):
        valid += f"; failed: {dict(reasons)}"
    print(f"round {number + 1}, {policy}: attained {figures[0]:.1%}, TTFT p95 {figures[2]:.3f} s; of a core: {shares}; "
          f"start lag p99 {played.run.lag * 1e3:.1f} ms, load average {os.getloadavg()[0]:.1f}{valid}", flush=True)


def row(policy: str, figures: Figures) -> list[str]:
    """Medians over the rounds that count."""
    if not figures.lines:
        return [policy, "0", *["-"] * (len(HEAD) - 2)]
    middle = [statistics.median(column) for column in zip(*figures.lines, strict=True)]
    forms = ("{:.1%}", "{:.3f}", "{:.3f}", "{:.3f}", "{:.1f}", "{:.1f}", "{:.1%}", "{:.1%}", "{:.1%}", "{:.0%}")
    shown = ["-" if value != value else form.format(value) for form, value in zip(forms, middle, strict=True)]
    return [policy, str(len(figures.lines)), *shown]


def gain(case: Case, ours: Figures, theirs: Figures, name: str) -> Bar:
    """Attainment lost against another policy, in points, over the rounds that count for both. Less than 0 is a gain."""
    common = sorted(ours.attained.keys() & theirs.attained.keys())
    lost = mean([100.0 * (theirs.attained[number] - ours.attained[number]) for number in common])
    what = f"{case.name}: attainment lost against {name} ({lost.low:.1f} to {lost.high:.1f})"
    return Bar(what, lost.value, 0.0, " points")


# --- a silently slow engine ------------------------------------------------------------------------------------------


def slow() -> tuple[list[Bar], list[Bar]]:
    """The fleet without the engine, and the fleet with it while it is slow for a while."""
    group = SLOW.groups[0]
    items, slo = load(SLOW, 21), told(SLOW.slo)
    print(f"\n{SLOW.name}: {SLOW.rate:g} requests a second on {_fleet(SLOW)}; slow from {SLOW_FROM:g} to {SLOW_TO:g} s")

    async def slow_down(run: Run, sims: list[Sim]) -> None:
        await run.until(SLOW_FROM)
        await asyncio.to_thread(sims[0].fault, "slow", value=3, **{"for": SLOW_TO - SLOW_FROM})

    without, _ = play((Group(group.count - 1, group.speed, group.chunk),), OURS, items, 31, slo)
    say(0, f"{OURS}, seven engines", without, line(without, measured(without, WARM_UP), SLOW.slo))
    played, urls = play(SLOW.groups, OURS, items, 32, slo, slow_down)
    say(0, OURS, played, line(played, measured(played, WARM_UP), SLOW.slo))
    ratio, share = spans(played, without, urls[0], group.count)
    if played.why_not or without.why_not:
        ratio = share = float("nan")
    failed = sum(not record.ok for record in (*played.records, *without.records))
    return ([Bar(f"{SLOW.name}: requests that failed", failed, 0)],
            [Bar(f"{SLOW.name}: TTFT p95 from {WITHIN:g} s on, of that without it", ratio, RATIO, " x"),
             Bar(f"{SLOW.name}: of its share of requests, missing at last", 1.0 - share, 1.0 - RESTORED)])  # fmt: skip


def spans(played: Played, without: Played, slowed: str, count: int) -> tuple[float, float]:
    """Before, during and after: the table. TTFT p95 once it was noticed, of that without it; its share at the end."""
    edges = {"before": (WARM_UP, SLOW_FROM), f"its first {WITHIN:g} s": (SLOW_FROM, SLOW_FROM + WITHIN),
             "then, until its end": (SLOW_FROM + WITHIN, SLOW_TO), f"{WITHIN:g} s more": (SLOW_TO, SLOW_TO + WITHIN),
             "from then on": (SLOW_TO + WITHIN, SLOW.seconds)}  # fmt: skip
    rows, found = [], []
    for name, (from_, to) in edges.items():
        one, other = measured(played, from_, to), measured(without, from_, to)
        p95, reference = (percentile([record.ttft for record in records], 95) for records in (one, other))
        share = count * sum(record.endpoint == slowed for record in one) / max(1, len(one))
        rows.append([name, f"{p95:.3f}", f"{reference:.3f}", f"{share:.2f}"])
        found.append((p95 / reference, share))
    print(table(["", "TTFT p95, s", "without it", "its requests, of a mean one's"], rows), flush=True)
    return found[2][0], found[-1][1]


# --- the command -----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rounds", type=int, default=3)
        parser.add_argument("--only", nargs="+", choices=[*CASES, "slow"], default=[*CASES, "slow"])
        parser.add_argument("--against", nargs="*", default=AGAINST, metavar="POLICY")

    options = parse(__doc__ or "", argv, add)
    counted: list[Bar] = []
    timed: list[Bar] = []
    if options.short:
        counted, timed = compare(SHORT, 1, (), short=True)
        return conclude(counted, timed, short=True)
    for name in options.only:
        bars = slow() if name == "slow" else compare(CASES[name], options.rounds, options.against, False)
        counted += bars[0]
        timed += bars[1]
    return conclude(counted, timed)


if __name__ == "__main__":
    sys.exit(main())
