"""Many streams at once: does the gap between tokens stay what the server made it?

1,000 streams of 20 tokens a second, straight and through Headway in turn. Bar: gap p99 at most twice the direct one.

    python -m tests.bench.many_streams [--streams N] [--rounds N]
"""

from __future__ import annotations

import argparse
import sys

from tests.bench.client import Load
from tests.bench.rounds import Bar, failures, verdict
from tests.bench.versus import DIRECT, HEADWAY, against_direct, pooled, show

BAR = 2.0
TOKENS_PER_SECOND = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.many_streams", description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--endpoints", type=int, default=4)
    options = parser.parse_args()
    start = 2.0   # seconds over which the streams begin; each lasts five times as long, so all run at once
    load = Load(rate=options.streams / start, seconds=start, tokens=int(5 * start * TOKENS_PER_SECOND),
                token_rate=TOKENS_PER_SECOND, first=0.05, connections=options.streams)  # fmt: skip
    results = against_direct(load, options.rounds, options.endpoints)
    show(results, "gaps", "gap between tokens")
    ratio = pooled(results[HEADWAY], "gaps", 99) / pooled(results[DIRECT], "gaps", 99)
    bar = Bar(f"{options.streams} streams, gap between tokens p99, of direct", ratio, BAR, " x")
    return verdict([failures(results), bar])


if __name__ == "__main__":
    sys.exit(main())
