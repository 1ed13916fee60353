"""How soon a canary's fault is found at 5 % of the traffic, beside a rule on one-minute windows, in virtual time.

Bars: for a TTFT that is 30 % longer, errors of 3 instead of 1 %, and 1 % of broken streams, our median time to roll
back is at most half of the rule's, whose thresholds are tuned to no more false alarms than ours on the same runs.
Runs that were made are kept, so it can be stopped and goes on; page, picture and figures go to docs/lab.

    python -m tests.evidence.canary_detection [--short] [--runs N] [--jobs N]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.lab.canary_cli import RUNS, asked
from loadtest.lab.study import default_jobs
from tests.bench.rounds import Bar
from tests.evidence.support import conclude

SHORT = 2  # runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(prog="canary_detection", description=__doc__)
    parser.add_argument("--short", action="store_true", help=f"{SHORT} runs, and nothing is written")
    parser.add_argument("--runs", type=int, default=RUNS["detection"], help="of each kind (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=default_jobs(), help="processes (default: %(default)s)")
    args = parser.parse_args(arguments)
    if args.short:
        page = asked("detection", SHORT, 1, None, short=True)
    else:
        page = asked("detection", args.runs, args.jobs, Path("build/lab/memory"))
        page.write(Path("docs/lab"))
    print("\n".join(page.text))
    bars = [Bar(bar.what, bar.found, bar.wanted) for bar in page.bars]
    if not args.short:
        return conclude(bars)
    missed = sum(time is None for harm in page.figures["runs"].values() for time in harm["times"])
    return conclude([Bar("runs whose fault was not found", missed, 0)], bars, short=True)


if __name__ == "__main__":
    sys.exit(main())
