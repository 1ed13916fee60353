"""Studies what a desk does with more than a fleet can carry, with a greedy tenant, and with deadlines.

Loads are shares of the fluid capacity (B1). Goodput is the rate of answers that kept both their promises. With a greedy
tenant each load is run a second time without what it asks for beyond its share, and the others' TTFT is compared, seed
by seed. `served_late` is the share of the served that missed their deadline, `far_late` the share of them that took
longer, too, than what was stated when they were sent as exceeded by one in a hundred.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from loadtest.lab.arrivals import draw
from loadtest.lab.bounds import fluid_capacity
from loadtest.lab.desked import GREEDY, Desked
from loadtest.lab.figures import Figures
from loadtest.lab.memory import Memory, key_of
from loadtest.lab.mixed_study import Do
from loadtest.lab.plan import OURS, Plan
from loadtest.lab.record import Flags, Run
from loadtest.lab.scenario import Scenario
from loadtest.lab.trial import Choice


def measured(scenario: Scenario, rate: float, seed: int, folder: Path | None) -> Figures:
    """The figures of one run, or of two."""
    memory = Memory(folder)
    key = key_of(scenario, rate, OURS, {}, seed, "desk")
    if (known := memory.recall(key)) is not None:
        return known
    done = Desked(scenario, rate, seed)
    run = done.run()
    found = _figures(done, run)
    if scenario.admission.greedy:
        without = Desked(scenario, rate, seed, greedy=False)
        alone = _others_ttft(without, without.run())
        found["others_ttft_p95"], found["others_alone"] = _others_ttft(done, run), alone
        found["others_share"] = found["others_ttft_p95"] / alone
    memory.keep(key, found)
    return found


def _figures(done: Desked, run: Run) -> Figures:
    at = run.measured
    span = float(np.ptp(run.arrived[at])) or 1.0
    refused = at & np.isfinite(done.refused_at)
    served = at & np.isfinite(run.e2e)
    delay = (done.refused_at - run.arrived)[refused]
    reasons = {f"refused {name}": float(sum(reason == name for reason in done.reason))
               for name in sorted(set(done.reason) - {""})}  # fmt: skip
    told = np.isfinite(done.come_back) | done.hopeless
    return {
        "offered": float(at.sum()) / span,
        "goodput": float((run.met & at).sum()) / span,
        "kept": float(run.met[served].mean()) if served.any() else 0.0,
        "refused": float(refused.sum()) / float(at.sum()),
        "on_arrival": float((delay <= 0.0).mean()) if len(delay) else 1.0,
        "answer_p99": float(np.percentile(delay, 99)) if len(delay) else 0.0,
        "told": float(told[refused].mean()) if refused.any() else 1.0,
        "ttft_p95": float(np.percentile(run.ttft[served], 95)) if served.any() else float("nan"),
        **_deadlines(done, run, served),
        **reasons,
    }


def _deadlines(done: Desked, run: Run, served: Flags) -> Figures:
    wanted = served & np.isfinite(done.deadline)
    if not wanted.any():
        return {}
    late = run.arrived + run.e2e - done.deadline
    longer = (run.e2e - run.held) > done.stated
    return {
        "served_late": float((late > 0.0)[wanted].mean()),
        "far_late": float((longer & (late > 0.0))[wanted].mean()),
        "latest": float(max(0.0, late[wanted].max())),
        "in_time": float((late <= 0.0)[wanted].sum()) / float(run.measured.sum()),
    }


def _others_ttft(done: Desked, run: Run) -> float:
    others = run.measured & np.array([name != GREEDY for name in done.tenant], np.bool_) & np.isfinite(run.ttft)
    return float(np.percentile(run.ttft[others], 95))


class Desks:
    """What came of a plan: per load the choice as other reports know it, and its figures per seed."""

    def __init__(self, fluid: float) -> None:
        self.fluid = fluid
        self.rows: list[tuple[Choice, list[Figures]]] = []
        self.seconds = 0.0


def study_desks(plan: Plan, seeds: range, do: Do, folder: Path | None) -> Desks:
    """Carry out a plan that has loads."""
    began = time.monotonic()
    found = Desks(fluid_capacity(plan.scenario, draw(plan.scenario, 1.0, seeds[0])))
    for load in plan.admission.loads:
        rate = float(f"{load * found.fluid:.4g}")
        tasks = [(f"{plan.name}: {load:.0%}, seed {seed}", measured, (plan.scenario, rate, seed, folder))
                 for seed in seeds]  # fmt: skip
        figures = [figures for figures in do(tasks) if isinstance(figures, dict)]
        found.rows.append((Choice(OURS, {}, f"{load:.0%}"), figures))
    for place in range(len(seeds)):
        most = max(figures[place]["goodput"] for _, figures in found.rows)
        for _, figures in found.rows:
            figures[place]["goodput_share"] = figures[place]["goodput"] / most if most else float("nan")
    found.seconds = time.monotonic() - began
    return found
