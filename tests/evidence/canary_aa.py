"""Canaries that are as good as their neighbours, and canaries that are slower: 400 rollouts of each in virtual time.

Bars: of the good ones at most 5 % are rolled back, of those that are 20 % slower at most 5 % are promoted, with a look
at every answer, while rate and mix of the traffic drift.
Runs that were made are kept, so it can be stopped and goes on; page, picture and figures go to docs/lab.

    python -m tests.evidence.canary_aa [--short] [--runs N] [--jobs N]
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
    parser = argparse.ArgumentParser(prog="canary_aa", description=__doc__)
    parser.add_argument("--short", action="store_true", help=f"{SHORT} runs, and nothing is written")
    parser.add_argument("--runs", type=int, default=RUNS["aa"], help="of each kind (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=default_jobs(), help="processes (default: %(default)s)")
    args = parser.parse_args(arguments)
    if args.short:
        page = asked("aa", SHORT, 1, None, short=True)
    else:
        page = asked("aa", args.runs, args.jobs, Path("build/lab/memory"))
        page.write(Path("docs/lab"))
    print("\n".join(page.text))
    return conclude([Bar(bar.what, bar.found, bar.wanted) for bar in page.bars], short=args.short)


if __name__ == "__main__":
    sys.exit(main())
