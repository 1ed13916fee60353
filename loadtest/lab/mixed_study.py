"""Carries out a plan with two classes: the traffic alone, the backlog alone, and both together behind each gate.

Alone means on the same engines with the same requests, seed by seed, so what filler costs is a difference between two
runs of the same traffic. The backlog alone is sent by the fixed cap that gets the most out of these engines.

`ttft_share` is the p95 of TTFT over what is allowed: the greater of 1.10 x alone and alone + 15 ms. `off_share` is what
the backlog gets in pauses (from their fifth second on) over what it gets alone in the same seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from loadtest.lab.figures import Figures
from loadtest.lab.memory import Memory, key_of
from loadtest.lab.mixed import Mixed
from loadtest.lab.mixed_desk import MixedDesk
from loadtest.lab.mixed_figures import mixed_figures, series
from loadtest.lab.plan import OURS, Plan
from loadtest.lab.scenario import Gate, Scenario
from loadtest.lab.trial import Choice

ALLOWED, ALLOWED_SECONDS = 1.10, 0.015
ALONE, BACKLOG = Gate("none", label="traffic alone"), "backlog alone"
CAPS = (128.0, 192.0, 256.0)  # per endpoint, of the backlog alone
GRID = (0.1, 0.125, 0.15, 0.175, 0.2, 0.225, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0)
COSTS = 0.005  # of attainment, at most, for a threshold to be taken
TUNING_REQUESTS = 6000
EVERY = 2.0  # seconds between the points of a picture

Task = tuple[str, Callable[..., object], tuple[object, ...]]
Do = Callable[[Iterable[Task]], list[object]]
Points = list[tuple[float, float]]


def measured(scenario: Scenario, gate: Gate, rate: float, seed: int, interactive: bool, folder: Path | None) -> Figures:
    """The figures of one run."""
    memory = Memory(folder)
    key = key_of(scenario, rate, OURS, {}, seed, [gate.gate, gate.x, interactive])
    if (known := memory.recall(key)) is not None:
        return known
    # Others' gates let filler go beside the router; ours does from the gateway's own desk.
    kind = MixedDesk if gate.gate == "headway" else Mixed
    done = kind(scenario, rate, OURS, {}, seed, gate, interactive)
    found = mixed_figures(done, done.run())
    found |= {f"over {at:g}": value for at, value in series(done, EVERY)}
    memory.keep(key, found)
    return found


class Alone:
    """What traffic and backlog get without each other, seed by seed."""

    def __init__(self, traffic: list[Figures], backlog: list[Figures]):
        self.traffic, self.backlog = traffic, backlog

    def beside(self, figures: Figures, place: int) -> Figures:
        """Figures with what they are over those of the same seed alone."""
        ttft = self.traffic[place]["ttft_p95"]
        allowed = max(ALLOWED * ttft, ttft + ALLOWED_SECONDS)
        return figures | {
            "ttft_share": figures["ttft_p95"] / allowed,
            "off_share": figures["async_off"] / self.backlog[place]["async_off"],
            "lost": self.traffic[place]["attainment"] - figures["attainment"],
        }


class Studied:
    """What came of a plan: per gate the choice as other reports know it, its figures per seed, and its picture."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.alone = Alone([], [])
        self.rows: list[tuple[Choice, list[Figures]]] = []
        self.tuned: dict[str, float] = {}
        self.seconds = 0.0


def study_mixed(plan: Plan, seeds: range, do: Do, folder: Path | None) -> Studied:
    """Carry out a plan that has gates."""
    began, found = time.monotonic(), Studied(plan)
    rate, scenario = plan.study.rate, plan.scenario
    traffic = _runs(plan, ALONE, seeds, do, folder)
    best = _best_cap(plan, seeds, do, folder)
    found.alone = Alone(traffic, best)
    for gate in plan.fill.gates:
        used = gate
        if gate.tuned_at:
            used = _tune(plan, gate, seeds[0], do, folder)
            found.tuned[gate.name] = used.x
        tasks = [_task(plan, scenario, used, rate, seed, True, folder) for seed in seeds]
        figures = [f for f in do(tasks) if isinstance(f, dict)]
        name = OURS if gate.gate == "headway" else gate.gate
        found.rows.append((Choice(name, {}, gate.name), [found.alone.beside(f, i) for i, f in enumerate(figures)]))
    found.seconds = time.monotonic() - began
    return found


def _task(plan: Plan, scenario: Scenario, gate: Gate, rate: float, seed: int, interactive: bool,
          folder: Path | None) -> Task:  # fmt: skip
    words = f"{plan.name}: {gate.name}, seed {seed} at {rate:g}/s" + ("" if interactive else ", without traffic")
    return words, measured, (scenario, gate, rate, seed, interactive, folder)


def _runs(plan: Plan, gate: Gate, seeds: range, do: Do, folder: Path | None, interactive: bool = True) -> list[Figures]:
    tasks = [_task(plan, plan.scenario, gate, plan.study.rate, seed, interactive, folder) for seed in seeds]
    return [figures for figures in do(tasks) if isinstance(figures, dict)]


def _best_cap(plan: Plan, seeds: range, do: Do, folder: Path | None) -> list[Figures]:
    """The backlog alone, by the cap that gets the most on the first seed."""
    task = partial(_task, plan, plan.scenario, rate=plan.study.rate, seed=seeds[0], interactive=False, folder=folder)
    caps = [Gate("static", cap, label=f"{BACKLOG}, {cap:g} per endpoint") for cap in CAPS]
    tried = [figures["async"] for figures in do([task(gate=cap) for cap in caps]) if isinstance(figures, dict)]
    return _runs(plan, caps[int(np.argmax(tried))], seeds, do, folder, interactive=False)


def _tune(plan: Plan, gate: Gate, seed: int, do: Do, folder: Path | None) -> Gate:
    """The gate with the largest x that costs little attainment at another, steady load."""
    steady = replace(plan.traffic, swing=0.0, on=0.0, off=0.0)
    scenario = replace(plan.scenario, traffic=steady, requests=TUNING_REQUESTS)
    gates = [ALONE, *(replace(gate, x=x, tuned_at=0.0, label="") for x in GRID)]
    tasks = [_task(plan, scenario, one, gate.tuned_at, seed, True, folder) for one in gates]
    alone, *tried = [figures["attainment"] for figures in do(tasks) if isinstance(figures, dict)]
    kept = [x for x, attained in zip(GRID, tried, strict=True) if attained >= alone - COSTS]
    return replace(gate, x=max(kept, default=GRID[0]))


def points(figures: Figures) -> Points:
    """What the backlog got over the run: seconds, tokens per second."""
    return [(float(name.split()[1]), value) for name, value in figures.items() if name.startswith("over ")]
