"""Several pools behind one gateway, as values: what a plan hands to the lab.

The idea: engines, policies and queues are the configuration's, requests are the records'. Where each request may go
was decided before (by the rules, `policies.routing`), so here it is a list of pools. Times are seconds, lengths tokens.

Left to others: running them (`several`), finding engines in records (`engines`), what comes out (`foresight`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.core.types import UNKNOWN
from loadtest.lab.scenario import Group
from loadtest.workload import Item
from policies.admission.base import ClassRule

OVERHEAD = 0.015  # seconds from the gateway to an engine's queue, where nothing is known of it


@dataclass(frozen=True, slots=True)
class FillerRule:
    """How much filler may slow others down (a share), and how often it gives way."""

    slowdown: float = 0.05
    aborts: int = 3


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """One pool: its engines, group after group, and how it is used.

    `prior` is the profile its predictor starts from, empty for a neutral one. `limit`: requests in flight, None: no
    limit. `overhead`: seconds from the gateway to an engine. `told`: why its engines are taken to be these.
    """

    name: str
    groups: tuple[Group, ...]
    policy: str = "least_tokens"
    options: Mapping[str, object] = field(default_factory=dict)
    prior: str = ""
    limit: int | None = None
    scrape: float = 1.0
    overhead: float = OVERHEAD
    told: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `item.at` is its arrival; `pools` where it may go, in order; `after` how long a full one is waited
    for. `guess`: its prompt as estimated before it is sent. `ttft_slo` and `tpot_slo` are what it is promised."""

    item: Item
    model: str
    pools: tuple[str, ...]
    after: float = 0.5
    klass: str = "interactive"
    stream: bool = True
    ttft_slo: float = UNKNOWN
    tpot_slo: float = UNKNOWN
    guess: float = UNKNOWN
    filler: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything of one run but its seed. Calls are in the order of their arrival."""

    pools: tuple[PoolPlan, ...]
    calls: tuple[Call, ...]
    rules: tuple[ClassRule, ...] = (ClassRule(),)
    filler: FillerRule | None = None
