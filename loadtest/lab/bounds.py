"""What no router can exceed: bounds that take seconds to compute, so that a gain can be read as a distance.

B0  what an idle engine could not serve within its SLO is lost for everyone and counts for nobody (see `arrivals`);
B1  fluid capacity: requests arrive like water and every engine runs at the fixed point of its own iteration time;
B2  one engine k times as wide, which never places anything wrongly (equal engines only);
B4  the share of prompt tokens that one cache of k times the size would hold (LRU).

B1 is an upper bound on the rate at which *all* requests keep a mean-TPOT SLO on engines that mix prefill and decode,
because the time of an iteration is convex in what it holds (Jensen); where a fitted profile is not convex its convex
envelope is taken. Traffic that shares prefixes is given the hits of B4. B2 is a reference, not a bound, when prompts
are heavy-tailed or arrivals come in bursts: keeping long prompts apart can beat it. B4 leaves out what answers and
running requests take of the cache.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np

from backends.sim.profiles import Profile
from loadtest.lab.arrivals import Asked, warped
from loadtest.lab.record import Floats
from loadtest.lab.scenario import Routers, Scenario

_PER_PIECE = ("slope1", "slope2", "slope3", "pair", "prefix", "seq", "ctx", "overhead_seq")
_ROUNDS = 400  # of the fixed point; it converges geometrically below the capacity


@dataclass(frozen=True, slots=True)
class Water:
    """The means that the fluid model needs, in tokens. `own` is what of the prompt is not cached."""

    prompt: float
    own: float
    output: float
    context: float  # what a decode reads, averaged over all decode steps
    pairs: float  # attention work of a prefill: own * (cached + own / 2)
    chunks: float  # iterations that a prompt takes part in

    @staticmethod
    def of(prompt: Floats, output: Floats, cached: Floats | None = None, chunk: int = 2048) -> Water:
        """From the lengths of some requests (equally long arrays, tokens)."""
        hit = np.zeros_like(prompt) if cached is None else cached
        own = np.maximum(prompt - hit, 1.0)
        steps = np.maximum(output - 1.0, 0.0)  # the first token comes out of the prefill
        context = float((steps * (prompt + output / 2)).sum() / max(float(steps.sum()), 1.0))
        pairs = float((own * (hit + own / 2)).mean())
        chunks = float(np.ceil(own / chunk).mean())
        return Water(float(prompt.mean()), float(own.mean()), float(output.mean()), context, pairs, chunks)


@dataclass(frozen=True, slots=True)
class Pipe:
    """One engine as the fluid sees it. `pace` multiplies its times (2: half as fast)."""

    profile: Profile
    chunk: int
    seqs: int
    kv_tokens: int
    pace: float = 1.0


def pipes(scenario: Scenario) -> list[Pipe]:
    """The engines of a scenario, at the pace they begin with; stalls and noise (which has mean 1) are in the pace."""
    found = []
    for group in scenario.groups:
        used = warped(group)
        stalled = 1.0 + group.stall_rate * group.stall_seconds
        kv = group.kv_tokens or used.kv_tokens
        pipe = Pipe(used, group.chunk, group.max_seqs, kv, group.pace[0][1] * stalled)
        found += [pipe] * group.count
    return found


# -- B1: fluid capacity


def fluid_capacity(scenario: Scenario, asked: Asked, cached: Floats | None = None) -> float:
    """Requests per second that the fleet can carry with every token within the TPOT SLO: the sum over its engines.

    `asked` is a sample of the scenario's requests; `cached` says how many tokens of each prompt need no prefill.
    """
    prompt, output = asked.prompt.astype(float), asked.output.astype(float)
    total, known = 0.0, dict[Pipe, float]()
    for pipe in pipes(scenario):
        if pipe not in known:
            known[pipe] = fluid_rate(pipe, Water.of(prompt, output, cached, pipe.chunk), scenario.slo.tpot)
        total += known[pipe]
    return total


def fluid_rate(pipe: Pipe, water: Water, tpot_slo: float) -> float:
    """The same for one engine: the largest rate whose iteration time has a fixed point that keeps all its limits."""
    low, high = 0.0, 1.0
    while _is_carried(pipe, water, high, tpot_slo) and high < 1e6:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        if _is_carried(pipe, water, middle, tpot_slo):
            low = middle
        else:
            high = middle
    return low


def _is_carried(pipe: Pipe, water: Water, rate: float, tpot_slo: float) -> bool:
    knots = _envelope(pipe.profile, pipe.chunk)
    seconds = 0.0
    for _ in range(_ROUNDS):
        longer = _iteration(pipe, water, rate * seconds, knots)
        if longer > tpot_slo:
            return False
        if longer - seconds < 1e-9:
            break
        seconds = longer
    each = rate * seconds  # requests that arrive during one iteration
    decodes = each * max(water.output - 1.0, 0.0)
    if each * water.own + decodes > pipe.chunk or decodes + each * water.chunks > pipe.seqs:
        return False
    # What is shared is counted once at most, so not at all: a bound may be too high, not too low.
    held = decodes * (water.context - water.prompt + water.own) + each * water.chunks * water.own
    return held <= pipe.kv_tokens


def _iteration(pipe: Pipe, water: Water, each: float, knots: tuple[Floats, Floats, float]) -> float:
    """Seconds of an iteration during which `each` requests arrive."""
    profile = pipe.profile
    decodes = each * max(water.output - 1.0, 0.0)
    tokens = each * water.own + decodes
    at, cost, beyond = knots
    ms = float(np.interp(tokens, at, cost)) + max(0.0, tokens - float(at[-1])) * beyond
    ms += profile.base + profile.overhead_iter + profile.seq * decodes + profile.ctx * decodes * water.context
    ms += profile.pair * each * water.pairs + profile.prefix * each * water.chunks * (water.prompt - water.own)
    ms += profile.overhead_seq * (decodes + each * water.chunks)
    return ms * 1e-3 * pipe.pace


def _envelope(profile: Profile, chunk: int) -> tuple[Floats, Floats, float]:
    """The convex envelope over [0, chunk] of what the matrix products cost: knots (tokens), cost (ms), last slope."""
    first, second = profile.slope1 * profile.knee1, profile.slope2 * (profile.knee2 - profile.knee1)
    end = max(chunk, profile.knee2 + 1)
    points = [(0.0, 0.0), (float(profile.knee1), first), (float(profile.knee2), first + second)]
    points.append((float(end), first + second + profile.slope3 * (end - profile.knee2)))
    hull: list[tuple[float, float]] = []
    for x, y in points:
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    at, cost = np.array([x for x, _ in hull]), np.array([y for _, y in hull])
    return at, cost, _slope(hull[-2], hull[-1])


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0]) if b[0] > a[0] else math.inf


# -- B2: one engine k times as wide


def pooled(scenario: Scenario) -> Scenario | None:
    """The scenario on one engine as wide as all of its equal ones together, which holds so many times as much in an
    iteration for the same price; None where the engines are not equal or do not stay so.

    Judge its run by the SLOs and the B0 mask of the scenario itself: a wide engine is a faster one for a single prompt.
    """
    if len(scenario.groups) != 1 or len(scenario.groups[0].pace) > 1:
        return None
    (group,) = scenario.groups
    factors = dict(group.warp)
    for name in _PER_PIECE:
        factors[name] = factors.get(name, 1.0) / group.count
    for name in ("knee1", "knee2"):
        factors[name] = factors.get(name, 1.0) * group.count
    wide = replace(
        group,
        count=1,
        warp=tuple(factors.items()),
        chunk=group.chunk * group.count,
        max_seqs=group.max_seqs * group.count,
        kv_tokens=(group.kv_tokens or warped(group).kv_tokens) * group.count,
    )
    return replace(scenario, name=f"{scenario.name}, pooled", groups=(wide,), routers=Routers())


# -- B4: one cache of k times the size


@dataclass(frozen=True, slots=True)
class CacheCeiling:
    """Prompt tokens that one LRU cache held, request by request, and their share of all."""

    cached: Floats
    ratio: float


def cache_ceiling(scenario: Scenario, asked: Asked, infinite: bool = False) -> CacheCeiling:
    """The hits of one LRU cache as large as all the engines' together (or infinite), which sees all requests in order.

    Counted in the trace's own blocks. As in the engine, the last token of a prompt is always computed, and a prompt's
    end is evicted before its beginning.
    """
    sizes = {item.block_size for item in asked.items if item.blocks}
    cached = np.zeros(len(asked))
    if not sizes:
        return CacheCeiling(cached, 0.0)
    tokens = math.inf if infinite else sum(pipe.kv_tokens for pipe in pipes(scenario))
    room = tokens / max(sizes)
    held: OrderedDict[Hashable, None] = OrderedDict()
    for i, item in enumerate(asked.items):
        names = item.blocks[: item.prompt_tokens // max(item.block_size, 1)]
        cached[i] = _hits(held, names, (item.prompt_tokens - 1) // max(item.block_size, 1)) * item.block_size
        for name in reversed(names):
            held[name] = None
            held.move_to_end(name)
        while len(held) > room:
            held.popitem(last=False)
    return CacheCeiling(cached, float(cached.sum() / asked.prompt.sum()))


def _hits(held: OrderedDict[Hashable, None], names: tuple[int, ...], limit: int) -> int:
    """Leading blocks that are there."""
    for number, name in enumerate(names[:limit]):
        if name not in held:
            return number
    return min(limit, len(names))
