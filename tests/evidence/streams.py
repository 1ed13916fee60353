"""Open-loop streams for the evidence: the lengths of a trace at drawn arrivals, and what became of each request.

The client is the load generator's own (`loadtest.open_loop`); here only its clock is shared, so that a moment seen on
this side (a server frozen, a server killed) can be compared with what each request had got by then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from loadtest.client import Client, Target
from loadtest.measure import Record, quantiles
from loadtest.open_loop import Asking, OpenLoop
from loadtest.workload import Item, arrivals, constant, read_trace, with_arrivals
from tests.bench.subjects import ROOT
from tests.evidence.support import CAPACITY, MODEL, poll

TRACE = ROOT / "loadtest" / "traces" / "azure_conv_2023.jsonl.gz"
PATH = "/v1/chat/completions"


def workload(share: float, servers: int, speed: float, seconds: float, seed: int, longest: int = 10_000) -> list[Item]:
    """Poisson arrivals at `share` of what the servers can do, with the trace's lengths (answers up to `longest`)."""
    rate = share * servers * CAPACITY * speed
    items = [item for item in read_trace(TRACE) if item.output_tokens <= longest]
    start = seed * 997 % len(items)
    return list(islice(with_arrivals(items[start:] + items[:start], arrivals(constant(rate), seconds, seed)), 100_000))


@dataclass(slots=True)
class Run:
    """A run under way. `records` fill up; `at` turns a monotonic moment into the records' time."""

    loop: OpenLoop
    client: Client
    url: str
    records: list[Record] = field(default_factory=list)

    @staticmethod
    def on(url: str, seed: int, stream: bool = True, timeout: float = 120.0,
           headers: dict[str, str] | None = None) -> Run:  # fmt: skip
        client = Client(Target.parse(url, PATH, headers or {}), time.monotonic)
        loop = OpenLoop(client, Asking(MODEL, PATH, stream, seed), timeout=timeout)
        return Run(loop, client, url, loop.records)

    def at(self, moment: float) -> float:
        return moment - (time.monotonic() - self.loop.elapsed)

    async def send(self, items: Sequence[Item], grace: float = 120.0) -> None:
        await self.loop.run(items, grace)

    async def until(self, moment: float) -> None:
        """Sleep until a moment of the run, in seconds after its start."""
        await poll(lambda: self.loop.started > 0, 60.0)  # its clock starts with its first request
        await asyncio.sleep(max(0.0, moment - self.loop.elapsed))

    @property
    def lag(self) -> float:
        """The client's start lag, p99."""
        found = quantiles([record.lag for record in self.records])
        return found["p99"] if found else 0.0


def ttft_p99(records: Sequence[Record]) -> float:
    found = quantiles([record.ttft for record in records if record.ttft is not None])
    return found["p99"] if found else float("nan")


@dataclass(frozen=True, slots=True)
class Fates:
    """Requests by what a server's end at `from_`..`to` (the run's time) could do to them."""

    broken: list[Record]  # started there before, and did not end well
    unended: list[Record]  # ... of these, those that look as if they had ended well or ended without a word
    lost: list[Record]  # not started by then, or elsewhere, and failed all the same
    fine: int


def fates(records: Sequence[Record], endpoint: str, to: float) -> Fates:
    """Judge a run in which `endpoint` stopped working no later than `to`."""
    broken, unended, lost, fine = [], [], [], 0
    for record in records:
        if record.ok:
            fine += 1
        elif record.endpoint == endpoint and record.first is not None and record.first <= to:
            broken.append(record)
            if not record.failure.startswith("error event"):
                unended.append(record)
        else:
            lost.append(record)
    return Fates(broken, unended, lost, fine)
