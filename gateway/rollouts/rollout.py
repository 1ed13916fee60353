"""One canary of a running gateway: what happened to its arms, what the judge makes of it, what share it gets.

The idea: `policies.routing` has the statistics and the state machine and knows no clock, no disk and no fleet; this
brings them what happened, and keeps the three together (what was seen, where the rollout stands, the prices that both
arms are held against), since only together they can go on after a restart.

The share that requests are routed by is `share`, and it follows the state machine in two ways. Down at once: a rollback
holds for the very next request, and the kernel has it before that request is routed, so a process that is killed in
the next moment has not forgotten it. Up only when the state is on disk: a process that is killed before resumes with
the share that users have seen, so no restart takes back what was given. A disk that does not write stops promotions,
and no rollback.

Left to others: what counts as an observation (`seen`), which canaries there are, and when (`canaries`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

from gateway.core.frozen import Frozen
from gateway.core.predictor import Predictor
from gateway.core.routes import CanaryRule, Route
from gateway.rollouts.seen import Arms
from gateway.rollouts.series import Point, Series
from gateway.rollouts.store import CanaryStore
from policies.routing import HARMS, Canary, Judge, Judgement, Seen, Transition

Predictors = Callable[[str], Predictor | None]

VERSION = 1
ENOUGH_TO_FREEZE = 300  # answers that the stable pool's predictor has learnt from
WAIT_TO_FREEZE = 300.0  # seconds after which its prices are taken as they are
BEGINNINGS = ("began", "restarted")
KEEP_EVERY = 3.0  # seconds between two writings of what was counted
TRY_AGAIN = 1.0  # seconds until a disk that did not write is tried again
JUMP = 1.0  # seconds by which the two clocks part only if one of them was set
OURS = 1000  # a process that takes over begins its revisions at the next multiple: what others still write is older


class Rollout:
    """The canary of one route. `clock` never goes back, not over restarts either; `unix` is for people and steps."""

    def __init__(self, model: str, rule: str, route: Route, clock: float, unix: float):
        self.model, self.rule, self.route = model, rule, route
        self.name = f"{model}/{rule}"
        self.identity = identity_of(model, rule, route)
        self.share = 0.0
        self.yielded = False  # a later process has taken over: it decides
        self.is_resumed = False  # a process before this one began it
        self.paused_by_file = self.terms.paused
        self.revision = 0
        self.clock, self.unix = clock, unix  # when it was looked at last
        self.series = Series()
        self._saving: tuple[Future[bool], int, float] | None = None
        self._saved = -1
        self._due = -math.inf
        self.begin(clock, unix)

    @property
    def terms(self) -> CanaryRule:
        assert self.route.canary is not None
        return self.route.canary

    @property
    def is_durable(self) -> bool:
        """Whether where it stands is on disk."""
        return self._saved == self.revision

    def begin(self, clock: float, unix: float) -> None:
        """Nothing seen, the first step."""
        self._count_anew()
        self.canary = Canary(self.terms, unix)
        self.judgement = self.judge.look(clock)
        self.revision += 1
        self.share = min(self.share, self.canary.share())

    def _count_anew(self) -> None:
        self.arms, self.judge = Arms(self.route), Judge(self.terms, priced=False)
        self.frozen: Frozen | None = None

    def move(self, rule: str, identity: str) -> None:
        """Its rule is called otherwise now."""
        self.rule, self.name, self.identity = rule, f"{self.model}/{rule}", identity
        self.revision += 1

    # --- what is seen and said -----------------------------------------------------------------------------------

    def see(self, seen: Seen | None) -> None:
        """Take an observation; None is none."""
        if seen is not None:
            self.judge.see(seen)

    def look(self, clock: float, unix: float, store: CanaryStore) -> tuple[Transition, ...]:
        """Judge, and go on or back. What changed."""
        jumped = (unix - self.unix) - (clock - self.clock)
        if abs(jumped) > JUMP:
            self.canary.shift(jumped)
        self.clock, self.unix = clock, unix
        self.judgement = self.judge.look(clock)
        changed = () if self.yielded else self.canary.advance(self.judgement, unix)
        for transition in changed:
            self.changed(transition, store)
        said = (self.judgement.outcome, *(measure.says for measure in self.judgement.measures))
        if not changed and not self.canary.is_over and self.series.due(unix, said):
            self.series.noted(unix, said)
            self._note(self.point("judgement", unix), store)
        return changed

    def freeze(self, predictors: Predictors, unix: float) -> None:
        """Take the prices that both arms are held against, once they are known well enough."""
        if self.frozen is not None:
            return
        stable, *others = (predictors(pool) for pool in (*self.arms.stable_pools, self.arms.canary_pool))
        known = stable is None or stable.learnt.ttft.samples >= ENOUGH_TO_FREEZE
        if known or unix - self.canary.began >= WAIT_TO_FREEZE:
            self.frozen = Frozen.of(stable, *others)
            self.judge.price()

    def changed(self, transition: Transition, store: CanaryStore) -> None:
        """The state machine made a transition: the share follows, and it is kept."""
        self.revision += 1
        told = ": ".join(text for text in (f"by {transition.by}", transition.why) if text)
        lowers = self.canary.share() <= self.share
        if lowers:
            self.share = self.canary.share()
        # (The line first: once the state is written, whoever takes over finds the line too.)
        self._note(self.point(transition.event, transition.at, told), store, at_once=lowers)
        self.keep(store)

    def note(self, kind: str, unix: float, told: str, store: CanaryStore) -> None:
        """Record something that happened to it from outside."""
        self._note(self.point(kind, unix, told), store, at_once=True)

    def _note(self, point: Point, store: CanaryStore, at_once: bool = False) -> None:
        self.series.add(point)
        line = {"v": VERSION, "name": self.name, "identity": self.identity, "revision": self.revision, **point}
        if point["kind"] != "judgement":
            line["canary"] = self.canary.to_state()
        if not self.yielded:
            (store.note_now if at_once else store.note)(self.name, line)

    # --- the disk ------------------------------------------------------------------------------------------------

    def keep(self, store: CanaryStore) -> Future[bool]:
        """Write where it stands and what was counted."""
        future = store.save(self.name, self.to_state())
        self._saving = future, self.revision, self.canary.share()
        self._due = self.clock + KEEP_EVERY
        return future

    def keep_up(self, clock: float, store: CanaryStore) -> str:
        """Take note of what was written, and write again when it is time. Why it was not written, if so."""
        problem = ""
        if self._saving is not None and self._saving[0].done():
            future, revision, share = self._saving
            self._saving = None
            error = future.exception()
            if error is not None:
                problem, self._due = str(error) or repr(error), clock + TRY_AGAIN
            elif not future.result():
                self.yielded = True
            else:
                self._saved = revision
                # (It may have gone back since.)
                self.share = min(share, self.canary.share())
        if self._saving is None and not self.yielded and clock >= self._due:
            self.keep(store)
        return problem

    def follow(self, state: Mapping[str, Any]) -> None:
        """Stand where the process that has taken over stands. Raises as `restore`."""
        if state["identity"] == self.identity:
            self.canary.restore(state["canary"])
            self.share = self.canary.share()

    def to_state(self) -> dict[str, object]:
        """JSON values; NaN and infinities are the judge's to leave out."""
        return {
            "version": VERSION, "identity": self.identity, "revision": self.revision, "clock": self.clock,
            "at": self.unix, "paused_by_file": self.paused_by_file,
            "canary": self.canary.to_state(), "judge": self.judge.to_state(),
            "frozen": None if self.frozen is None else self.frozen.to_state(), "arms": self.arms.to_state(),
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any], lines: Iterable[Point], unix: float) -> list[str]:
        """Go on from what was kept. What of it could not be used.

        Where the rollout stands is worth more than what was counted, so it is taken alone if need be. `lines` may have
        a later transition than the state (the process was killed before that was written): the latest one holds. From
        the last writing until `unix` no step was held. Raises ValueError, KeyError or TypeError where there is nothing
        to go on from.
        """
        if state["version"] != VERSION:
            raise ValueError("a canary of another version")
        self.canary.restore(state["canary"])
        self.share = self.canary.share()
        self.revision = self._saved = int(state["revision"])
        problems = self._restore_counts(state)
        lines = _of_this_run(lines, self.identity)
        self._take_later(lines)
        self.canary.shift(unix - max(float(state.get("at", unix)), self.canary.since))
        self.paused_by_file = bool(state["paused_by_file"])
        self.is_resumed = True
        self.series = Series(lines)
        return problems

    def _restore_counts(self, state: Mapping[str, Any]) -> list[str]:
        try:
            self.arms.restore(state["arms"])
            frozen = None if state["frozen"] is None else Frozen.restore(state["frozen"])
            self.judge.restore(state["judge"])
            self.frozen = frozen
        except Exception as error:  # whatever is in the file, the gateway starts
            self._count_anew()
            return [f"what was counted is lost: {error!r}"]
        return []

    def catch_up(self, state: Mapping[str, Any], lines: Iterable[Point], unix: float) -> None:
        """Take what became of it since it was read: the process before this one still served. Raises as `restore`."""
        if state["identity"] == self.identity and int(state["revision"]) >= self.revision:
            self.restore(state, lines, unix)

    def take_over(self, lines: Iterable[Point]) -> None:
        """Nobody else's state is written any more: take the last that others said. Raises as `restore`."""
        self._take_later(_of_this_run(lines, self.identity))
        self.revision = (self.revision // OURS + 1) * OURS

    def _take_later(self, lines: Iterable[Point]) -> None:
        for line in lines:
            later = line.get("canary")
            if not later or line["revision"] <= self.revision:
                continue
            if later["began"] != self.canary.began:
                if line["kind"] not in BEGINNINGS:
                    continue
                self._count_anew()
            self.canary.restore(later)
            self.revision = int(line["revision"])
        self.share = min(self.share, self.canary.share())  # (up when this process has written it)

    # --- what is shown -------------------------------------------------------------------------------------------

    def point(self, kind: str, unix: float, told: str = "") -> dict[str, object]:
        """One moment of it, as it is recorded; null where a figure is not known."""
        return {"at": unix, "kind": kind, "told": told, **self._standing(self.judgement)}

    def _standing(self, judgement: Judgement) -> dict[str, object]:
        measures = [
            {**{name: _known(value) for name, value in asdict(measure).items()}, "harm": measure.name in HARMS}
            for measure in judgement.measures
        ]
        return {
            "phase": self.canary.phase, "step": self.canary.step, "share": self.canary.share(),
            "outcome": judgement.outcome, "why": judgement.why, "needed": judgement.needed,
            "counts": dict(judgement.counts), "measures": measures,
        }  # fmt: skip

    def view(self, unix: float) -> dict[str, object]:
        """All that an operator may want to know, in JSON's terms."""
        canary, terms, judgement = self.canary, self.terms, self.judgement
        return {
            "name": self.name, "model": self.model, "rule": self.rule, "arm": terms.arm, "identity": self.identity,
            "at": unix, "began": canary.began, "since": canary.since, **self._standing(judgement),
            "share": self.share, "why": canary.why if canary.is_over else judgement.why,
            "waits_for": "" if canary.phase != "running" else canary.waits_for(judgement, unix),
            "steps": list(terms.steps), "hold": terms.hold, "risk": terms.risk, "margin": asdict(terms.margin),
            "arms": self.arms.view(self.share), "check": judgement.check,
            "finishes": {arm: dict(kinds) for arm, kinds in judgement.finishes.items()},
            "prices": "none yet" if self.frozen is None else "frozen" if self.frozen.prices else "regression",
            "enough": -math.log(terms.risk * max(HARMS.values())), "durable": self.is_durable, "yielded": self.yielded,
        }  # fmt: skip


def identity_of(model: str, rule: str, route: Route) -> str:
    """What makes it this rollout and no other: its arms, its steps and its margins. Pausing it in the file does not."""
    assert route.canary is not None
    terms = {name: value for name, value in asdict(route.canary).items() if name != "paused"}
    text = repr((model, rule, [asdict(arm) for arm in route.arms], route.fallback, terms))
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _of_this_run(lines: Iterable[Point], identity: str) -> list[Point]:
    """The lines since it began; the same rule may have been there before, and gone.

    Without those that a process wrote which did not know that another one had taken over.
    """
    found: list[Point] = []
    newest = 0
    for line in lines:
        kind, revision, ours = line.get("kind"), line.get("revision", 0), line.get("identity") == identity
        if ours and kind != "began" and revision < newest:
            continue
        if kind in BEGINNINGS:
            found, newest = [], 0
        if ours and "at" in line and "share" in line and "kind" in line:
            found.append(line)
            newest = revision
    return found


def _known(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
