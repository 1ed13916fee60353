"""Big prompts: what reading, checking and sending on 220 KB bodies adds to the time to the first byte.

20 requests in flight, the upstream's first token after 200 ms, straight and through Headway in turn.
Bar: added time to first byte p50 at most 3 ms, p99 at most 10 ms.

    python -m tests.bench.big_prompts [--rounds N] [--seconds S]
"""

from __future__ import annotations

import argparse
import sys

from tests.bench.client import Load
from tests.bench.rounds import Bar, failures, verdict
from tests.bench.versus import DIRECT, HEADWAY, against_direct, pooled, show

BARS = {50: 3.0, 99: 10.0}
IN_FLIGHT = 20
FIRST, TOKENS, RATE = 0.2, 10, 50.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.big_prompts", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--endpoints", type=int, default=4)
    options = parser.parse_args()
    lasts = FIRST + (TOKENS - 1) / RATE
    load = Load(rate=IN_FLIGHT / lasts, seconds=options.seconds, size=220 * 1024, tokens=TOKENS, token_rate=RATE,
                first=FIRST, connections=IN_FLIGHT)  # fmt: skip
    results = against_direct(load, options.rounds, options.endpoints)
    show(results, "first", "time to first byte")
    bars = [failures(results)]
    for share, limit in BARS.items():
        added = pooled(results[HEADWAY], "first", share) - pooled(results[DIRECT], "first", share)
        bars.append(Bar(f"220 KB bodies, {IN_FLIGHT} in flight, added first byte p{share}", added * 1e3, limit, " ms"))
    return verdict(bars)


if __name__ == "__main__":
    sys.exit(main())
