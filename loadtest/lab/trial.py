"""One simulated run as the studies use it: from the memory if it was made before, judged, and boiled down to figures.

A run that can no longer reach `HOPELESS` may be broken off: that is far below any goal, so no verdict can change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from loadtest.lab.arrivals import draw
from loadtest.lab.figures import Figures, Slowed, Windows, figures, shifted, slowed, windows
from loadtest.lab.memory import Memory, key_of
from loadtest.lab.record import Run
from loadtest.lab.scenario import Scenario
from loadtest.lab.simulation import simulate

HOPELESS = 0.85


@dataclass(frozen=True, slots=True)
class Choice:
    """A policy to be studied: its name in the registry, its options, and what the report calls it."""

    policy: str
    options: Mapping[str, object] = field(default_factory=dict)
    label: str = ""

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.label or self.policy


@dataclass(frozen=True, slots=True)
class View:
    """What else is wanted of a run.

    `judged_as`: the SLOs and the B0 mask of another scenario that draws the same requests; `shift`: the request from
    which on lengths are others (-1: none); `slow`: the engine that is slow for a while.
    """

    judged_as: Scenario | None = None
    shift: int = -1
    slow: Slowed | None = None


PLAIN = View()


def measured(scenario: Scenario, choice: Choice, rate: float, seed: int, folder: Path | None,
             may_break: bool = False, view: View = PLAIN) -> Figures:  # fmt: skip
    """The figures of one run. Only where it `may_break` is it broken off when hopeless."""
    memory = Memory(folder)
    floors = (0.0, HOPELESS) if may_break else (0.0,)
    said = asdict(view)
    keys = [key_of(scenario, rate, choice.policy, choice.options, seed, [floor, said]) for floor in floors]
    for key in keys:
        if (known := memory.recall(key)) is not None:
            return known
    run = simulate(scenario, rate, choice.policy, choice.options, seed, stop_below=floors[-1])
    found = _seen(run, view)
    if not run.complete:
        found["attainment"] = min(found["attainment"], HOPELESS)
    # A run that was not broken off is a whole one, whoever asked.
    memory.keep(keys[0] if run.complete else keys[-1], found)
    return found


def _seen(run: Run, view: View) -> Figures:
    if view.judged_as is not None:
        asked = draw(view.judged_as, run.rate, run.seed)
        run.ttft_slo, run.tpot_slo, run.feasible = asked.ttft_slo, asked.tpot_slo, asked.feasible
    found = figures(run)
    if view.shift >= 0:
        found |= shifted(run, view.shift)
    if view.slow is not None:
        found |= slowed(run, view.slow)
    return found


def watched(scenario: Scenario, choice: Choice, rate: float, seed: int, slow: Slowed, folder: Path | None) -> Windows:
    """One run over time."""
    memory = Memory(folder)
    key = key_of(scenario, rate, choice.policy, choice.options, seed, ["over time", asdict(slow)])
    if (known := memory.recall(key)) is not None:
        return Windows(**known)
    seen = windows(simulate(scenario, rate, choice.policy, choice.options, seed), slow.engine)
    memory.keep(key, asdict(seen))
    return seen
