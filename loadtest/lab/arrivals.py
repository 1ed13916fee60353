"""Draws the requests of one run: when each comes, how long it is, what it shares with others, what it is promised.

Every purpose has a random stream of its own, and the streams know neither rate nor policy: the same seed gives the same
requests to every policy, and the same ones faster to a higher rate, so that what two runs share cancels when they are
compared. Arrivals are drawn in *work time* at mean rate 1 and carried to the clock through the inverse of the
cumulative rate (Daley and Vere-Jones, chapter 7).
"""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from backends.sim.profiles import Profile, profile
from loadtest.lab.record import Flags, Floats, Whole
from loadtest.lab.scenario import Group, Scenario, ScenarioError, Source, Traffic
from loadtest.workload import Item, mean_rate, read_trace

TRACES = Path(__file__).resolve().parents[1] / "traces"
_COMMON = 0.05  # a block that so large a share of the requests (or two sessions) have is everybody's
_HIGHEST = 200_000  # tokens: log-normal draws are cut here
_STREAMS = {name: number for number, name in enumerate(
    ("gaps", "lengths", "mixture", "overhead", "router", "stream", "estimate", "offset"))}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """The requests of one run, in the order of arrival; arrays with one value each. `guess`: the error of the gateway's
    estimate of prompt tokens, as a factor."""

    items: list[Item]
    arrived: Floats
    prompt: Whole
    output: Whole
    overhead: Floats
    router: Whole
    stream: Flags
    guess: Floats
    ttft_slo: Floats
    tpot_slo: Floats
    feasible: Flags

    def __len__(self) -> int:
        return len(self.items)


def draw(scenario: Scenario, rate: float, seed: int) -> Asked:
    """The requests of a run at `rate` per second. Raises ScenarioError if the scenario cannot make them."""
    if not rate > 0.0:
        raise ScenarioError("the rate must be above 0")
    count, traffic = scenario.requests, scenario.traffic
    items = _items(traffic, rate, count, seed)
    prompt = np.array([item.prompt_tokens for item in items], np.int64)
    arrived = np.array([item.at for item in items])
    noise = _stream(seed, "overhead").normal(0.0, traffic.overhead_noise, count)
    overhead = traffic.overhead * np.maximum(0.1, 1.0 + noise)
    sigma = scenario.routers.prompt_error
    alone, pace = unloaded(scenario, prompt)
    ttft_slo = scenario.slo.ttft + scenario.slo.unloaded * alone
    return Asked(
        items=items,
        arrived=arrived,
        prompt=prompt,
        output=np.array([item.output_tokens for item in items], np.int64),
        overhead=overhead,
        router=_stream(seed, "router").integers(0, scenario.routers.count, count),
        stream=_stream(seed, "stream").random(count) < traffic.streams,
        guess=np.exp(_stream(seed, "estimate").normal(0.0, 1.0, count) * sigma),
        ttft_slo=ttft_slo,
        tpot_slo=np.full(count, scenario.slo.tpot),
        feasible=(traffic.overhead + alone <= ttft_slo) & (pace <= scenario.slo.tpot),
    )


def unloaded(scenario: Scenario, prompt: Whole) -> tuple[Floats, Floats]:
    """Seconds of prefill on the fastest idle engine, and seconds per token alone there, for these prompt lengths."""
    prefills, tokens = [], []
    for group in scenario.groups:
        used, pace = warped(group), group.pace[0][1]
        prefills.append(pace * prefill_seconds(used, group.chunk, prompt))
        tokens.append(pace * np.array([used.seconds(1, 0.0, 0, 0, 1, int(context)) for context in prompt]))
    return np.min(prefills, axis=0), np.min(tokens, axis=0)


def prefill_seconds(used: Profile, chunk: int, prompt: Whole) -> Floats:
    """Seconds of prefill for prompts of these lengths on an idle engine: whole chunks, then the rest."""
    whole, rest = prompt // chunk, prompt % chunk
    last = np.array([used.seconds(int(tokens), 0.0, 0, 1, 0, 0) if tokens else 0.0 for tokens in rest])
    before = chunk * (whole * (whole - 1) // 2 + np.where(rest > 0, whole, 0))
    # The pairs of all chunks together are those of one chunk: they telescope.
    seconds: Floats = whole * used.seconds(chunk, 0.0, 0, 1, 0, 0) + last
    return seconds + 1e-3 * (used.pair * prompt.astype(float) ** 2 / 2.0 + used.prefix * before)


def warped(group: Group) -> Profile:
    """The profile of a group with its coefficients multiplied. Raises ScenarioError for one that does not exist."""
    used = profile(group.profile)
    try:
        return replace(used, **{name: getattr(used, name) * factor for name, factor in group.warp})
    except (AttributeError, TypeError) as error:
        raise ScenarioError(f"warp: {error}") from error


def _stream(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, _STREAMS[name]])


# -- lengths


def _items(traffic: Traffic, rate: float, count: int, seed: int) -> list[Item]:
    if traffic.arrivals == "sessions":
        return _sessions(traffic, rate, count, seed)
    lengths = _stream(seed, "lengths")
    items = _mixed(traffic.sources, count, seed, lengths)
    if traffic.later:
        first = round(count * traffic.later_from)
        items = items[:first] + _mixed(traffic.later, count, seed + 1_000_003, lengths)[first:]
    times = _times(traffic, items, rate, seed)
    return [replace(item, at=at) for item, at in zip(items, times.tolist(), strict=True)]


def _mixed(sources: tuple[Source, ...], count: int, seed: int, lengths: np.random.Generator) -> list[Item]:
    """`count` items: each from one of the sources by its share, each source going on where it was."""
    drawn = [_from_source(source, count, seed, lengths) for source in sources]
    if len(drawn) == 1:
        return drawn[0]
    shares = np.array([source.share for source in sources])
    which = _stream(seed, "mixture").choice(len(sources), count, p=shares / shares.sum())
    places = [iter(items) for items in drawn]
    return [next(places[number]) for number in which.tolist()]


def _from_source(source: Source, count: int, seed: int, lengths: np.random.Generator) -> list[Item]:
    if not source.trace:
        prompts = _lognormal(lengths, source.prompt, count, source.longest or _HIGHEST)
        outputs = _lognormal(lengths, source.output, count, _HIGHEST)
        return [Item(0.0, p, o, source.tenant) for p, o in zip(prompts, outputs, strict=True)]
    known = trace(source.trace)
    if known[0].blocks:
        starts = len(known) - count + 1 if count <= len(known) else len(known)
        items = _in_order(known, count, int(_stream(seed, "offset").integers(0, starts)))
    else:
        items = [known[place] for place in lengths.integers(0, len(known), count).tolist()]
    if source.longest or source.tenant:
        most = source.longest or _HIGHEST
        items = [replace(item, prompt_tokens=min(most, item.prompt_tokens), tenant=source.tenant or item.tenant)
                 for item in items]  # fmt: skip
    return items


def _lognormal(random: np.random.Generator, shape: tuple[float, float], count: int, most: int) -> list[int]:
    mean, cv = shape
    sigma = np.sqrt(np.log1p(cv * cv))
    values = np.exp(random.normal(np.log(mean) - sigma * sigma / 2.0, sigma, count))
    return [int(value) for value in np.clip(np.rint(values), 1, most)]


@lru_cache(maxsize=8)
def trace(name: str) -> list[Item]:
    """A shipped trace by its name, or any file of that form. Do not change what comes back: it is kept."""
    for path in (TRACES / f"{name}.jsonl.gz", TRACES / f"{name}.csv.gz", Path(name)):
        if path.is_file():
            return _read_lengths(path) if path.name.endswith(".csv.gz") else read_trace(path)
    known = sorted(path.name.split(".")[0] for path in TRACES.glob("*.gz"))
    raise ScenarioError(f"there is no trace {name!r}; there are {', '.join(known)}")


def _read_lengths(path: Path) -> list[Item]:
    """Lengths without times."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [Item(0.0, int(row["prompt_tokens"]), int(row["output_tokens"])) for row in csv.DictReader(lines)]


# -- traces with prefixes, over again


def _in_order(known: list[Item], count: int, start: int) -> list[Item]:
    """`count` items from `start` on. When the trace begins again its blocks are others, but for the common ones."""
    if start + count <= len(known):
        return known[start : start + count]
    common, step = _common(known), _ids(known)
    span = known[-1].at - known[0].at + (known[-1].at - known[0].at) / max(1, len(known) - 1)
    found = []
    for place in range(start, start + count):
        turn, at = divmod(place, len(known))
        item = known[at]
        found.append(replace(_moved(item, common, turn * step, turn), at=item.at + turn * span) if turn else item)
    return found


def _ids(known: list[Item]) -> int:
    return 1 + max(max(item.blocks, default=0) for item in known)


def _common(known: list[Item]) -> frozenset[int]:
    """Blocks that belong to nobody: those of two sessions; where there are no sessions, those of many requests."""
    if known[0].session:
        users = Counter(block for _, block in {(item.session, b) for item in known for b in item.blocks})
        return frozenset(block for block, seen in users.items() if seen > 1)
    seen = Counter(block for item in known for block in item.blocks)
    return frozenset(block for block, times in seen.items() if times > _COMMON * len(known))


def _moved(item: Item, common: frozenset[int], by: int, turn: int) -> Item:
    blocks = tuple(block if block in common else block + by for block in item.blocks)
    return replace(item, blocks=blocks, session=f"{item.session}.{turn}" if item.session else "")


# -- times


def _times(traffic: Traffic, items: list[Item], rate: float, seed: int) -> Floats:
    if traffic.arrivals == "trace":
        start, stretch = items[0].at, mean_rate(items) / rate
        return np.array([(item.at - start) * stretch for item in items])
    if traffic.arrivals != "gamma":
        raise ScenarioError(f"arrivals: there is no {traffic.arrivals!r}")
    moments: Floats = _work(_stream(seed, "gaps"), traffic.cv, len(items)) / rate
    return _on_the_clock(moments, traffic)


def _work(random: np.random.Generator, cv: float, count: int) -> Floats:
    """Moments of a renewal process of rate 1."""
    if cv < 1e-3:
        return np.asarray(np.arange(count) + random.random(), np.float64)
    order = 1.0 / (cv * cv)
    return np.asarray(np.cumsum(random.gamma(order, 1.0 / order, count)), np.float64)


def _on_the_clock(work: Floats, traffic: Traffic) -> Floats:
    """When so much work time has passed under a rate of 1 + swing * sin(2 pi t / period), or of 1 in bursts."""
    if traffic.on:
        bursts, within = np.divmod(work, traffic.on)
        return np.asarray(bursts * (traffic.on + traffic.off) + within, np.float64)
    if not traffic.swing:
        return work
    grid = np.arange(0.0, float(work[-1]) + 2.0 * traffic.period, traffic.period / 512.0)
    turn = 2.0 * np.pi / traffic.period
    passed = grid + traffic.swing / turn * (1.0 - np.cos(turn * grid))
    return np.asarray(np.interp(work, passed, grid), np.float64)


def _sessions(traffic: Traffic, rate: float, count: int, seed: int) -> list[Item]:
    """Sessions of the trace begin as a Poisson process and go on at their own pace; the first ones before the start."""
    known = trace(traffic.sources[0].trace)
    grouped: dict[str, list[Item]] = {}
    for item in known:
        grouped.setdefault(item.session, []).append(item)
    sessions = list(grouped.values())
    common, step = _common(known), _ids(known)
    longest = max(items[-1].at - items[0].at for items in sessions)
    per_second = rate * len(sessions) / len(known)
    needed = int(1.2 * (per_second * longest + count * len(sessions) / len(known))) + 40
    starts = _work(_stream(seed, "gaps"), traffic.cv, needed) / per_second - longest
    order = _stream(seed, "lengths").permuted(np.arange(needed) % len(sessions))
    found = []
    for turn, (start, which) in enumerate(zip(starts.tolist(), order.tolist(), strict=True)):
        own = sessions[which]
        found += [replace(_moved(item, common, (turn + 1) * step, turn), at=start + item.at - own[0].at)
                  for item in own if start + item.at >= own[0].at]  # fmt: skip
    found.sort(key=lambda item: item.at)
    if len(found) < count:
        raise ScenarioError("sessions: too few requests were drawn")
    return found[:count]
