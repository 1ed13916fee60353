"""The judge of canaries on rollouts drawn at random: false rollbacks, false promotions, and how soon harm shows.

Hundreds of rollouts with drift, servers that have good and bad minutes, seconds that requests share, heavy tails and
breakdowns (`tests.support.drawn_rollouts`), a look at every request. Bars: of canaries that are as good as the others
at most 5 % are rolled back; of those a fifth slower at most 5 % are promoted; gross harm shows within a hundred
requests of the canary. How soon the rest shows is printed: real engines, and the rival, are `headway lab`'s.

    python -m tests.evidence.canary_synthetic [--short] [--runs 400]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gateway.core.routes import CanaryRule
from tests.bench.rounds import Bar, table
from tests.evidence.support import conclude, parse
from tests.support.drawn_rollouts import CALM, HARD, USUAL, Ended, Truth, held, rolled_out

STEPS = (0.05, 0.25, 0.5, 1.0)
RULE = CanaryRule("next", STEPS, hold=300.0)
LONGEST = 4 * 3600.0
SHARE = 0.05
NEVER = float("inf")
MOST_WRONG = 5.0  # per cent
GROSS = 100
SLOWER = 1.2

ROLLOUTS = {
    "calm": Truth(rough=CALM),
    "usual": Truth(rough=USUAL),
    "hard": Truth(rough=HARD),
    "hard, one server each": Truth(rough=HARD, stable=1),
    "usual, busy": Truth(rate=40.0, rough=USUAL),
    "usual, residuals 5 % off": Truth(rough=replace(USUAL, skew=0.05)),
    "usual, servers 5 % apart": Truth(rough=replace(USUAL, apart=0.05)),
    "hard, 3 % errors": Truth(rough=HARD, errors=0.03),
}
SLOW = {
    "ttft, usual": Truth(ttft=SLOWER),
    "tpot, usual": Truth(tpot=SLOWER),
    "ttft, hard": Truth(ttft=SLOWER, rough=HARD),
    "ttft, one server each": Truth(ttft=SLOWER, rough=HARD, stable=1),
}
HARM = {
    "ttft +30 %": Truth(ttft=1.3),
    "tpot +30 %": Truth(tpot=1.3),
    "errors 1 -> 3 %": Truth(errors_canary=0.03),
    "truncated 1 %": Truth(truncated_canary=0.01),
}
GROSS_HARM = {
    "ttft x 3": Truth(ttft=3.0),
    "half of all fail": Truth(errors_canary=0.5),
    "half are truncated": Truth(truncated_canary=0.5),
    "ttft x 3 after an hour": Truth(ttft=3.0, since=3600.0),
    "half fail after an hour": Truth(errors_canary=0.5, since=3600.0),
}


@dataclass(frozen=True, slots=True)
class Row:
    """What became of the runs of one case."""

    name: str
    ended: tuple[Ended, ...]

    def share(self, *outcomes: str) -> float:
        return sum(each.outcome in outcomes for each in self.ended) / len(self.ended)

    def median(self, figure: Callable[[Ended], float], *outcomes: str) -> float:
        """Of all runs; those that ended otherwise count as never."""
        values = sorted(figure(each) if each.outcome in outcomes else NEVER for each in self.ended)
        return values[len(values) // 2]

    def because(self) -> str:
        causes = Counter(each.why.split()[0] for each in self.ended if each.outcome.startswith("roll"))
        return ", ".join(f"{cause} {count}" for cause, count in causes.most_common())


def _rollouts(cases: dict[str, Truth], runs: int, longest: float) -> list[Row]:
    def run(truth: Truth) -> Callable[[int], Ended]:
        return lambda seed: rolled_out(RULE, truth, seed, longest)

    return [_told(name, run(truth), runs) for name, truth in cases.items()]


def _held(cases: dict[str, Truth], runs: int, longest: float) -> list[Row]:
    def run(truth: Truth) -> Callable[[int], Ended]:
        return lambda seed: held(RULE, truth, seed, SHARE, truth.since + longest)[0]

    return [_told(name, run(truth), runs) for name, truth in cases.items()]


def _told(name: str, run: Callable[[int], Ended], runs: int) -> Row:
    began = time.monotonic()
    row = Row(name, tuple(run(seed) for seed in range(runs)))
    print(f"  {name}: {runs} runs in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return row


def _minutes(seconds: float) -> str:
    return "never" if seconds == NEVER else f"{seconds / 60.0:.1f} min"


def _show_rollouts(title: str, rows: Sequence[Row]) -> None:
    print(f"\n{title}: steps {', '.join(f'{step:.0%}' for step in STEPS)}, each held {RULE.hold:.0f} s")
    head = ("traffic", "promoted", "rolled back", "still running", "median time to promotion", "rolled back because of")
    print(table(head, [(
        row.name, f"{row.share('promoted'):.1%}", f"{row.share('rolled_back'):.1%}", f"{row.share('running'):.1%}",
        _minutes(row.median(lambda each: each.at, "promoted")), row.because(),
    ) for row in rows]))  # fmt: skip


def _show_held(title: str, rows: Sequence[Row]) -> None:
    print(f"\n{title}: held at {SHARE:.0%} of 10 requests a second")
    head = ("harm", "rolled back", "median time", "median requests of the canary", "because of")
    print(table(head, [(
        row.name, f"{row.share('roll_back'):.1%}", _minutes(row.median(lambda each: each.at, "roll_back")),
        f"{row.median(lambda each: each.canary, 'roll_back'):.0f}", row.because(),
    ) for row in rows]))  # fmt: skip


def _gross(row: Row) -> float:
    """Requests of the canary from the beginning of the harm, about: its share of the traffic since."""
    since = GROSS_HARM[row.name].since
    return row.median(lambda each: (each.at - since) * 10.0 * SHARE, "roll_back")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=200, help="rollouts for each promise (200: an hour and a half)")


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(__doc__ or "", argv, _arguments)
    runs, longest = (2, 900.0) if options.short else (options.runs, LONGEST)
    equal = _rollouts(ROLLOUTS, runs, longest)
    slow = _rollouts(SLOW, runs, longest / 2.0)
    harm = _held(HARM, max(2, runs // 4), min(longest, 7200.0))
    few = dict(list(GROSS_HARM.items())[:3]) if options.short else GROSS_HARM
    gross = _held(few, max(2, runs // 8), 1200.0)
    _show_rollouts("Canaries as good as the others", equal)
    _show_rollouts("Canaries a fifth slower", slow)
    _show_held("Harm", harm)
    _show_held("Gross harm", gross)
    print()
    wrong = [
        Bar(f"as good, {row.name}: rolled back", 100.0 * row.share("rolled_back"), MOST_WRONG, " %") for row in equal
    ] + [Bar(f"a fifth slower, {row.name}: promoted", 100.0 * row.share("promoted"), MOST_WRONG, " %") for row in slow]
    soon = [Bar(f"{row.name}: requests until it is rolled back", _gross(row), GROSS, "") for row in gross]
    return conclude([*wrong, *soon], short=options.short)


if __name__ == "__main__":
    sys.exit(main())
