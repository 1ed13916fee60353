"""A canary's rollout: its steps, one after the other as the evidence allows, and what people may do about it.

    at its step   running <-----resume----- paused      its share is the step's in both; in neither is harm overlooked
                   |  |  \\-----pause------->  |  |
           promote |  \\----roll_back, abort---|--+----> rolled_back   share 0, for good
                   \\----------promote---------+-------> promoted      share 1
                                                           \\--abort--> rolled_back

| phase       | advance                                    | pause    | resume    | promote    | abort         |
|-------------|--------------------------------------------|----------|-----------|------------|---------------|
| running     | running (a step further), promoted, rolled_back | paused | -       | promoted   | rolled_back   |
| paused      | rolled_back                                | -        | running   | promoted   | rolled_back   |
| promoted    | -                                          | -        | -         | -          | rolled_back   |
| rolled_back | -                                          | -        | -         | -          | -             |

A step is left when it was held as long as the rule says, its share has had requests enough to show gross harm, and
nothing leans towards harm. A step that leaves nobody to compare with is promotion in all but name: it, and promotion,
need proof that the canary is not worse by the margin. Rolled back is for good: what was wrong has to be changed, and a
changed rule is another canary.

Left to others: evidence (`judge`), the clock, files and commands (`gateway.rollouts.canaries`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gateway.core.routes import CanaryRule
from policies.routing.judge import HARMS, Judgement

Phase = Literal["running", "paused", "promoted", "rolled_back"]
Event = Literal["step", "roll_back", "promote", "pause", "resume", "abort"]

TABLE: Mapping[tuple[Phase, Event], Phase] = {
    ("running", "step"): "running",
    ("running", "roll_back"): "rolled_back",
    ("running", "promote"): "promoted",
    ("running", "pause"): "paused",
    ("running", "abort"): "rolled_back",
    ("paused", "roll_back"): "rolled_back",
    ("paused", "resume"): "running",
    ("paused", "promote"): "promoted",
    ("paused", "abort"): "rolled_back",
    ("promoted", "abort"): "rolled_back",
}

PHASES: tuple[Phase, ...] = ("running", "paused", "promoted", "rolled_back")
FEWEST = 30  # requests of the canary in a step before the next: ten times as likely to err shows in them
LEANS = 1.1  # logarithm of the stake (3 to 1) at which what is beyond its margin leans towards harm
ALONE = 0.95  # share from which on there is nobody to compare with
RULE = "the rule"


class CannotDo(ValueError):
    """What was asked for makes no sense in the canary's phase."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One change, as it is recorded. `at` in Unix seconds; `by`: who, or "the rule"."""

    at: float
    event: Event
    before: Phase
    after: Phase
    step: int
    share: float
    by: str
    why: str


class Canary:
    """The state of one rollout. Times are Unix seconds, because it outlives the process."""

    __slots__ = ("began", "phase", "requests", "rule", "since", "step", "why")

    def __init__(self, rule: CanaryRule, now: float) -> None:
        self.rule = rule
        self.phase: Phase = "paused" if rule.paused else "running"
        self.step = 0
        self.began = self.since = now
        self.requests = 0  # of the canary, when the step began
        self.why = "begun"

    def share(self) -> float:
        """Of the requests that get the canary, 0 to 1."""
        if self.phase == "promoted":
            return 1.0
        return 0.0 if self.phase == "rolled_back" else self.rule.steps[self.step]

    @property
    def is_over(self) -> bool:
        return self.phase in ("promoted", "rolled_back")

    def advance(self, judgement: Judgement, now: float) -> tuple[Transition, ...]:
        """What the rule makes of a judgement: none or one transition, in the order they are to be recorded."""
        if self.is_over:
            return ()
        if judgement.outcome == "roll_back":
            return (self._go("roll_back", now, RULE, judgement.why),)
        if self.phase == "paused" or self.waits_for(judgement, now):
            return ()
        if self.step + 1 == len(self.rule.steps):
            return (self._go("promote", now, RULE, judgement.why),)
        self.requests = judgement.counts.get("canary", 0)
        return (self._go("step", now, RULE, f"held for {now - self.since:.0f} s; {judgement.why}"),)

    def waits_for(self, judgement: Judgement, now: float) -> str:
        """Why it stays at its step; empty: it need not."""
        left = self.since + self.rule.hold - now
        if left > 0.0:
            return f"the step is held for another {left:.0f} s"
        last = self.step + 1 == len(self.rule.steps)
        if last or self.rule.steps[self.step + 1] >= ALONE:
            return "" if judgement.outcome == "promote" else f"not shown to be as good: {judgement.why}"
        fresh = judgement.counts.get("canary", 0) - self.requests
        if fresh < FEWEST:
            return f"{fresh} of {FEWEST} requests in this step"
        leaning = [
            measure.name
            for measure in judgement.measures
            if measure.name in HARMS and measure.is_beyond and measure.evidence >= LEANS
        ]
        return f"leans towards harm: {', '.join(leaning)}" if leaning else ""

    def pause(self, now: float, by: str, why: str = "") -> Transition:
        """It stays at its step. Raises CannotDo, as all that people do."""
        return self._go("pause", now, by, why)

    def resume(self, now: float, by: str, why: str = "") -> Transition:
        """Its step is held anew."""
        return self._go("resume", now, by, why)

    def promote(self, now: float, by: str, why: str = "") -> Transition:
        return self._go("promote", now, by, why)

    def abort(self, now: float, by: str, why: str = "") -> Transition:
        """Nobody is sent to it any more; streams that run go on."""
        return self._go("abort", now, by, why)

    def _go(self, event: Event, now: float, by: str, why: str) -> Transition:
        before = self.phase
        after = TABLE.get((before, event))
        if after is None:
            raise CannotDo(f"{event} is not possible: the canary is {before.replace('_', ' ')}")
        if event == "step":
            self.step += 1
        self.phase, self.since, self.why = after, now, why
        return Transition(now, event, before, after, self.step, self.share(), by, why)

    def shift(self, seconds: float) -> None:
        """So much has gone by without its step being held: nobody served, or somebody has set the clock."""
        if not self.is_over:
            self.since += seconds

    def to_state(self) -> dict[str, Any]:
        return {
            "phase": self.phase, "step": self.step, "began": self.began, "since": self.since,
            "requests": self.requests, "why": self.why,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError, KeyError or TypeError on what is not the state of a canary with these steps."""
        phase, step = state["phase"], int(state["step"])
        if phase not in PHASES or not 0 <= step < len(self.rule.steps):
            raise ValueError(f"no such phase or step: {phase!r}, {step}")
        began, since, requests = float(state["began"]), float(state["since"]), int(state["requests"])
        self.phase, self.step, self.began, self.since, self.requests = phase, step, began, since, requests
        self.why = str(state["why"])
