"""How soon a canary's fault is found at 5 % of the traffic, beside a rule on one-minute windows, in virtual time.

Bars: for a TTFT that is 30 % longer, errors of 3 instead of 1 %, and 1 % of broken streams, our median time to roll
back is at most half of the rule's, whose thresholds are tuned to no more false alarms than ours on the same runs.
Runs that were made are kept, so it can be stopped and goes on; page, picture and figures go to docs/lab.

    python -m tests.evidence.canary_detection [--short] [--runs N] [--jobs N]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tests.bench.rounds import Bar
from tests.evidence.canary_pages import page_of
from tests.evidence.support import conclude


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, judge."""
    page, is_short = page_of("detection", __doc__, arguments)
    bars = [Bar(bar.what, bar.found, bar.wanted) for bar in page.bars]
    if not is_short:
        return conclude(bars)
    missed = sum(time is None for harm in page.figures["runs"].values() for time in harm["times"])
    return conclude([Bar("runs whose fault was not found", missed, 0)], bars, short=True)


if __name__ == "__main__":
    sys.exit(main())
