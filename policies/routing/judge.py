"""Whether a canary is as good as its neighbours: promote, roll back, or not yet. It may be asked after every request.

The idea: two questions, each with its own evidence that may be looked at any time. Harm: is it worse at all, and by
more than the margin as far as one can see? Then it is rolled back. Being harmless: is it not worse by the margin, in
every respect? Then it may be promoted. Between the two: not yet, with about how many more requests.

- Latency (`ttft`, `tpot`): the mean of log(observed / predicted), canary less stable (`differences`).
- Failures (`errors`, `truncated`): bets on whose the next one is (`bets`). `slow` is the tripwire for latency: first
  tokens far beyond what is usual are bet on as if they were failures, which shows gross harm within tens of requests.
- What answers are like (`length`, `finish`) is told, and holds promotion when it has plainly changed; whether that is
  harm is not for statistics to say, so it never rolls back.

Stakes of one fair game after the other average to a fair game, so harm is judged by the mean stake of HARMS: the chance
of ever rolling back one that is as good is `risk` for all together. Promotion needs all of them at once, so each may
take the whole `risk`. Servers of the stable arm that differ among themselves (the A/A test in `differences`) are what
a canary may differ by as well; so may it by half a margin of latency, because an arm with little traffic and one with
much are not predicted equally well.

Left to others: what is done (`canary`), residuals (`gateway.core.frozen`), records and pages (`gateway.rollouts`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gateway.core.routes import CanaryRule
from policies.routing.bets import Bets
from policies.routing.differences import HARM, HARMLESS, Differences
from policies.routing.seen import Seen
from policies.routing.tally import Tally

__all__ = ["Judge", "Judgement", "Measure", "Seen"]

Outcome = Literal["promote", "roll_back", "not_yet"]
Says = Literal["ok", "worse", "unknown", "changed"]

HARMS = {"errors": 0.5, "truncated": 0.25, "ttft": 0.1, "tpot": 0.07, "slow": 0.08}
"""What part of the stake each has: most where evidence comes slowest. Every answer has a latency; few fail."""
NEEDED = ("ttft", "tpot", "errors", "truncated")
SLOW_MARGIN = 0.1  # points of requests that are grossly late
LENGTH_MARGIN, FINISH_MARGIN = math.log(1.25), 0.1  # beyond them promotion waits for somebody
CALIBRATION = 0.5  # of a margin of latency: two loads are not predicted equally well, and so much is no harm
APART = 2.0  # standard deviations between servers of the stable arm that are no harm
UNMEASURED = 50  # requests of the canary without a value: there is none, and it is not waited for
UNMEASURED_STABLE = 100  # of the others: a regression and what is usual take 62 answers to say anything
AFRESH = 30.0  # seconds after which intervals are drawn anew, while nothing is decided
MOST_GROWN = 1024.0
VERSION = 1


@dataclass(frozen=True, slots=True)
class Measure:
    """One respect in which the arms are compared. `estimate` > 0: the canary is worse (or longer).

    `low` holds with the risk of harm divided among HARMS, `high` with that of promotion, both for ever; infinite while
    too little is known. `evidence`: the logarithm of the stake against "no worse".
    """

    name: str
    unit: Literal["ratio", "points"]
    """`ratio`: a logarithm of one. `points`: a difference of shares, 0 to 1."""
    estimate: float
    low: float
    high: float
    margin: float
    evidence: float
    says: Says
    lately: float = math.nan
    """Of failures: the estimate of the last minutes alone; NaN: not known."""
    apart: float = 0.0
    """What is no harm: servers of the stable arm differ by as much, or predictions are no better."""

    @property
    def is_beyond(self) -> bool:
        """Whether it is worse by more than the margin, as far as one can see: from the beginning, or lately."""
        least = self.margin + (self.apart if self.unit == "points" else 0.0)
        return self.estimate > least or self.lately > least


@dataclass(frozen=True, slots=True)
class Judgement:
    """What can be said by now."""

    outcome: Outcome = "not_yet"
    why: str = "nothing has been seen yet"
    needed: int | None = None
    """About how many more requests of the canary until it can be promoted; None: that cannot be said."""
    measures: tuple[Measure, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    """Requests: `stable`, `canary`."""
    finishes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """How answers ended, by arm."""
    check: str = ""
    """What the A/A test among the stable arm's servers says."""


class Judge:
    """Judges one canary. Shares, blocks and sums are kept; requests are not.

    `priced` False: latencies are not told before `price` is called, and until then nobody can say that there are none.
    """

    __slots__ = ("_drawn_at", "_intervals", "_moved", "_priced", "_said", "rule", "tally")

    def __init__(self, rule: CanaryRule, priced: bool = True) -> None:
        self.rule = rule
        self.tally = Tally()
        self._priced: tuple[int, int] | None = (0, 0) if priced else None  # requests of (stable, canary) until then
        self._said = Judgement()
        self._moved = 0
        self._drawn_at = -math.inf
        self._intervals: dict[str, tuple[float, float]] = {}

    def see(self, seen: Seen) -> None:
        self.tally.see(seen)

    def price(self) -> None:
        """From now on latencies are told."""
        stable, canary = self.tally.counts
        self._priced = stable, canary

    def look(self, now: float) -> Judgement:
        """The same as last time until a block of requests has ended since."""
        self.tally.close_until(now)
        if self._moved != self.tally.moved:
            self._moved = self.tally.moved
            self._said = self._judge(now)
        return self._said

    def _judge(self, now: float) -> Judgement:
        draw = now >= self._drawn_at + AFRESH
        measures = self._measures(draw)
        outcome, why = self._verdict(measures)
        if outcome != self._said.outcome and not draw:
            draw = True
            measures = self._measures(draw)
        if draw:
            self._drawn_at = now
        needed = self._said.needed
        if outcome != "not_yet":
            needed = 0 if outcome == "promote" else None
        elif draw:
            needed = self._needed(measures)
        check = self._check() if draw else self._said.check
        stable, canary = self.tally.finishes
        return Judgement(
            outcome, why, needed, measures, {"stable": self.tally.counts[0], "canary": self.tally.counts[1]},
            {"stable": dict(stable), "canary": dict(canary)}, check,
        )  # fmt: skip

    def _measures(self, draw: bool) -> tuple[Measure, ...]:
        tally, margin = self.tally, self.rule.margin
        found = [
            self._latency("ttft", tally.differences["ttft"], math.log1p(margin.ttft), draw),
            self._latency("tpot", tally.differences["tpot"], math.log1p(margin.tpot), draw),
            self._failure("errors", tally.bets["errors"], margin.errors, draw),
            self._failure("truncated", tally.bets["truncated"], margin.errors, draw),
            self._failure("slow", tally.bets["slow"], SLOW_MARGIN, draw),
            self._shape("length", "ratio", tally.differences["length"], LENGTH_MARGIN, draw),
            self._shape("finish", "points", tally.differences["finish"], FINISH_MARGIN, draw),
        ]
        return tuple(found)

    def _interval(self, name: str, draw: bool, bounds: Any) -> tuple[float, float]:
        if draw or name not in self._intervals:
            self._intervals[name] = bounds()
        return self._intervals[name]

    def _latency(self, name: str, sums: Differences, margin: float, draw: bool) -> Measure:
        apart = max(APART * sums.servers_apart(), CALIBRATION * margin)
        harm, harmless = sums.worse(apart), sums.better(margin)
        estimate = sums.estimate

        def bounds() -> tuple[float, float]:
            wide = sums.half_width(self.rule.risk * HARMS[name], HARM)
            return estimate - wide, estimate + sums.half_width(self.rule.risk, HARMLESS)

        low, high = self._interval(name, draw, bounds)
        found = Measure(name, "ratio", estimate, low, high, margin, harm, "unknown", apart=apart)
        return self._said_of(found, harmless)

    def _failure(self, name: str, bets: Bets, margin: float, draw: bool) -> Measure:
        risk, apart = self.rule.risk, APART * bets.heaps.servers_apart()
        low, high = self._interval(name, draw, lambda: (bets.low(risk * HARMS[name]), bets.high(risk)))
        found = Measure(name, "points", bets.estimate, low, high, margin, bets.harm(), "unknown", bets.lately, apart)
        return self._said_of(found, bets.better(margin))

    def _shape(
        self, name: str, unit: Literal["ratio", "points"], sums: Differences, margin: float, draw: bool
    ) -> Measure:
        """Longer or shorter, more or fewer: both are a change."""
        estimate, risk = sums.estimate, self.rule.risk
        harm = max(sums.worse(), sums.better(0.0)) if sums.pairs else 0.0
        wide = self._interval(name, draw, lambda: (sums.half_width(risk / 2.0, HARM),) * 2)[0]
        says: Says = "unknown"
        if abs(estimate) > margin and harm >= math.log(2.0 / risk):
            says = "changed"
        elif abs(estimate) + wide < margin:
            says = "ok"
        return Measure(name, unit, estimate, estimate - wide, estimate + wide, margin, harm, says)

    def _said_of(self, measure: Measure, harmless: float) -> Measure:
        says: Says = "ok" if harmless >= -math.log(self.rule.risk) else "unknown"
        if measure.is_beyond and measure.evidence >= -math.log(self.rule.risk * HARMS[measure.name]):
            says = "worse"
        return replace(measure, says=says)

    def _verdict(self, measures: tuple[Measure, ...]) -> tuple[Outcome, str]:
        by_name = {measure.name: measure for measure in measures}
        beyond = [by_name[name] for name in HARMS if by_name[name].is_beyond]
        if beyond:
            most = max(measure.evidence for measure in beyond)
            parts = [HARMS[measure.name] * math.exp(measure.evidence - most) for measure in beyond]
            stake = most + math.log(sum(parts))
            if stake >= -math.log(self.rule.risk):
                worst = max(beyond, key=lambda measure: measure.evidence)
                odds = math.exp(min(stake, 30.0))
                return "roll_back", f"{_in_words(worst)}; were it no worse, odds of {odds:.0f} to 1 would be broken"
        open_ = [by_name[name] for name in NEEDED if by_name[name].says != "ok" and not self._is_unmeasured(name)]
        if open_ or min(self.tally.counts) < UNMEASURED:
            words = "; ".join(_in_words(measure) for measure in open_)
            return "not_yet", words or "too few requests"
        changed = [measure for measure in measures if measure.says == "changed"]
        if changed:
            words = "; ".join(_in_words(measure) for measure in changed)
            return "not_yet", f"no worse, but its answers are different, which somebody has to allow: {words}"
        return "promote", "; ".join(_in_words(by_name[name]) for name in NEEDED if not self._is_unmeasured(name))

    def _is_unmeasured(self, name: str) -> bool:
        """Latency of which neither arm has any."""
        sums = self.tally.differences.get(name)
        if self._priced is None or sums is None or sums.pairs:
            return False
        stable, canary = (count - before for count, before in zip(self.tally.counts, self._priced, strict=True))
        if stable < UNMEASURED_STABLE or canary < UNMEASURED:
            return False
        return math.isnan(self.tally.usual[name].middle)

    def _needed(self, measures: tuple[Measure, ...]) -> int | None:
        canary = self.tally.counts[1]
        most = 1.0
        for measure in measures:
            if measure.name not in NEEDED or measure.says == "ok" or self._is_unmeasured(measure.name):
                continue
            grown = self._grown(measure)
            if grown is None:
                return None
            most = max(most, grown)
        return max(1, round(canary * (most - 1.0)), UNMEASURED - canary)

    def _grown(self, measure: Measure) -> float | None:
        """How many times as much of the same evidence would do."""
        if not measure.estimate < measure.margin:
            return None

        def enough(grown: float) -> bool:
            if measure.unit == "points":
                return self.tally.bets[measure.name].better(measure.margin, grown) >= -math.log(self.rule.risk)
            wide = self.tally.differences[measure.name].half_width(self.rule.risk, HARMLESS, grown)
            return measure.estimate + wide < measure.margin

        grown = 1.0
        while not enough(grown):
            grown *= 1.25
            if grown > MOST_GROWN:
                return None
        return grown

    def _check(self) -> str:
        words = []
        for name in NEEDED[:2]:
            sums = self.tally.differences[name]
            if sums.total[1:, 1].any():
                apart, alike = sums.servers_apart(), sums.alike() < -math.log(self.rule.risk)
                like = "alike" if alike else "not alike"
                words.append(f"{name}: servers of the stable arm are {like}, ±{math.expm1(apart):.1%}")
        return "; ".join(words)

    def to_state(self) -> dict[str, Any]:
        return {"version": VERSION, "tally": self.tally.to_state(), "priced": self._priced}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError, KeyError or TypeError on what is not a state of this version; then make a new one."""
        if state.get("version") != VERSION:
            raise ValueError("a judge of another version")
        priced = state["priced"]
        self._priced = None if priced is None else (int(priced[0]), int(priced[1]))
        self.tally.restore(state["tally"])
        self._moved = -1  # the first look says what the state says


def _in_words(measure: Measure) -> str:
    if math.isnan(measure.estimate):
        return f"{measure.name}: nothing to compare yet"
    figures = [measure.estimate, measure.low, measure.high, measure.margin]
    if measure.unit == "ratio":
        figures = [math.expm1(min(each, 10.0)) for each in figures]
        estimate, low, high, margin = (f"{each:+.1%}" for each in figures)
    else:
        estimate, low, high, margin = (f"{100 * each:+.2f}" for each in figures)
        margin += " points"
    if measure.lately > 3.0 * measure.estimate and measure.lately > measure.margin:
        estimate += f", lately {100 * measure.lately:+.2f}"
    if not math.isfinite(measure.high):
        return f"{measure.name} {estimate} (too little is known, margin {margin})"
    return f"{measure.name} {estimate} ({low} to {high}, margin {margin})"
