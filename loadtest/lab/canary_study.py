"""What canaries must show, run by run: how often a good one is rolled back, and how soon a bad one is.

Two sets of rollouts. `ROLLOUTS` are whole ones, steps and all, with arms that are equal and with a canary 20 % slower;
the judge moves the share. `WATCHED` stay at 5 %: judge and rival look at the same answers, and the rival's thresholds
are tuned on the equal ones among them. A run is some hundred bytes and is kept, so a study goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gateway.core.routes import CanaryRule
from loadtest.lab.canaries import POLICY, Observation, Rollout
from loadtest.lab.canary_trial import ENGINE, Faults, Trial
from loadtest.lab.canary_watch import Verdict
from loadtest.lab.flagger import Windows, windows
from loadtest.lab.memory import Memory, source
from loadtest.lab.scenario import Group

SLOWER = 1.2
RULE = CanaryRule("canary", steps=(0.05, 0.25, 0.5, 1.0), hold=60.0)
EQUAL = Trial("equal", RULE, requests=8000)
ROLLOUTS = (EQUAL, replace(EQUAL, name="slower", canary=Group(ENGINE, 3, ((0.0, SLOWER),))))

SHARE = 0.05
STAYS = CanaryRule("canary", steps=(SHARE, 1.0), hold=1e9)
USUAL, OFTEN = Faults(), Faults(errors=0.01)
WATCHED_EQUAL = Trial("watched_equal", STAYS, ((0.0, SHARE),), wrong=(USUAL, USUAL), requests=36_000)
OFTEN_EQUAL = replace(WATCHED_EQUAL, name="watched_often", wrong=(OFTEN, OFTEN))


@dataclass(frozen=True, slots=True)
class Harm:
    """A fault that is to be found, and the same trial without it."""

    what: str
    trial: Trial
    equal: Trial


WATCHED = (
    Harm("TTFT + 30 %", replace(WATCHED_EQUAL, name="watched_ttft", wrong=(USUAL, replace(USUAL, late=0.3)),
                                requests=9_000), WATCHED_EQUAL),
    Harm("errors 1 to 3 %", replace(OFTEN_EQUAL, name="watched_errors", wrong=(OFTEN, replace(OFTEN, errors=0.03))),
         OFTEN_EQUAL),
    Harm("truncated streams 1 %", replace(WATCHED_EQUAL, name="watched_truncated",
                                          wrong=(USUAL, replace(USUAL, truncated=0.01))), WATCHED_EQUAL),
)  # fmt: skip
FIRST_SEED = 1001

Task = tuple[str, Callable[..., object], tuple[object, ...]]
Do = Callable[[Iterable[Task]], list[object]]


class Found:
    """One run: how it ended, and where the share stayed, the canary's windows."""

    __slots__ = ("verdict", "windows")

    def __init__(self, verdict: Verdict, windows: Windows | None):
        self.verdict, self.windows = verdict, windows

    @property
    def rolled_back(self) -> float:
        """Seconds until it was; infinite if it was not."""
        return self.verdict.after if self.verdict.outcome == "rolled_back" else math.inf


def runs(trial: Trial, seeds: range, do: Do, folder: Path | None) -> list[Found]:
    """One for each seed."""
    tasks = [(f"{trial.name}, seed {seed}", run, (trial, seed, folder)) for seed in seeds]
    return [_read(found) for found in do(tasks) if isinstance(found, dict)]


def run(trial: Trial, seed: int, folder: Path | None) -> dict[str, Any]:
    """One rollout, from the memory if it was made before: its verdict, and the windows of one that is watched."""
    memory, key = Memory(folder), _key(trial, seed)
    if (known := memory.recall(key)) is not None:
        return known
    seen: list[Observation] = []
    rollout = Rollout(trial, seed, seen.append if trial.shares else None)
    ended = rollout.run().seconds
    assert rollout.watch is not None
    found: dict[str, Any] = {"verdict": asdict(rollout.watch.ended(ended))}
    if trial.shares:
        found["windows"] = _windows([one for one in seen if one.seen.is_canary], rollout.began, ended)
    memory.keep(key, found)
    return found


def _windows(seen: list[Observation], began: float, ended: float) -> Windows:
    """Those of the canary. A broken stream counts once, whatever else it is called."""
    told = [(o.seen.at, o.first, o.seen.failed and not o.seen.truncated, o.seen.truncated) for o in seen]
    at, first, failed, truncated = np.array(told, np.float64).reshape(-1, 4).T
    return windows(at, first, failed, truncated, began, ended)


def _read(found: dict[str, Any]) -> Found:
    return Found(Verdict(**found["verdict"]), found.get("windows"))


def _key(trial: Trial, seed: int) -> str:
    entrances = ("loadtest.lab.canaries", "loadtest.lab.flagger")
    said = [asdict(trial), seed, source(POLICY, entrances)]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=sorted).encode()).hexdigest()[:40]


def most_likely(count: int, of: int, risk: float = 0.05) -> tuple[float, float]:
    """The interval of a share of which `count` of `of` were seen (Clopper and Pearson, Biometrika 1934), 1 - risk."""
    low = _solve(lambda p: 1.0 - _below(count - 1, of, p) >= risk / 2.0) if count else 0.0
    high = _solve(lambda p: _below(count, of, p) < risk / 2.0) if count < of else 1.0
    return low, high


def _below(count: int, of: int, p: float) -> float:
    """The chance of at most `count` of `of`."""
    if count < 0:
        return 0.0
    logs = [math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1) + k * math.log(p)
            + (of - k) * math.log1p(-p) for k in range(count + 1)]  # fmt: skip
    return math.fsum(map(math.exp, logs))


def _solve(holds: Callable[[float], bool]) -> float:
    """The lowest share at which `holds` becomes true."""
    low, high = 1e-12, 1.0 - 1e-12
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
