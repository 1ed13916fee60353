"""Canaries that are as good as their neighbours, and canaries that are slower: 400 rollouts of each in virtual time.

Bars: of the good ones at most 5 % are rolled back, of those that are 20 % slower at most 5 % are promoted, with a look
at every answer, while rate and mix of the traffic drift.
Runs that were made are kept, so it can be stopped and goes on; page, picture and figures go to docs/lab.

    python -m tests.evidence.canary_aa [--short] [--runs N] [--jobs N]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tests.bench.rounds import Bar
from tests.evidence.canary_pages import page_of
from tests.evidence.support import conclude


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, judge."""
    page, is_short = page_of("aa", __doc__, arguments)
    return conclude([Bar(bar.what, bar.found, bar.wanted) for bar in page.bars], short=is_short)


if __name__ == "__main__":
    sys.exit(main())
