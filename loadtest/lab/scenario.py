"""What one experiment is: the engines, what is asked of them and when, what is promised, and what the routers can see.

All of it is values, so that a scenario can be written as a small YAML mapping, varied with `dataclasses.replace`, and
printed. Times are seconds, lengths are tokens, rates come with the run. The defaults are the conditions under which the
project's figures are given unless they say otherwise: eight engines, chunks of 2048, 256 sequences, 3 % noise on an
iteration, 15 ms of API server before the engine sees a request.

Left to others: drawing the requests (`arrivals`), running them (`simulation`), reading YAML (`reading`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

ARRIVALS = ("gamma", "trace", "sessions")
DEFAULT_PROFILE = "h100_llama-3.1-8b_bf16_tp1"


class ScenarioError(ValueError):
    """A scenario that cannot be run; the message says where in it and why."""


@dataclass(frozen=True, slots=True)
class Group:
    """`count` equal engines.

    `pace` is a table of (from this second on, an iteration takes so many times as long): ((0, 2.5),) is an engine at
    0.4 times the speed, ((0, 1), (60, 3), (120, 1)) one that is slow for a minute and tells nobody. `warp` multiplies
    coefficients of the profile, (("base", 1.3), ("pair", 0.5)): a GPU that no prior knows. With `kv_tokens` 0 the KV
    cache is the profile's.
    """

    profile: str = DEFAULT_PROFILE
    count: int = 8
    pace: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    warp: tuple[tuple[str, float], ...] = ()
    chunk: int = 2048
    max_seqs: int = 256
    kv_tokens: int = 0
    block_size: int = 16
    prefix_caching: bool = True
    noise: float = 0.03
    stall_rate: float = 0.0
    stall_seconds: float = 0.2
    max_queued: int = 0
    max_concurrency: int = 0  # the gateway's limit; 0: none


@dataclass(frozen=True, slots=True)
class Source:
    """Where lengths come from: a trace by its name, or log-normal (mean, coefficient of variation) pairs.

    Several sources are mixed by `share`. `longest` caps prompts (0: nothing does).
    """

    trace: str = ""
    prompt: tuple[float, float] = (1155.0, 0.95)
    output: tuple[float, float] = (211.0, 0.77)
    share: float = 1.0
    longest: int = 0
    tenant: str = ""  # instead of the trace's


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is asked and when.

    `arrivals`: `gamma` gaps with coefficient of variation `cv` (1 is Poisson), the `trace`'s own times stretched to the
    rate, or `sessions`: whole sessions of the trace begin at random and keep their own gaps. With `swing` the rate goes
    up and down by that share of itself every `period` seconds. With `on` and `off` requests come for so many seconds
    (at the run's rate), then none for so many. From the share `later_from` of the requests on, lengths come from
    `later`. A trace with prefix blocks is taken in its order from a random place on (and its ids are moved when it
    begins again), lengths without blocks are drawn from it.
    """

    sources: tuple[Source, ...] = (Source(trace="azure_conv_2023"),)
    arrivals: str = "gamma"
    cv: float = 1.0
    swing: float = 0.0
    period: float = 60.0
    on: float = 0.0
    off: float = 0.0
    later: tuple[Source, ...] = ()
    later_from: float = 0.5
    overhead: float = 0.015  # from the gateway to the engine's queue
    overhead_noise: float = 0.15
    streams: float = 1.0  # share of the requests that ask for a stream
    tokens_per_event: int = 1


@dataclass(frozen=True, slots=True)
class Slo:
    """What is promised: `ttft` plus `unloaded` times the prefill on an idle, fastest engine; `tpot` as a mean.

    `told`: whether a request carries it to the gateway.
    """

    ttft: float = 0.5
    tpot: float = 0.025
    unloaded: float = 0.0
    told: bool = True


@dataclass(frozen=True, slots=True)
class Scrape:
    """Each router asks each engine by itself `every` so often; the answer takes `delay`; `missing` of them fail.

    `every` 0: nobody is asked. From `out_from` to `out_to` none gets an answer.
    """

    every: float = 1.0
    delay: float = 0.005
    missing: float = 0.0
    out_from: float = 0.0
    out_to: float = 0.0


@dataclass(frozen=True, slots=True)
class Routers:
    """How many gateways share the traffic at random, and what they know.

    `prior`: the name of a profile the operator configured, or empty for the neutral one. `prompt_error` is the sigma of
    a log-normal error in the estimate of prompt tokens. `may_hold`: whether a decision that would rather wait may.
    `tells_cached`: the engines' usage says how much of a prompt was cached.
    """

    count: int = 1
    scrape: Scrape = field(default_factory=Scrape)
    prior: str = ""
    prompt_error: float = 0.0
    may_hold: bool = True
    tells_cached: bool = True


@dataclass(frozen=True, slots=True)
class Gate:
    """What lets asynchronous work go: `headway`, or one of the baselines of `gates`, with its option `x`.

    With `tuned_at` (requests/s) x is found first: the largest one that costs no more than half a point of attainment at
    that rate, without swing and bursts.
    """

    gate: str = "headway"
    x: float = 0.0
    tuned_at: float = 0.0
    label: str = ""

    @property
    def name(self) -> str:
        """What the report calls it."""
        if self.label:
            return self.label
        tuned = f"tuned at {self.tuned_at:g}/s" if self.tuned_at else f"{self.x:g}" if self.x else ""
        return f"{self.gate} {tuned}".strip()


@dataclass(frozen=True, slots=True)
class Fill:
    """Asynchronous work beside the traffic: a backlog that never ends, log-normal lengths (mean, CV).

    With `gates` the scenario is a study of them instead of policies. `streams`: share of it that is streamed to the
    gateway; `priority`: engines schedule by priority and are told; `leave`: seconds from an abort to the engine.
    """

    gates: tuple[Gate, ...] = ()
    prompt: tuple[float, float] = (2000.0, 0.0)
    output: tuple[float, float] = (300.0, 0.0)
    streams: float = 0.0
    slowdown: float = 0.05
    aborts: int = 3
    priority: bool = False
    leave: float = 0.015


@dataclass(frozen=True, slots=True)
class Admission:
    """A desk between the router and its requests: who waits and who is refused.

    With `loads` (shares of the fluid capacity) the scenario is a study of them instead of policies. `tenants` share
    the traffic, the first of them asking for `greedy` times its share on top; requests have a deadline that is drawn
    between `deadlines` (seconds after arrival; 0, 0: none). `limit`, `wait` and `order` are those of the class.
    """

    loads: tuple[float, ...] = ()
    tenants: int = 0
    greedy: float = 0.0
    deadlines: tuple[float, float] = (0.0, 0.0)
    limit: int = 2000
    wait: float = 10.0
    order: str = "fair"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One experiment but for its rate, its policy and its seed.

    The first of the requests, a share of `warm_up`, are not measured, nor are the last, a share of `cool_down`: they
    keep the load up until the measured ones have their answers.
    """

    name: str
    groups: tuple[Group, ...] = (Group(),)
    traffic: Traffic = field(default_factory=Traffic)
    slo: Slo = field(default_factory=Slo)
    routers: Routers = field(default_factory=Routers)
    requests: int = 8000
    warm_up: float = 0.1
    cool_down: float = 0.05
    fill: Fill = field(default_factory=Fill)
    admission: Admission = field(default_factory=Admission)
