"""Asynchronous work in one process: its store, and everything that works on it, started and stopped as one.

A store that is away at the start keeps nothing else from starting: clients of files, batches and jobs get a 503 with
`Retry-After`, all others notice nothing, and it is connected to as soon as it is there. At the end what runs may end,
and everything else is given back to the store, for another gateway or for the next life of this one.

Left to others: each of the parts. This is only their wiring.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any, Protocol

from gateway.config.types import Config, Jobs
from gateway.intake import Intake
from gateway.jobs import open_store
from gateway.jobs.base import Store
from gateway.jobs.callbacks import Callbacks
from gateway.jobs.dispatcher import POLL, Dispatcher
from gateway.jobs.eta import Etas
from gateway.jobs.execute import Execution, Performer
from gateway.jobs.holding import Hands, Held
from gateway.jobs.http import JobsApi
from gateway.jobs.insist import Insistence
from gateway.jobs.model import Batch, Job, Stats
from gateway.jobs.objects import Eta
from gateway.jobs.promote import Promotion
from gateway.logs import Events
from gateway.records import RequestRecord

CLEAR_UP = 5.0  # seconds between looks for what has run out of time
BREATH = 0.05  # ... where there is more to clear up than one piece of work


class Told(Protocol):
    """Who counts what became of work."""

    def job_run(self, klass: str, how: str) -> None: ...


class JobsService:
    """`front` gives the one in use now: a reload makes a new one. Start, reconfigure, `drain`, `stop`."""

    def __init__(self, config: Config, intake: Intake, front: Callable[[], Performer],
                 record: Callable[[RequestRecord], None], told: Callable[[], Told], events: Events):  # fmt: skip
        random = Random()
        self._config = config
        self._told = told
        self._events = events
        self._insist = Insistence(random)
        url = self._rules().store.reveal()
        self._kind = url.partition(":")[0]
        self.store: Store = open_store(url)
        self._runs: Counter[tuple[str, str]] = Counter()
        self._promoted: Counter[str] = Counter()
        self._loops: list[asyncio.Task[None]] = []
        self._is_there: bool | None = None
        owner = f"gateway-{secrets.token_hex(8)}"
        hands = Hands()
        self._etas = Etas(self.store, hands)
        self._promotion = Promotion(self.store, self._etas, config)
        self._dispatcher = Dispatcher(self.store, Execution(front), owner, self._observe, random, self._promotion,
                                      hands=hands)  # fmt: skip
        self._callbacks = Callbacks(self.store, self._rules, random)
        self.api = JobsApi(
            self.store,
            config,
            intake,
            record,
            made=self._dispatcher.wake,
            eta=self._eta,
            cancelled=self._dispatcher.heed,
            waiting=self._waiting,
        )

    def _rules(self) -> Jobs:
        assert self._config.jobs is not None
        return self._config.jobs

    # --- its life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._loops = [loop.create_task(each()) for each in (self._open, self._clear_up, self._watch)]
        self._dispatcher.start()
        self._callbacks.start()
        self.api.start()

    def reconfigure(self, config: Config, intake: Intake) -> None:
        """After a reload, which cannot change the store."""
        self._config = self._promotion.config = config
        self.api.reconfigure(config, intake)

    def drain(self, timeout: float) -> Coroutine[Any, Any, None]:
        """Claim nothing more, let end what runs, give back the rest."""
        return self._dispatcher.stop(timeout)

    async def stop(self) -> None:
        await self._dispatcher.stop()
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self.api.stop()
        await self._callbacks.stop()
        await self.store.close()

    # --- loops ---------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        await self._insist.on(self.store.open)

    async def _clear_up(self) -> None:
        """End what has run out of time, delete what nobody keeps."""
        while True:
            more = False
            try:
                more = await self._insist.on(lambda: self.store.expire(time.time(), self._rules().retention))
            except Exception as error:  # a bug of ours: what is left over is looked at again later
                context = {"message": "clearing up failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
            if more:
                self._callbacks.wake()
            await asyncio.sleep(BREATH if more else CLEAR_UP)

    async def _watch(self) -> None:
        """Count at what speed work ends, and say when the store goes and comes."""
        while True:
            is_there = not (self._insist.is_away or self._dispatcher.is_cut_off)
            if is_there and self._dispatcher.stats is not None:
                self._etas.look(self._dispatcher.stats, time.time())
            if is_there is not self._is_there and (self._dispatcher.stats is not None or not is_there):
                if not is_there:
                    self._events.log("error", "jobs_store_away", store=self._kind, why=self._dispatcher.why_away)
                elif self._is_there is False:
                    self._events.log("info", "jobs_store_back", store=self._kind)
                self._is_there = is_there
            await asyncio.sleep(POLL)

    # --- what is told and asked ----------------------------------------------------------------------------------

    def _observe(self, held: Held, how: str, at: float) -> None:
        klass = held.claim.klass
        self._runs[klass, how] += 1
        self._told().job_run(klass, how)
        if held.is_promoted and how in ("completed", "failed"):
            self._promoted[klass] += 1
        if how in ("completed", "failed"):
            self._etas.ended(held.kind, at, at - held.since)
            if held.claim.batch_id is None:
                self._callbacks.wake()

    async def _eta(self, work: Batch | Job) -> Eta | None:
        return await self._etas.of(work, time.time())

    def _waiting(self, klass: str, model: str) -> int:
        queues = self._dispatcher.stats.queues if self._dispatcher.stats is not None else ()
        return sum(queue.jobs for queue in queues if (queue.klass, queue.model) == (klass, model))

    def stats(self) -> Stats | None:
        """What the store holds, about a second old; None until it was seen."""
        return self._dispatcher.stats

    def at_risk(self) -> Mapping[str, int]:
        """By class: how many are expected to miss their deadline."""
        return self._promotion.at_risk()

    def view(self) -> Mapping[str, object]:
        """The state of all of it, in JSON's terms."""
        stats, at, hands = self._dispatcher.stats or Stats(), time.time(), self._dispatcher.hands
        queues = []
        for queue in stats.queues:
            speed = self._etas.speed((queue.klass, queue.model), at)
            queues.append({
                "class": queue.klass, "model": queue.model, "waiting": queue.waiting, "claimed": queue.claimed,
                "earliest_deadline": queue.earliest if queue.earliest == queue.earliest else None,
                "ended_per_second": speed.rate if speed is not None else None,
                "here": hands.by_state((queue.klass, queue.model)),
            })  # fmt: skip
        return {
            "store": self._kind, "available": self._is_there is not False, "queues": queues,
            "batches": dict(stats.batches), "at_risk": dict(self.at_risk()), "promoted": dict(self._promoted),
            "runs": [{"class": klass, "how": how, "count": n} for (klass, how), n in sorted(self._runs.items())],
            "callbacks": dict(self._callbacks.told),
            "since_ever": {"lost": stats.lost, "repeated": stats.repeated, "late": stats.late,
                           "poisoned": stats.poisoned, "displaced": stats.displaced},
        }  # fmt: skip
