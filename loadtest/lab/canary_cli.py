"""`headway lab canary`: the two questions about canaries, answered by many rollouts in virtual time.

`aa`: how often is a good one rolled back, and a slower one promoted? `detection`: how soon is a fault found while the
canary has 5 % of the traffic? A run that was made is kept in `--memory`, so either can be stopped and goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from loadtest.lab.canary_report import Page, detection, rollouts
from loadtest.lab.canary_study import FIRST_SEED, ROLLOUTS, WATCHED, Do, Harm, runs
from loadtest.lab.study import complain, crew, default_jobs

RUNS = {"aa": 400, "detection": 40}
"""Of each kind."""
EQUAL_RUNS = 1.5  # times as many of equal arms, on which the rival's thresholds are tuned
SHORT = 3000  # requests of a run in the short form


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "question", choices=tuple(RUNS), help="false alarms and promotions, or how soon faults are found"
    )
    parser.add_argument("--runs", type=_positive, help=f"of each kind (default: {RUNS['aa']}, {RUNS['detection']})")
    parser.add_argument("--jobs", type=_positive, default=default_jobs(), help="processes (default: %(default)s)")
    parser.add_argument("--memory", default="build/lab/memory", help="what was simulated is kept here")
    parser.add_argument("--out", default="docs/lab", help="folder for page, picture and figures (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Do it. Returns 1 for a missed bar."""
    page = asked(args.question, args.runs or RUNS[args.question], args.jobs, Path(args.memory))
    written = page.write(Path(args.out))
    print("\n".join(page.text))
    print(f"report: {written}")
    return 0 if all(bar.kept for bar in page.bars) else 1


def asked(question: str, count: int, jobs: int, folder: Path | None, short: bool = False) -> Page:
    """The page that answers it, after so many runs of each kind; in its `short` form of the first fault only."""
    with crew(jobs, complain) as workers:
        if question == "aa":
            return _aa(count, workers.do, folder)
        return _detection(count, workers.do, folder, short)


def _aa(count: int, do: Do, folder: Path | None) -> Page:
    equal, slower = (runs(trial, _seeds(count), do, folder) for trial in ROLLOUTS)
    return rollouts(equal, slower, f"headway lab canary aa --runs {count}")


def _detection(count: int, do: Do, folder: Path | None, short: bool) -> Page:
    harms = [_shortened(WATCHED[0])] if short else WATCHED
    found = [(harm, runs(harm.trial, _seeds(count), do, folder),
              runs(harm.equal, _seeds(round(EQUAL_RUNS * count)), do, folder)) for harm in harms]  # fmt: skip
    return detection(found, f"headway lab canary detection --runs {count}")


def _shortened(harm: Harm) -> Harm:
    trial, equal = (replace(trial, requests=SHORT) for trial in (harm.trial, harm.equal))
    return replace(harm, trial=trial, equal=equal)


def _seeds(count: int) -> range:
    return range(FIRST_SEED, FIRST_SEED + count)


def _positive(words: str) -> int:
    value = int(words)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
