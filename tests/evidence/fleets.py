"""A fleet of simulated engines in a few processes, a gateway that picks by one policy, one load, and what came of it.

An engine is a port, not a process: two cores then suffice for eight of them. How far the simulators fell behind their
own clock is part of whether a run counts.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from loadtest.measure import Record
from loadtest.workload import Item
from tests.bench.rounds import Bar
from tests.bench.subjects import start, stop
from tests.evidence.streams import Run
from tests.evidence.support import PROFILE, Gateway, Shares, Sim, counts, folder, gateway, wait_for

LISTENS = re.compile(r"^sim \S+ http://127\.0\.0\.1:(\d+) ", re.M)
LOST = 0.01  # share of its time that a simulator may lose to a busy processor
_SAMPLE = re.compile(r"^(\w+)(?:\{([^}]*)\})? (\S+)$", re.M)


@dataclass(frozen=True, slots=True)
class Group:
    """Equal engines; `speed` as `headway sim` has it."""

    count: int
    speed: float = 1.0
    chunk: int = 2048
    priority: bool = False  # they schedule by priority


@contextmanager
def engines(groups: Sequence[Group], where: Path) -> Iterator[list[Sim]]:
    """One process for each group, all their engines listening. They cache no prefixes: what is asked differs anyway."""
    made: list[Sim] = []
    with ExitStack() as stack:
        for number, group in enumerate(groups):
            place = where / f"sims{number}"
            command = [sys.executable, "-m", "backends.sim", "--profile", PROFILE, "--count", str(group.count),
                       "--speed", str(group.speed), "--chunk", str(group.chunk), "--seed", str(100 * number),
                       "--no-prefix-caching", *(["--by-priority"] if group.priority else [])]  # fmt: skip
            running = start(f"sims{number}", command, 0, place)
            stack.callback(stop, running)
            made += [Sim(port, command, place, running) for port in _ports(place / "log", group.count)]
        yield made


def _ports(log: Path, count: int) -> list[int]:
    """The ports that a process of so many engines says it listens on."""
    wait_for(f"{log.parent.name} to listen", lambda: len(LISTENS.findall(log.read_text())) == count)
    return [int(port) for port in LISTENS.findall(log.read_text())]


@dataclass(frozen=True, slots=True)
class Played:
    """One run. `gauges` are the gateway's own at its end, by name and labels."""

    run: Run
    shares: Shares
    gauges: Mapping[str, float]
    lost: float

    @property
    def records(self) -> list[Record]:
        return self.run.records

    @property
    def why_not(self) -> str:
        """Why this run does not count, or nothing."""
        bars = [*counts(self.shares, self.run.lag), Bar("simulators behind their clock, share", self.lost, LOST)]
        return "; ".join(f"{bar.what} {bar.figure:.2f}" for bar in bars if not bar.kept)

    def gauge(self, name: str, what: str) -> float:
        """A prediction gauge of the pool."""
        return self.gauges.get(f'headway_prediction_{name}{{pool="main",what="{what}"}}', float("nan"))

    @property
    def gateway(self) -> float:
        """Its share of a core."""
        return self.shares.mean.get("gateway", float("nan"))


Meanwhile = Callable[[Run, list[Sim]], Awaitable[None]]


async def nothing(run: Run, sims: list[Sim]) -> None:
    """What happens meanwhile, when nothing does."""


def play(groups: Sequence[Group], policy: str, items: Sequence[Item], seed: int, slo: Mapping[str, str],
         meanwhile: Meanwhile = nothing, keeps_jobs: bool = False,
         **pool: Any) -> tuple[Played, list[str]]:  # fmt: skip
    """A fresh fleet and gateway, this load, and their end. `seed` is of the texts. Returns the engines' URLs too.

    `keeps_jobs`: the gateway takes batches; `pool` are further keys of its pool.
    """
    with folder() as where, engines(groups, where) as sims:
        urls = [sim.url for sim in sims]
        top = {"jobs": {"store": f"sqlite:{where / 'jobs.db'}"}} if keeps_jobs else {}
        with gateway(where / "headway", urls, slo=slo, top=top, pick=policy, **pool) as running:
            run, shares, lost = uvloop.run(_load(running, sims, items, seed, meanwhile))
            gauges = read_gauges(running)
    return Played(run, shares, gauges, lost), urls


async def _load(running: Gateway, sims: list[Sim], items: Sequence[Item], seed: int, meanwhile: Meanwhile,
                ) -> tuple[Run, Shares, float]:  # fmt: skip
    run = Run.on(running.url, seed)
    pids = {sim.where.name: (lambda sim=sim: sim.pid) for sim in sims}
    began, own = time.monotonic(), time.process_time()
    async with Shares({"gateway": lambda: running.pid, **pids}) as shares:
        await asyncio.gather(run.send(items), meanwhile(run, sims))
    took = time.monotonic() - began
    shares.mean["client"] = (time.process_time() - own) / took
    states = [await asyncio.to_thread(sim.state) for sim in sims]
    return run, shares, max(state["lost_seconds"] for state in states) / took


def read_gauges(running: Gateway) -> dict[str, float]:
    """Every sample on the gateway's `/metrics`, by its name with its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{running.admin}/metrics", timeout=5) as answer:
        page = answer.read().decode()
    return {name + (f"{{{labels}}}" if labels else ""): float(value) for name, labels, value in _SAMPLE.findall(page)}
