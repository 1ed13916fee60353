"""What a scenario file asks for: the experiment, the policies, the rates, and the bars the project has set itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from loadtest.lab.scenario import Admission, Fill, Group, Routers, Scenario, Slo, Traffic
from loadtest.lab.trial import Choice

OURS = "predicted_latency"
BASELINES = (
    "round_robin",
    "least_inflight",
    "power_of_two",
    "least_tokens",
    "lmetric",
    "sglang_cache_aware",
    "dynamo_kv",
    "sticky_until_saturated",
    "predicted_ttft",
)
# llm-d's has two modes.
LLMD = (
    Choice("llmd_predicted", {"mode": "latency"}, "llmd_latency"),
    Choice("llmd_predicted", {"mode": "headroom"}, "llmd_headroom"),
)
BEST = "best"  # of all policies that are not ours
POOLED = "pooled"  # the pooled server (B2)
FLUID = "fluid"  # the fluid bound (B1)


@dataclass(frozen=True, slots=True)
class Bar:
    """One thing the project wants to show: a figure of a policy, alone or over another's, and what it should be.

    `over` is a policy's name, `best`, `pooled` or `fluid`; the figure is then a ratio, paired by seed.
    """

    figure: str
    policy: str = OURS
    over: str = ""
    at_least: float = math.nan
    at_most: float = math.nan

    @property
    def wanted(self) -> str:
        """In words: `≥ 0.97`."""
        low, high = math.isfinite(self.at_least), math.isfinite(self.at_most)
        if low and high:
            return f"{self.at_least:g} to {self.at_most:g}"
        return f"≥ {self.at_least:g}" if low else f"≤ {self.at_most:g}"

    @property
    def words(self) -> str:
        """What is measured: `g95 over lmetric`."""
        return f"{self.figure} over {self.over}" if self.over else self.figure


@dataclass(frozen=True, slots=True)
class Study:
    """How a scenario is studied.

    `policies` are compared on the same requests; empty: ours and every baseline. With `search` the rates g95 and g99
    are found; where it is off, all is measured at one rate: `load` as a share of the fluid bound, or `rate` in
    requests/s. With `search`, that rate is where the tables take their percentiles. `start` (requests/s) is where the
    search begins; 0: below the bound.
    `curve`: the rates of the picture, as shares of our g95. `shift`: the errors around `traffic.later_from` are wanted.
    """

    policies: tuple[Choice, ...] = ()
    search: bool = True
    load: float = 0.8
    rate: float = 0.0
    start: float = 0.0
    seeds: int = 5
    curve: tuple[float, ...] = (0.5, 0.65, 0.8, 0.9, 0.97, 1.04, 1.12)
    shift: bool = False
    bars: tuple[Bar, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """A scenario file. `title` and `about` are for the report; the rest is the scenario's own."""

    name: str
    title: str
    about: str = ""
    groups: tuple[Group, ...] = (Group(),)
    traffic: Traffic = field(default_factory=Traffic)
    slo: Slo = field(default_factory=Slo)
    routers: Routers = field(default_factory=Routers)
    requests: int = 8000
    warm_up: float = 0.1
    cool_down: float = 0.05
    study: Study = field(default_factory=Study)
    fill: Fill = field(default_factory=Fill)
    admission: Admission = field(default_factory=Admission)

    @property
    def scenario(self) -> Scenario:
        """What is simulated."""
        return Scenario(self.name, self.groups, self.traffic, self.slo, self.routers, self.requests, self.warm_up,
                        self.cool_down, self.fill, self.admission)  # fmt: skip

    @property
    def has_policies(self) -> bool:
        """Whether policies are compared: not where gates are, or loads."""
        return not (self.fill.gates or self.admission.loads)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The policies, ours first."""
        every = (Choice(OURS), *(Choice(name) for name in BASELINES), *LLMD)
        return tuple(sorted(self.study.policies or every, key=lambda choice: choice.policy != OURS))

    def varied(
        self,
        policies: tuple[Choice, ...] | None = None,
        seeds: int | None = None,
        requests: int | None = None,
    ) -> Plan:
        """The plan with other policies, seeds or requests; bars that ask for a policy that is not there go."""
        study = self.study
        if policies:
            names = {choice.name for choice in policies} | {BEST, POOLED, FLUID, ""}
            bars = tuple(bar for bar in study.bars if bar.policy in names and bar.over in names)
            study = replace(study, policies=policies, bars=bars)
        if seeds:
            study = replace(study, seeds=seeds)
        return replace(self, study=study, requests=requests or self.requests)
