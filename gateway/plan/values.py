"""What a plan hands to the lab and what it gets back, as values; the lab's side of the two is `loadtest.lab.foresight`.

The idea: the gateway does not know the lab and the lab does not know configurations, so both know these. Engines,
policies and queues are the configuration's, requests are the records'; where each request may go was decided before (by
the rules, `policies.routing`), so here it is a list of pools. Times are seconds, lengths tokens, NaN where not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import NamedTuple, Protocol

from gateway.core.types import UNKNOWN
from policies.admission.base import ClassRule

ALL = ""
"""The name of all models, or of all pools, in `Seen`."""
OVERHEAD = 0.015  # seconds from the gateway to an engine's queue, where nothing is known of it


# --- to the lab -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Engine:
    """One simulated engine. `pace`: an iteration takes so many times as long as its profile says; `limit`: requests
    that the gateway sends it at once, 0: no limit; `kv_tokens` 0: the profile's; `name`: its endpoint's id, if it has
    one."""

    profile: str
    chunk: int = 2048
    pace: float = 1.0
    limit: int = 0
    max_seqs: int = 256
    kv_tokens: int = 0
    noise: float = 0.03
    name: str = ""


@dataclass(frozen=True, slots=True)
class FillerRule:
    """How much filler may slow others down (a share), and how often it gives way."""

    slowdown: float = 0.05
    aborts: int = 3


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """One pool: its engines, and how it is used.

    `prior` is the profile its predictor starts from, empty for a neutral one. `limit`: requests in flight, None: no
    limit. `overhead`: seconds from the gateway to an engine.
    """

    name: str
    engines: tuple[Engine, ...]
    policy: str = "least_tokens"
    options: Mapping[str, object] = field(default_factory=dict)
    prior: str = ""
    limit: int | None = None
    scrape: float = 1.0
    overhead: float = OVERHEAD


class Call(NamedTuple):
    """One request: when it comes, how long it is, what it is promised, and the pools it may go to, in order.

    `after`: how long a full pool is waited for; `guess`: the prompt as estimated before it is sent; `blocks`: ids of
    the prompt's blocks of 16 tokens that others may have, too; `arm`: what is said of it in results.
    """

    at: float
    prompt_tokens: int
    output_tokens: int
    model: str
    pools: tuple[str, ...]
    after: float = 0.5
    arm: str = ""
    klass: str = "interactive"
    tenant: str = "anonymous"
    session: str = ""
    stream: bool = True
    ttft_slo: float = UNKNOWN
    tpot_slo: float = UNKNOWN
    guess: float = UNKNOWN
    filler: bool = False
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything of a run but its seed. Calls are in the order of their arrival."""

    pools: tuple[PoolPlan, ...]
    calls: tuple[Call, ...]
    rules: tuple[ClassRule, ...] = (ClassRule(),)
    filler: FillerRule | None = None


class Turn(NamedTuple):
    """What is known of one recorded prompt: whose it is, its tokens, and how many were cached."""

    tenant: str
    model: str
    session: str
    prompt: float
    cached: float


# --- and back ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """Engines found in records: a profile (the file's name), the chunk budget, and seconds to get there.

    `own`: each endpoint's profile; `profile` is that of the middle one. `errors`: of first tokens and of time per
    token, as shares, of streams held out. Not found: `profile` is empty and `told` says why.
    """

    profile: str = ""
    chunk: int = 2048
    overhead: float = OVERHEAD
    own: Mapping[str, str] = field(default_factory=dict)
    errors: tuple[float, float] = (nan, nan)
    told: str = ""


class Figure(NamedTuple):
    """A figure and where it lies with 95 % confidence over seeds; `low` and `high` are NaN for one seed."""

    value: float = nan
    low: float = nan
    high: float = nan


@dataclass(frozen=True, slots=True)
class Seen:
    """What clients of a model (or ALL) saw in a pool (or ALL), `requests` of them in a run.

    `attainment` (of those with a promise) and `refused` are shares; `ttft` and `tpot` are seconds at `QUANTILES`.
    """

    model: str
    pool: str
    requests: float
    attainment: Figure
    refused: Figure
    ttft: tuple[Figure, ...]
    tpot: tuple[Figure, ...]


QUANTILES = (50, 95, 99)


class Reached(NamedTuple):
    """How many requests of an arm were to go to a pool, and the shares that it answered, others did, and nobody."""

    model: str
    arm: str
    pool: str
    requests: int
    there: float
    elsewhere: float
    refused: float


class Lab(Protocol):
    """What a plan asks of the lab."""

    def fitted(self, records: Path, pool: str, folder: Path) -> Found:
        """The engines of a pool as the file of its records shows them; a profile is written into `folder`."""

    def shared_blocks(self, turns: Iterable[Turn]) -> list[tuple[int, ...]]:
        """What prompts share, as far as what was cached of them tells it: ids for each, in the order of arrival."""

    def foresee(self, setting: Setting, seeds: Sequence[int]) -> tuple[list[Seen], list[Reached]]:
        """Run the setting once for each seed."""
