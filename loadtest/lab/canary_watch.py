"""Who looks at a rollout in the lab: the production judge and the production steps, after every single answer.

A trial with a table of shares is only watched: what was decided first is kept, and the traffic goes on as before, so
that a rival can be asked about the very same answers. Left to others: the run (`canaries`).
"""

from __future__ import annotations

from dataclasses import dataclass

from loadtest.lab.canary_trial import Trial
from policies.routing.canary import Canary
from policies.routing.judge import Judge, Judgement, Seen


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a rollout ended: `promoted`, `rolled_back`, or `open` when the requests were over before.

    `after`: seconds from the canary's beginning; `answers`: of the canary's until then.
    """

    outcome: str
    after: float
    answers: int
    why: str


class Watch:
    """Judge and steps of one canary that begins at `now`; the lab's clock stands for every clock."""

    def __init__(self, trial: Trial, now: float):
        self._trial, self._began, self._answers = trial, now, 0
        self.verdict: Verdict | None = None
        self.judgement: Judgement | None = None
        self._judge = Judge(trial.rule) if trial.rule is not None else None
        self._canary = Canary(trial.rule, now) if trial.rule is not None else None

    def see(self, seen: Seen) -> None:
        """One answer, and a look."""
        self._answers += seen.is_canary
        if self._judge is None or self._canary is None or self.verdict is not None:
            return
        self._judge.see(seen)
        self.judgement = self._judge.look(seen.at)
        self._canary.advance(self.judgement, seen.at)
        if self._canary.phase in ("promoted", "rolled_back"):
            self.verdict = Verdict(self._canary.phase, seen.at - self._began, self._answers, self.judgement.why)

    def share(self, now: float) -> float:
        """The canary's share now."""
        if self._trial.shares:
            return [share for since, share in self._trial.shares if now - self._began >= since][-1]
        return self._canary.share() if self._canary is not None else 0.0

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to see."""
        return self.verdict is not None and not self._trial.shares

    def ended(self, now: float) -> Verdict:
        """What came of it, when the run is over."""
        why = self.judgement.why if self.judgement is not None else ""
        return self.verdict or Verdict("open", now - self._began, self._answers, why)
