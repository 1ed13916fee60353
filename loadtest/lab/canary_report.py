"""The two pages of canaries: good ones that were rolled back and bad ones that were not, and how soon a fault is found.

Each is a table with its bars, a picture and a JSON file of all figures. Left to others: the runs (`canary_study`), the
rival's thresholds (`flagger`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from loadtest.lab.canary_study import (
    EQUAL,
    OFTEN,
    RULE,
    SHARE,
    SLOWER,
    WATCHED,
    WATCHED_EQUAL,
    Found,
    Harm,
    most_likely,
)
from loadtest.lab.canary_watch import Verdict
from loadtest.lab.cells import percent, table
from loadtest.lab.flagger import ALONE, CHECKS, Tuned, Windows, best
from loadtest.lab.flagger import RULE as WINDOWS
from loadtest.lab.picture import Curve, over_time

WANTED = 0.05  # false rollbacks, and false promotions
HALF = 0.5  # of the rival's median
MOST_REASONS = 20
_POINTS = 41


@dataclass(frozen=True, slots=True)
class Bar:
    """One thing that was to be shown."""

    what: str
    found: float
    wanted: float

    @property
    def kept(self) -> bool:
        """Whether it was."""
        return self.found <= self.wanted


@dataclass(frozen=True, slots=True)
class Page:
    """What is written: `name`.md, .svg and .json."""

    name: str
    text: list[str]
    picture: str
    figures: dict[str, Any]
    bars: list[Bar]

    def write(self, folder: Path) -> Path:
        """Into a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        page = folder / f"{self.name}.md"
        page.write_text("\n".join(self.text) + "\n", encoding="utf-8")
        page.with_suffix(".svg").write_text(self.picture, encoding="utf-8")
        page.with_suffix(".json").write_text(json.dumps(self.figures) + "\n", encoding="utf-8")
        return page


# -- A/A


def rollouts(equal: Sequence[Found], slower: Sequence[Found], command: str) -> Page:
    """Whole rollouts of a canary that is as good, and of one that is slower."""
    slow = f"{percent(SLOWER - 1.0)} slower"
    kinds = {"equal": equal, slow: slower}
    bars = [Bar("rolled back though equal", _share(equal, "rolled_back"), WANTED),
            Bar(f"promoted though {slow}", _share(slower, "promoted"), WANTED)]  # fmt: skip
    title = "Canaries: false alarms and false promotions"
    end = max(one.verdict.after for found in kinds.values() for one in found)
    curves = [Curve(f"{kind}: {word.replace('_', ' ')}", _rising(found, word, end), f" {percent(_share(found, word))}")
              for kind, found in kinds.items() for word in ("promoted", "rolled_back")]  # fmt: skip
    head = ["canary", "rollouts", "rolled back", "promoted", "still open", "until promoted, s", "until rolled back, s",
            "its answers until then"]  # fmt: skip
    shown = table(head, [_row(kind, found) for kind, found in kinds.items()])
    steps = f"steps {', '.join(f'{percent(step)}' for step in RULE.steps)}, each held for {RULE.hold:g} s at least"
    text = [f"# {title}", "", *_about(), f"Whole rollouts: {steps}; a look at every answer.", "",
            f"![{title}](canary_aa.svg)", "", *shown, "", _SHARES, "", *_verdicts(bars), "",
            *_reasons("equal", equal), f"Made by `{command}`."]  # fmt: skip
    runs = {kind: [_in_short(one.verdict) for one in found] for kind, found in kinds.items()}
    picture = over_time(title, f"{steps}; a look at every answer", "share of the rollouts", curves, {})
    return Page("canary_aa", text, picture, {"bars": [asdict(bar) for bar in bars], "runs": runs}, bars)


_SHARES = "Shares with their 95 % intervals (Clopper and Pearson); times are medians from the canary's beginning."


def _about() -> list[str]:
    trial, drift, margin = WATCHED_EQUAL, WATCHED_EQUAL.drift, RULE.margin
    usual = EQUAL.wrong[0]
    return [
        f"Two pools of simulated engines ({trial.stable.count} + {trial.canary.count} of `{trial.stable.profile}`), "
        f"{trial.rate:g} requests/s that swing by {percent(drift.swing)} in {drift.period:g} s; "
        f"{percent(drift.least)} to {percent(drift.most)} of them are long prompts, changing over {drift.mix:g} s; "
        "both from places that the seed draws. Production router, fleets, predictors, frozen prices, judge and steps; "
        f"margins {percent(margin.ttft)} (TTFT), {percent(margin.tpot)} (TPOT), {100.0 * margin.errors:g} points "
        f"(failures), risk {RULE.risk:g}. Of either arm's requests {percent(usual.errors)} fail and "
        f"{percent(usual.truncated)} of the streams break off, unless another figure is named "
        f"({percent(OFTEN.errors)} where errors are what is wrong).",
        "",
    ]


def _row(kind: str, found: Sequence[Found]) -> list[str]:
    cells = [kind, str(len(found))]
    for word in ("rolled_back", "promoted", "open"):
        cells.append(_with_interval(sum(one.verdict.outcome == word for one in found), len(found)))
    for word in ("promoted", "rolled_back"):
        cells.append(_median([one.verdict.after for one in found if one.verdict.outcome == word]))
    return [*cells, _median([one.verdict.answers for one in found if one.verdict.outcome != "open"])]


def _in_short(verdict: Verdict) -> list[object]:
    """Outcome, seconds, the canary's answers, and of a rollback why."""
    why = [verdict.why] if verdict.outcome == "rolled_back" else []
    return [verdict.outcome, round(verdict.after, 1), verdict.answers, *why]


def _with_interval(count: int, of: int) -> str:
    low, high = most_likely(count, of)
    return f"{percent(count / of)} ({percent(low)} to {percent(high)})"


def _reasons(kind: str, found: Sequence[Found]) -> list[str]:
    wrong = [one.verdict for one in found if one.verdict.outcome == "rolled_back"]
    if not wrong:
        return []
    reasons = [f"* after {verdict.after:.0f} s: {verdict.why}" for verdict in wrong[:MOST_REASONS]]
    return [f"Why {kind} ones were rolled back:", "", *reasons, ""]


# -- detection


def detection(found: Sequence[tuple[Harm, Sequence[Found], Sequence[Found]]], command: str) -> Page:
    """How soon a fault is found at a small share, beside the tuned rival; with each the runs with and without it."""
    rows, bars, curves, figures = [], [], [], {}
    for harm, harmed, equal in found:
        times = [one.rolled_back for one in harmed]
        wrong = sum(one.verdict.outcome == "rolled_back" for one in equal)
        asked = (WINDOWS, wrong), (WINDOWS, int(WANTED * len(equal))), (ALONE, wrong)
        tuned = [best(_windows(equal), _windows(harmed), alarms, kinds) for kinds, alarms in asked]
        same, lasts = tuned[0][1], harm.trial.requests / harm.trial.rate
        rows.append([harm.what, str(len(harmed)), _with_interval(wrong, len(equal)), _spread(times),
                     *(cell for rule, theirs in tuned for cell in (_rule(rule), _spread(theirs)))])  # fmt: skip
        bars.append(Bar(f"{harm.what}: our median over the rival's", _ratio(median(times), median(same)), HALF))
        curves += [Curve(f"{harm.what}: ours", _over(times, lasts), f" {_seconds(median(times))}"),
                   Curve(f"{harm.what}: windows", _over(same, lasts), f" {_seconds(median(same))}")]  # fmt: skip
        figures[harm.what] = {
            "times": _finite(times), "answers": [one.verdict.answers for one in harmed], "equal": [len(equal), wrong],
            "why": [one.verdict.why for one in harmed],
            "rivals": [{"rule": asdict(rule), "times": _finite(theirs)} for rule, theirs in tuned],
        }  # fmt: skip
    title = f"Canaries: how soon a fault is found at {percent(SHARE)}"
    head = ["what is wrong", "runs", "our false alarms", "ours, s", "windows, as many false alarms", "s",
            f"windows, {percent(WANTED)}", "s", "one metric alone, as many", "s"]  # fmt: skip
    equals = [one for _, _, equal in found for one in equal]
    text = [f"# {title}", "", *_about(), *_RIVAL, f"![{title}](canary_detection.svg)", "", *table(head, rows), "",
            _TIMES, "", *_verdicts(bars), "", *_reasons("equal", equals), f"Made by `{command}`."]  # fmt: skip
    picture = over_time(title, "medians behind the names", "share of the runs that were rolled back", curves, {})
    return Page("canary_detection", text, picture, {"bars": [asdict(bar) for bar in bars], "runs": figures}, bars)


_TIMES = "Medians with quartiles, in seconds from the canary's beginning; – is never within the run."
_LASTS, _BRIEF = (trial.requests / trial.rate for trial in (WATCHED_EQUAL, WATCHED[0].trial))
_RIVAL = [
    f"The canary keeps {percent(SHARE)} of the traffic for {_LASTS:.0f} s at most ({_BRIEF:.0f} s for the TTFT). The "
    "rival checks one-minute windows of the canary as Flagger does (p99 of the time to the first token, share of "
    f"answers that failed) and rolls back after so many failed checks in all ({', '.join(map(str, CHECKS))}: what "
    "finds the fault soonest). Its thresholds are the lowest that have no more false alarms than ours had, or than "
    f"{percent(WANTED)}, on the same runs without the fault. The last two columns are a rule that looks at one figure "
    "alone, the best one for this fault (errors and broken streams apart, which no mesh tells).",
    "",
]


def _windows(found: Sequence[Found]) -> list[Windows]:
    return [one.windows for one in found if one.windows is not None]


def _rule(rule: Tuned) -> str:
    limits = [f"{name} > {f'{most:.2f} s' if name == 'p99' else percent(most)}" for name, most in rule.most.items()]
    return f"{' or '.join(limits)}; {rule.checks} failed"


def _ratio(mine: float, theirs: float) -> float:
    return math.inf if math.isinf(mine) else mine / theirs


# -- figures


def _share(found: Sequence[Found], word: str) -> float:
    return sum(one.verdict.outcome == word for one in found) / len(found)


def _rising(found: Sequence[Found], word: str, end: float) -> list[tuple[float, float]]:
    """The share with this outcome until then, over time."""
    return _over([one.verdict.after if one.verdict.outcome == word else math.inf for one in found], end)


def _over(times: Sequence[float], end: float) -> list[tuple[float, float]]:
    ordered = np.sort(np.array(times))
    return [(float(at), float(np.searchsorted(ordered, at, "right")) / len(ordered))
            for at in np.linspace(0.0, end, _POINTS)]  # fmt: skip


def _finite(times: Sequence[float]) -> list[float | None]:
    """As JSON has it: None for never."""
    return [round(time, 1) if math.isfinite(time) else None for time in times]


def _median(values: Sequence[float]) -> str:
    return f"{median(values):,.0f}" if values else "–"


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if math.isfinite(value) else "–"


def _spread(times: Sequence[float]) -> str:
    ordered = sorted(times)
    quarter = [ordered[round(share * (len(ordered) - 1))] for share in (0.25, 0.75)]
    shown = [f"{value:.0f}" if math.isfinite(value) else "–" for value in (median(times), *quarter)]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def _verdicts(bars: Sequence[Bar]) -> list[str]:
    rows = [[bar.what, f"≤ {bar.wanted:g}", f"{bar.found:.3g}", "met" if bar.kept else "**missed**"] for bar in bars]
    return table(["bar", "wanted", "found", ""], rows)
