"""What one rollout in the lab is: two pools, what is wrong with either, who judges, and traffic that changes.

The requests of a seed are the same for every trial: the rate swings and the mix of long prompts drifts, each from a
place in its period that is drawn, so that no arm and no moment is privileged. Left to others: running it (`canaries`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from gateway.core.routes import CanaryRule
from loadtest.lab.arrivals import Asked, draw
from loadtest.lab.record import Floats
from loadtest.lab.scenario import Group, Routers, Scenario, Scrape, Slo, Source, Traffic

ENGINE = "l40s_llama-3.1-8b_bf16_tp1"
LONG = Source(trace="lengths_arxiv_summarization")
_DRIFTS, _LONG_SEED = 92, 500_009


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with an arm: shares of its requests, and by how much a first token comes later, as a share."""

    errors: float = 0.002
    truncated: float = 0.001
    late: float = 0.0


@dataclass(frozen=True, slots=True)
class Drift:
    """How the traffic changes: the rate by `swing` of itself every `period` seconds, and the share of long prompts
    between `least` and `most` every `mix` seconds; where in its period each begins is drawn."""

    swing: float = 0.4
    period: float = 240.0
    least: float = 0.05
    most: float = 0.35
    mix: float = 420.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One rollout but for its seed. Rates are requests/s, times seconds.

    The first `warm_up` requests go to the stable arm, so that its predictor knows its engines. With `shares`, (from so
    many seconds after that, the canary's share), the `rule` is asked and not obeyed.
    """

    name: str
    rule: CanaryRule | None = None
    shares: tuple[tuple[float, float], ...] = ()
    stable: Group = field(default_factory=lambda: Group(ENGINE, 3))
    canary: Group = field(default_factory=lambda: Group(ENGINE, 3))
    wrong: tuple[Faults, Faults] = (Faults(), Faults())
    drift: Drift = field(default_factory=Drift)
    rate: float = 10.0
    warm_up: int = 400
    requests: int = 4000

    @property
    def scenario(self) -> Scenario:
        """What the simulation is told; both pools' engines, stable ones first."""
        routers = Routers(count=2, scrape=Scrape(every=0.0))
        return Scenario(self.name, (self.stable, self.canary), Traffic(), Slo(told=False), routers,
                        self.warm_up + self.requests, 0.0, 0.0)  # fmt: skip


def drifting(scenario: Scenario, drift: Drift, rate: float, seed: int) -> Asked:
    """Requests whose rate and mix of lengths change; the same for every trial of this seed."""
    chat = draw(scenario, rate, seed)
    long = draw(replace(scenario, traffic=Traffic((LONG,))), rate, seed + _LONG_SEED)
    draws, size = np.random.default_rng([seed, _DRIFTS]), len(chat)
    phases = 2.0 * math.pi * draws.random(2)
    arrived = _drifted(np.asarray(chat.arrived * rate, np.float64), drift, rate, float(phases[0]))
    middle, half = (drift.most + drift.least) / 2.0, (drift.most - drift.least) / 2.0
    shares = middle + half * np.sin(2.0 * math.pi * arrived / drift.mix + phases[1])
    which = draws.random(size) < shares
    items = [replace(one if is_long else other, at=at) for is_long, one, other, at
             in zip(which.tolist(), long.items, chat.items, arrived.tolist(), strict=True)]  # fmt: skip
    return replace(chat, items=items, arrived=arrived, prompt=np.array([item.prompt_tokens for item in items]),
                   output=np.array([item.output_tokens for item in items]))  # fmt: skip


def _drifted(work: Floats, drift: Drift, rate: float, phase: float) -> Floats:
    """When so much work time has passed under a rate of 1 + swing sin(2 pi t / period + phase), times `rate`."""
    turn = 2.0 * math.pi / drift.period
    grid = np.arange(0.0, float(work[-1]) / rate * 2.0 + 2.0 * drift.period, drift.period / 512.0)
    passed = rate * (grid + drift.swing / turn * (math.cos(phase) - np.cos(turn * grid + phase)))
    return np.asarray(np.interp(work, passed, grid), np.float64)
