"""What happened in one run: one value per request in the order of arrival, NaN (or -1) where there was none.

A run ends with the last measured request, so of those that came after it some have no end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from loadtest.lab.arrivals import Asked
    from loadtest.lab.scenario import Scenario

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Run:
    """Times are seconds; `arrived` is on the run's clock, which starts at 0.

    `ttft` counts from arrival at the router, holding included; `predicted` is (6, requests): TTFT from the dispatch,
    its low and high, TPOT, its low and high. `feasible` is bound B0: an idle engine could have kept its promises.
    `cost` (seconds of snapshot, pick and reserve, in real time) is the only thing that differs between equal runs.
    """

    scenario: str
    policy: str
    rate: float
    seed: int
    arrived: Floats
    prompt: Whole
    output: Whole
    cached: Whole  # prompt tokens the engine found in its cache; -1: never scheduled
    engine: Whole  # -1: refused
    router: Whole
    stream: Flags
    ttft: Floats
    tpot: Floats  # NaN for answers of one token
    e2e: Floats
    held: Floats
    predicted: Floats
    ttft_slo: Floats
    tpot_slo: Floats
    feasible: Flags
    measured: Flags  # neither warm-up nor cool-down
    cost: Floats
    picks: Whole  # how often the policy was asked
    preemptions: int
    seconds: float  # of virtual time
    complete: bool  # all that are measured have ended; False: stopped early, because too many had missed already

    @property
    def met(self) -> Flags:
        """Both promises kept. An answer of one token has no gaps to be slow in; what had no answer is not met."""
        kept: Flags = (self.ttft <= self.ttft_slo) & ~(self.tpot > self.tpot_slo) & ~np.isnan(self.e2e)
        return kept

    @property
    def counted(self) -> Flags:
        """What attainment is taken over: measured and feasible."""
        return self.measured & self.feasible

    @property
    def attainment(self) -> float:
        """The share of the counted requests that met both SLOs."""
        counted = self.counted
        return float(self.met[counted].mean()) if counted.any() else float("nan")

    @property
    def dispatched(self) -> Floats:
        """When each was sent to its engine, on the run's clock; NaN if it never was."""
        return self.arrived + self.held

    def shares(self, window: float) -> tuple[Floats, Floats]:
        """The share of the dispatches that each engine got, by windows of so many seconds.

        Returns the windows' starts, and (windows, engines); a window without dispatches is NaN.
        """
        sent = self.engine >= 0
        edges = np.arange(0.0, float(np.nanmax(self.dispatched)) + window, window)
        engines = np.arange(int(self.engine.max()) + 2) - 0.5
        counts, _, _ = np.histogram2d(self.dispatched[sent], self.engine[sent], bins=(edges, engines))
        total = counts.sum(axis=1, keepdims=True)
        return edges[:-1], np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)


def blank(scenario: Scenario, policy: str, rate: float, seed: int, asked: Asked) -> Run:
    """A run of which nothing has happened yet."""
    size = len(asked)
    place = np.arange(size)
    measured = (place >= round(scenario.warm_up * size)) & (place < size - round(scenario.cool_down * size))

    def unknown() -> Floats:
        return np.full(size, np.nan)

    return Run(
        scenario=scenario.name, policy=policy, rate=rate, seed=seed, arrived=asked.arrived, prompt=asked.prompt,
        output=asked.output, cached=np.full(size, -1, np.int64), engine=np.full(size, -1, np.int64),
        router=asked.router, stream=asked.stream, ttft=unknown(), tpot=unknown(), e2e=unknown(), held=unknown(),
        predicted=np.full((6, size), np.nan), ttft_slo=asked.ttft_slo, tpot_slo=asked.tpot_slo,
        feasible=asked.feasible, measured=measured, cost=np.zeros(size), picks=np.zeros(size, np.int64), preemptions=0,
        seconds=0.0, complete=False,
    )  # fmt: skip
