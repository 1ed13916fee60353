"""Rollouts that never were: requests of two arms with everything that makes them hard to judge, and a judge at each.

The idea: whether a judge keeps its promises can be seen in hundreds of rollouts only, so these are drawn, not
simulated. A figure of a request is the sum of what both arms share (a slow drift, a tide, what happens to everybody in
one second), of what its server goes through (an autoregressive process over tens of seconds, and what happens there in
one second), of its own luck with a heavy tail, and of what the canary does to it. Failures come one by one, and in
heaps when a server breaks down for a moment. `Rough` says how much there is of each.

Left to others: figures over many runs (`tests.evidence.canary_synthetic`), real engines (`loadtest.lab`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from gateway.core.routes import CanaryRule
from policies.routing.canary import Canary
from policies.routing.judge import Judge, Judgement
from policies.routing.seen import Seen

CHUNK = 30.0
FINISHES = ("stop", "length", "tool_calls")


@dataclass(frozen=True, slots=True)
class Rough:
    """Standard deviations are of logarithms; times in seconds."""

    luck: float = 0.35
    tail: float = 3.0
    """Degrees of freedom of Student's t."""
    drift: float = 0.15
    drift_time: float = 180.0
    tide: float = 0.1
    everybody: float = 0.1
    """What both arms share in one second."""
    server: float = 0.15
    server_time: float = 25.0
    moment: float = 0.15
    """What the requests on one server in one second share."""
    apart: float = 0.0
    """What servers differ by for good."""
    skew: float = 0.0
    """What the canary's residuals are off because it has another load than the others: no harm, bad calibration."""
    breakdowns: float = 0.0
    """Of each server, each second; half of that second's requests fail."""


CALM = Rough(drift=0.0, tide=0.0, everybody=0.0, server=0.0, moment=0.0, tail=30.0)
USUAL = Rough()
HARD = Rough(drift=0.3, everybody=0.2, server=0.25, server_time=45.0, moment=0.25, tail=2.5, breakdowns=0.0005)


@dataclass(frozen=True, slots=True)
class Truth:
    """What is so: of the arms, and of what the canary does."""

    rate: float = 10.0
    stable: int = 4
    canary: int = 1
    errors: float = 0.01
    truncated: float = 0.0
    ttft: float = 1.0
    """Of the canary: how many times as long."""
    tpot: float = 1.0
    errors_canary: float | None = None
    truncated_canary: float | None = None
    length: float = 1.0
    since: float = 0.0
    """Seconds after the beginning at which the canary becomes what these say."""
    rough: Rough = field(default_factory=Rough)


class Ended(NamedTuple):
    outcome: str
    at: float
    canary: int
    """Its requests until then."""
    why: str


class Process:
    """Autoregressive noise of several columns, a value each second."""

    def __init__(self, random: np.random.Generator, columns: int, deviation: float, time: float):
        self._random, self._deviation = random, deviation
        self._keep = math.exp(-1.0 / time)
        self._now = random.normal(0.0, deviation, columns)

    def seconds(self, count: int) -> np.ndarray:
        fresh = self._random.normal(0.0, self._deviation * math.sqrt(1.0 - self._keep**2), (count, len(self._now)))
        rows = np.empty_like(fresh)
        for i in range(count):
            self._now = rows[i] = self._keep * self._now + fresh[i]
        return rows


class Source:
    """Requests of both arms, `CHUNK` seconds at a time."""

    def __init__(self, truth: Truth, seed: int):
        self.truth = truth
        self.random = random = np.random.default_rng(seed)
        rough, servers = truth.rough, truth.stable + truth.canary
        self.drift = Process(random, 2, rough.drift, rough.drift_time)
        self.server = Process(random, servers, rough.server, rough.server_time)
        self.apart = random.normal(0.0, rough.apart, servers)
        self.phase = random.uniform(0.0, 2.0 * math.pi)

    def chunk(self, start: float, share: float) -> Iterator[Seen]:
        truth, random = self.truth, self.random
        tide = math.sin(self.phase + start / 240.0)
        count = int(random.poisson(truth.rate * CHUNK * (1.0 + 0.4 * tide)))
        at = np.sort(random.uniform(start, start + CHUNK, count))
        second = (at - start).astype(int)
        canary = random.random(count) < share
        theirs, ours = random.integers(0, truth.stable, count), random.integers(0, truth.canary, count)
        server = np.where(canary, truth.stable + ours, theirs)
        harmed = canary & (at >= truth.since)
        ttft, tpot = self._figures(second, server, canary, harmed, tide)
        failed, truncated = self._failures(second, server, harmed)
        tokens = random.lognormal(5.0, 0.9, count) * np.where(harmed, truth.length, 1.0)
        ends, users = random.choice(3, count, p=(0.8, 0.15, 0.05)), random.integers(1, 200, count)
        columns = (at, canary, server, failed, truncated, ttft, tpot, tokens, ends, users)
        for moment, is_canary, where, bad, cut, first, gap, length, end, user in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            whole = not (bad or cut)
            yield Seen(
                moment, is_canary, f"{'c' if is_canary else 's'}{where}", bad, cut, math.nan if bad else first,
                gap if whole else math.nan, length if whole else math.nan, FINISHES[end] if whole else "", user, share,
            )  # fmt: skip

    def _figures(
        self, second: np.ndarray, server: np.ndarray, canary: np.ndarray, harmed: np.ndarray, tide: float
    ) -> list[np.ndarray]:
        truth, random, rough = self.truth, self.random, self.truth.rough
        shape = int(CHUNK), truth.stable + truth.canary
        shared = self.drift.seconds(shape[0]) + rough.tide * tide + random.normal(0.0, rough.everybody, (shape[0], 2))
        local = self.server.seconds(shape[0]) + self.apart
        figures = []
        for i, (times, scale) in enumerate(((truth.ttft, 1.0), (truth.tpot, 0.4))):
            there = local + random.normal(0.0, rough.moment, shape)
            luck = random.standard_t(rough.tail, len(second)) * rough.luck
            noise = shared[second, i] + there[second, server] + luck + rough.skew * canary
            figures.append(scale * noise + math.log(times) * harmed)
        return figures

    def _failures(self, second: np.ndarray, server: np.ndarray, harmed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        truth, random = self.truth, self.random
        broken = random.random((int(CHUNK), truth.stable + truth.canary)) < truth.rough.breakdowns
        errors = truth.errors if truth.errors_canary is None else truth.errors_canary
        cuts = truth.truncated if truth.truncated_canary is None else truth.truncated_canary
        odds = np.where(harmed, errors, truth.errors)
        failed = random.random(len(second)) < np.where(broken[second, server], 0.5, odds)
        truncated = random.random(len(second)) < np.where(harmed, cuts, truth.truncated)
        return failed, truncated & ~failed


def held(rule: CanaryRule, truth: Truth, seed: int, share: float, longest: float) -> tuple[Ended, Judgement]:
    """A canary that stays at one share until the judge says that it is to be rolled back."""
    judge, source = Judge(rule), Source(truth, seed)
    start, said = 0.0, Judgement()
    while start < longest:
        for seen in source.chunk(start, share):
            judge.see(seen)
            said = judge.look(seen.at)
            if said.outcome == "roll_back":
                return Ended("roll_back", seen.at, said.counts["canary"], said.why), said
        start += CHUNK
    return Ended(said.outcome, start, said.counts["canary"], said.why), said


def rolled_out(rule: CanaryRule, truth: Truth, seed: int, longest: float) -> Ended:
    """A whole rollout: the share goes up as the rule says."""
    judge, source, canary = Judge(rule), Source(truth, seed), Canary(rule, 0.0)
    start, said = 0.0, Judgement()
    while start < longest:
        for seen in source.chunk(start, canary.share()):
            judge.see(seen)
            said = judge.look(seen.at)
            canary.advance(said, seen.at)
            if canary.is_over:
                return Ended(canary.phase, seen.at, said.counts["canary"], canary.why)
        start += CHUNK
    return Ended(canary.phase, start, said.counts["canary"], canary.waits_for(said, start))
