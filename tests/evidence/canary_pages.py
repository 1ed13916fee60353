"""What the two canary evidences in the lab share: their arguments, and the page that a question comes to.

Runs that were made are kept, so it can be stopped and goes on; page, picture and figures go to docs/lab.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from loadtest.lab.canary_cli import RUNS, asked
from loadtest.lab.canary_report import Page
from loadtest.lab.study import default_jobs

SHORT = 2  # runs


def page_of(question: str, about: str | None, arguments: Sequence[str] | None) -> tuple[Page, bool]:
    """Ask it as the command line says and print the page. Whether it was the short form: then nothing is written."""
    parser = argparse.ArgumentParser(prog=f"canary_{question}", description=about)
    parser.add_argument("--short", action="store_true", help=f"{SHORT} runs, and nothing is written")
    parser.add_argument("--runs", type=int, default=RUNS[question], help="of each kind (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=default_jobs(), help="processes (default: %(default)s)")
    args = parser.parse_args(arguments)
    if args.short:
        page = asked(question, SHORT, 1, None, short=True)
    else:
        page = asked(question, args.runs, args.jobs, Path("build/lab/memory"))
        page.write(Path("docs/lab"))
    print("\n".join(page.text))
    return page, args.short
