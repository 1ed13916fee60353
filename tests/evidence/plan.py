"""A plan's word: what it foresees of changed files, beside a rerun with the true engines, which it has never seen.

One old configuration is run in the lab on engines that only this program knows, and leaves decision records. From the
records alone `headway plan` says what share of requests would keep their promise under each changed file: an engine
fewer, other weights, a fallback, a tighter promise, another policy, long prompts apart. Then the same requests are run
under that file with the true engines. Bar: the two are within 3 points, for every model of every file. And asked about
the old file itself, the plan must give back every recorded decision: of the lab, and of a real gateway whose file uses
everything that decides.

    python -m tests.evidence.plan [--short] [--requests N] [--seeds N] [--real N]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gateway.plan.lab import Forecaster
from gateway.plan.records import read
from gateway.plan.replay import Replay
from gateway.plan.values import Figure
from gateway.plan.verb import replay
from loadtest.lab import foresight
from tests.bench.rounds import Bar
from tests.evidence.plan_cases import CASES, Case
from tests.evidence.plan_gateway import replayed
from tests.evidence.plan_world import config_of, recorded, truth
from tests.evidence.support import conclude, folder, parse

POINTS = 3.0


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


def compare(case: Case, where: Path, requests: int, seeds: Sequence[int], some: int | None) -> tuple[float, Bar]:
    """Print foreseen and true for each model of each file; the worst difference, and whether records come out again."""
    world, old = case.world(where, requests, case.rate), config_of(where, "old", case.old)
    recorded(world, old, where / "records.jsonl", 1)
    history = read(str(where / "records.jsonl"))
    again = replay(old, old, history, same=True)
    print(f"{case.name}: {requests} requests recorded under the old file, {case.rate:g} a second. Asked about that "
          f"file, {len(again.mismatches)} come out otherwise; {again.checked} endpoints chosen again, "
          f"{again.determined} of them without another choice. Promises kept, per cent:")  # fmt: skip
    print(f"  {'file':<28}{'model':<8}{'foreseen':>8}{'true':>16}{'points':>16}", flush=True)
    forecaster, worst = Forecaster(foresight, history.requests, old, where / "records.jsonl", where), 0.0
    for file, content in list(case.files.items())[:some]:
        new = config_of(where, "new", content)
        asked = Replay(new, old)
        found = forecaster.foresee(new, [asked.judge(past) for past in history.requests], set(), seeds)
        assert not found.blind, found
        setting, runs = truth(world, new, [100 + seed for seed in seeds])
        said = {one.model: one.attainment for one in found.lines if not one.pool}
        for one in foresight.summed(setting, runs):
            if not one.pool:
                compared = Compared(file, one.model or "all", said[one.model], one.attainment)
                print(compared, flush=True)
                worst = max(worst, compared.points)
    return worst, Bar(f"{case.name}: recorded decisions that do not come out again", len(again.mismatches), 0)


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
        parser.add_argument("--requests", type=int, default=4000)
        parser.add_argument("--seeds", type=int, default=5)
        parser.add_argument("--real", type=int, default=3000, help="requests to a real gateway (default: %(default)s)")

    options = parse(__doc__ or "", argv, add)
    requests, seeds, asked = (1500, 1, 150) if options.short else (options.requests, options.seeds, options.real)
    with folder() as where:
        counted = real(where, asked)
    worst = 0.0
    for case in CASES[: 1 if options.short else None]:
        with folder() as where:
            points, bar = compare(case, where, requests, range(seeds), 2 if options.short else None)
        worst, counted = max(worst, points), [*counted, bar]
    bar = Bar("worst difference between foreseen and true, points", worst, POINTS)
    return conclude(counted, [bar], options.short)


if __name__ == "__main__":
    sys.exit(main())
