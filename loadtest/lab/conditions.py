"""What was simulated, in the words of a report: engines, traffic, promises, gateways, and how often it was repeated."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.lab.plan import Plan
from loadtest.lab.scenario import Group, Source, Traffic

_MS = 1e3


def conditions(plan: Plan) -> list[str]:
    """What was simulated, in words."""
    slo, routers = plan.slo, plan.routers
    promised = f"TTFT {slo.ttft:g} s" + (f" + {slo.unloaded:g} x the unloaded prefill" if slo.unloaded else "")
    knows = f"scrapes every {routers.scrape.every:g} s" if routers.scrape.every else "no scrapes"
    prior = f"prior `{routers.prior}`" if routers.prior else "neutral prior"
    edges = f"the first {plan.warm_up:.0%} and the last {plan.cool_down:.0%} not measured"
    return [
        *(f"* engines: {_group(group)}" for group in plan.groups),
        f"* traffic: {_traffic(plan.traffic)}",
        f"* promised: {promised}, mean TPOT {slo.tpot * _MS:g} ms" + ("" if slo.told else " (not told to the gateway)"),
        f"* gateways: {routers.count}, {knows}, {prior}",
        f"* {repeats(plan)}, {edges}; ± is the 95 % interval over seeds",
    ]


def repeats(plan: Plan) -> str:
    """How often, and how long: `5 seeds of 8,000 requests`."""
    seeds = plan.study.seeds
    return f"{seeds} seed{'s' if seeds > 1 else ''} of {plan.requests:,} requests"


def _group(group: Group) -> str:
    words = [f"{group.count} x `{group.profile}`, chunk {group.chunk:,}, {group.max_seqs} sequences"]
    if group.kv_tokens:
        words.append(f"KV for {group.kv_tokens:,} tokens")
    if group.warp:
        words.append("coefficients " + ", ".join(f"{name} x {factor:g}" for name, factor in group.warp))
    if group.pace != ((0.0, 1.0),):
        words.append("an iteration takes " + ", ".join(f"x {factor:g} from {at:g} s" for at, factor in group.pace))
    words.append(f"noise {group.noise:.0%}")
    if group.stall_rate:
        words.append(f"{group.stall_rate:g} stalls per busy second of {group.stall_seconds * _MS:g} ms")
    return ", ".join(words)


def _traffic(traffic: Traffic) -> str:
    arrivals = {"gamma": "Poisson arrivals" if traffic.cv == 1 else f"arrivals with CV {traffic.cv:g}",
                "trace": "the trace's own arrivals", "sessions": "sessions at random"}[traffic.arrivals]  # fmt: skip
    words = [f"{_mix(traffic.sources)}, {arrivals}"]
    if traffic.swing:
        words.append(f"rate ± {traffic.swing:.0%} every {traffic.period:g} s")
    if traffic.later:
        words.append(f"from {traffic.later_from:.0%} of the requests on {_mix(traffic.later)}")
    if traffic.streams < 1:
        words.append(f"{traffic.streams:.0%} streamed")
    if traffic.tokens_per_event > 1:
        words.append(f"{traffic.tokens_per_event} tokens per event")
    return ", ".join(words)


def _mix(sources: Sequence[Source]) -> str:
    total = sum(source.share for source in sources)
    named = []
    for source in sources:
        drawn = f"log-normal {source.prompt[0]:g} in / {source.output[0]:g} out"
        lengths = f"`{source.trace}`" if source.trace else drawn
        capped = f" (at most {source.longest:,} tokens in)" if source.longest else ""
        named.append((f"{source.share / total:.0%} " if len(sources) > 1 else "") + lengths + capped)
    return " + ".join(named)
