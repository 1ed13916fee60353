"""Which bars a study meets: every bar of the plan with its figure, its interval, and met, missed or open.

A bar against `best` is taken against the baseline that did best on these very seeds, which favours the baselines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from loadtest.lab.plan import BEST, OURS, Bar
from loadtest.lab.statistics import Interval, is_at_least, is_at_most
from loadtest.lab.study import Result

_LESS_IS_BETTER = ("ttft", "tpot", "slow", "first", "refused", "cost", "shift")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar, the figure found, and whether it is met; None where too few seeds leave it open."""

    bar: Bar
    figure: Interval
    met: bool | None
    against: str = ""  # the baseline that was best

    @property
    def word(self) -> str:
        """For the report."""
        return "open" if self.met is None else "met" if self.met else "missed"


def verdicts(result: Result) -> list[Verdict]:
    """One verdict per bar of the plan, in its order."""
    return [_verdict(result, bar) for bar in result.plan.study.bars]


def _verdict(result: Result, bar: Bar) -> Verdict:
    over = best_of(result, bar.figure) if bar.over == BEST else bar.over
    if bar.over:
        figure = result.ratio(bar.figure, bar.policy, over)
    else:
        row = result.row(bar.policy)
        figure = row.mean(bar.figure) if row else Interval(math.nan, math.nan, math.nan, 0)
    sides = []
    if math.isfinite(bar.at_least):
        sides.append(is_at_least(figure, bar.at_least))
    if math.isfinite(bar.at_most):
        sides.append(is_at_most(figure, bar.at_most))
    met = False if False in sides else None if None in sides else True
    return Verdict(bar, figure, met, over if bar.over == BEST else "")


def best_of(result: Result, figure: str) -> str:
    """The baseline with the best mean of a figure; empty if there is none."""
    sign = -1.0 if figure.startswith(_LESS_IS_BETTER) else 1.0
    ranked = [(sign * row.mean(figure).value, row.choice.name) for row in result.rows if row.choice.policy != OURS]
    ranked = [(value, name) for value, name in ranked if not math.isnan(value)]
    return max(ranked)[1] if ranked else ""
