"""Send a workload open loop: every request starts at its time, whatever became of the ones before.

One timer is armed for the next start; when it fires, everything due is sent. Nothing here waits for an answer, so a
slow server gets the same load as a fast one. A run is bounded: by its items, by `grace` seconds after the
last start, and by a time limit for each request.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from loadtest.client import Client, Clock, Exchange
from loadtest.measure import Generator, Record
from loadtest.prompts import PromptMaker
from loadtest.workload import Item

EARLY = 0.0005  # s: timers of the event loop are this coarse; a start this early counts as on time


@dataclass(frozen=True, slots=True)
class Asking:
    """How an item becomes a request."""

    model: str
    path: str
    stream: bool = True
    seed: int = 0


class OpenLoop:
    """One run. `await run(items)` once; the records are there even if it is cancelled."""

    def __init__(self, client: Client, asking: Asking, clock: Clock = time.monotonic, timeout: float = 600.0) -> None:
        self.records: list[Record] = []
        self.started = 0
        self._client = client
        self._asking = asking
        self._clock = clock
        self._timeout = timeout
        self._prompts = PromptMaker(asking.seed)
        self._zero = 0.0
        self._all_started = False
        self._finished = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Requests started and not yet over."""
        return self.started - len(self.records)

    @property
    def elapsed(self) -> float:
        """Seconds since the start of the run."""
        return self._clock() - self._zero

    async def run(self, items: Iterable[Item], grace: float = 600.0, lead: float = 0.2) -> None:
        """Send the items at their times and wait until each is answered, or `grace` s after the last start.

        `lead` s pass first, so that the first start is not late.
        """
        self._zero = self._clock() + lead
        watch = asyncio.create_task(self._watch(grace))
        self._send_due(self._prepare(items))
        try:
            await self._finished.wait()
        finally:
            watch.cancel()
            self._client.close()

    def _prepare(self, items: Iterable[Item]) -> Iterator[tuple[Item, Exchange]]:
        asking = self._asking
        for number, item in enumerate(items):
            body = self._prompts.body(item, number, asking.model, asking.path, asking.stream)
            headers = b"x-session-id: %s\r\n" % item.session.encode() if item.session.isalnum() else b""
            yield item, Exchange(body, functools.partial(self._end, item), headers)

    def _send_due(self, prepared: Iterator[tuple[Item, Exchange]]) -> None:
        # The next request is made before its time comes, so that making it does not delay its start.
        for item, exchange in prepared:
            wait = self._zero + item.at - self._clock()
            if wait > EARLY:
                asyncio.get_running_loop().call_later(wait, self._send_waiting, item, exchange, prepared)
                return
            self._send(exchange)
        self._all_started = True
        self._check_finished()

    def _send_waiting(self, item: Item, exchange: Exchange, prepared: Iterator[tuple[Item, Exchange]]) -> None:
        wait = self._zero + item.at - self._clock()
        if wait > EARLY:  # the timer fired early
            asyncio.get_running_loop().call_later(wait, self._send_waiting, item, exchange, prepared)
            return
        self._send(exchange)
        self._send_due(prepared)

    def _send(self, exchange: Exchange) -> None:
        self.started += 1
        self._client.send(exchange)

    def _end(self, item: Item, exchange: Exchange) -> None:
        self.records.append(to_record(item, exchange, self._zero))
        self._check_finished()

    def _check_finished(self) -> None:
        if self._all_started and not self.in_flight:
            self._finished.set()

    async def _watch(self, grace: float) -> None:
        last_start = None
        while True:
            await asyncio.sleep(1.0)
            now = self._clock()
            self._client.expire(now - self._timeout)
            if self._all_started:
                last_start = last_start or now
                if now - last_start > grace:
                    self._client.close()


def to_record(item: Item, exchange: Exchange, zero: float) -> Record:
    """What the exchange showed, with moments relative to `zero`."""
    meter = exchange.meter
    times = meter.arrivals
    first = times[0] if times else None if meter.streamed else meter.first_byte
    last = times[-1] if times else None
    return Record(
        intended=item.at,
        started=exchange.began - zero,
        ended=exchange.ended - zero,
        first=None if first is None else first - zero,
        last=None if last is None else last - zero,
        failure=exchange.failure,
        status=meter.status,
        tokens=meter.tokens,
        asked_tokens=item.output_tokens,
        prompt_tokens=item.prompt_tokens if meter.prompt_tokens is None else meter.prompt_tokens,
        cached_tokens=meter.cached_tokens or 0,
        endpoint=meter.endpoint,
        tenant=item.tenant,
        resent=exchange.resent,
        gaps=array("d", [later - earlier for earlier, later in itertools.pairwise(times)]),
    )


class CpuWatch:
    """Samples this process's CPU time once a second while it is entered."""

    def __init__(self, cpu_clock: Callable[[], float] = time.process_time, clock: Clock = time.monotonic) -> None:
        self._cpu_clock = cpu_clock
        self._clock = clock
        self._from = (0.0, 0.0)
        self._peak = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> CpuWatch:
        self._from = (self._clock(), self._cpu_clock())
        self._task = asyncio.create_task(self._sample())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _sample(self) -> None:
        while True:
            wall, cpu = self._clock(), self._cpu_clock()
            await asyncio.sleep(1.0)
            self._peak = max(self._peak, (self._cpu_clock() - cpu) / max(self._clock() - wall, 1e-9))

    def result(self, connections: int) -> Generator:
        """The figures since entering."""
        wall, cpu = self._from
        seconds = max(self._clock() - wall, 1e-9)
        mean = (self._cpu_clock() - cpu) / seconds
        return Generator(seconds, mean, max(self._peak, mean), connections)
