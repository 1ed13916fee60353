"""Takes durable work from the store and keeps the gateway's queues supplied with it, each piece until it has ended.

The idea: who goes when is decided by admission, for this work as for all other; here is only seen to it that enough of
it stands in line there. For each class and model a little more is claimed than runs, so a place that becomes free is
filled at once and a model that is busy does not hold up another. What is claimed is held by a lease that is renewed
(`holding`); when this process dies, others get it back by the lease's end. Who is told "not now" waits at a gate
(`gate`) for a moment, and for more than that in the store, where it blocks nobody.

A store that is away stops nothing that runs: results wait here until they are written, and nothing new is claimed.

Left to others: running one (`execute`), trying again (`retry`), the promises of a store (`base`), calling back
(`callbacks`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from random import Random
from typing import Any, Protocol

from gateway.jobs.base import Store, StoreUnavailable
from gateway.jobs.execute import Again, End, Executor, GaveWay
from gateway.jobs.gates import Gates, Passage
from gateway.jobs.holding import DONE, IN_LINE, PARKED, Hands, Held, Kind, Observer
from gateway.jobs.insist import Insistence
from gateway.jobs.model import Claim, Queue, Renewal, Stats
from gateway.jobs.retry import is_given_up, wait

LEASE = 30.0  # seconds a claim is held without a word
LEAST_BETWEEN = 0.1  # seconds between renewals, however many cancel their work
AHEAD = 16  # pieces of work of one class and model that stand in line, at least
MOST_AHEAD = 512  # ... and at most
AHEAD_SHARE = 0.5  # ... of those that run, in between
MOST_HELD = 2048  # of one class and model in our hands
MOST_BYTES = 48 << 20  # in our hands of all: beyond it, one piece of work at a time
POLL = 1.0  # seconds between looks at what is in line, where nobody said that there is something new
LEAST_POLL, LOOKING = 0.1, 10.0  # ... and between two looks, whoever said so: seconds, and times what one takes
HOLD = 5.0  # seconds that a piece of work waits here for a gate
GIVE_BACK = 2.0  # seconds for the store to take back what was stopped


class Classes(Protocol):
    """Says as what a claim runs, which may be a better class than its own when its time runs out."""

    def class_of(self, claim: Claim, at: float) -> str: ...

    async def look(self, claims: Iterable[Claim], at: float) -> bool:
        """See how time stands for these, which wait. True: ask again what they run as."""
        ...


class Dispatcher:
    """One per process. `owner` is unique to this life of it; `lease`, in seconds."""

    def __init__(self, store: Store, executor: Executor, owner: str, observe: Observer, random: Random,
                 classes: Classes, lease: float = LEASE, hands: Hands | None = None):  # fmt: skip
        self._store = store
        self._executor = executor
        self._owner = owner
        self._observe = observe
        self._random = random
        self._classes = classes
        self._lease = lease
        self._gates = Gates(random)
        self._insist = Insistence(random)
        self._waiting: list[Kind] = []  # of these there is something in the store, earliest deadline first
        self._news = asyncio.Event()
        self._cancelled = asyncio.Event()
        self._is_new = True
        self._supplying: asyncio.Task[None] | None = None
        self._claiming: asyncio.Task[list[Claim]] | None = None
        self._loops: list[asyncio.Task[None]] = []
        self.hands = hands if hands is not None else Hands()
        self.stats: Stats | None = None  # of the store, about a second old; None: it was never seen

    @property
    def is_cut_off(self) -> bool:
        """The store is away."""
        return self._insist.is_away

    @property
    def why_away(self) -> str:
        return self._insist.why

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._supplying = loop.create_task(self._for_ever(self._supply))
        self._loops = [loop.create_task(self._for_ever(each)) for each in (self._renew, self._reap, self._hurry)]

    def wake(self) -> None:
        """There is something new in the store."""
        self._is_new = True
        self._news.set()

    def heed(self) -> None:
        """Something was cancelled: what of it runs here is stopped now, not when leases are renewed next."""
        self._cancelled.set()

    async def stop(self, timeout: float = 0.0) -> None:
        """Claim nothing more. What runs may end within `timeout` seconds; the rest is given back to be begun again."""
        if self._supplying is not None:
            self._supplying.cancel()
            await asyncio.gather(self._supplying, return_exceptions=True)
        await self._give_back_unseen()
        tasks = [held.task for held in self.hands if held.task is not None and held.state in (PARKED, IN_LINE)]
        for task in tasks:
            task.cancel()
        running = [held.task for held in self.hands if held.task is not None and held.task not in tasks]
        if running:
            await asyncio.wait(running, timeout=timeout)
        for task in (*running, *self._loops):
            task.cancel()
        await asyncio.gather(*tasks, *running, *self._loops, return_exceptions=True)

    async def _give_back_unseen(self) -> None:
        """A claim was under way: what it got is in our hands, and nobody has seen it yet."""
        if self._claiming is not None:
            with contextlib.suppress(StoreUnavailable, TimeoutError):
                async with asyncio.timeout(GIVE_BACK):
                    claims = await self._claiming
                    await asyncio.gather(*(self._let_go(claim) for claim in claims))

    async def _for_ever(self, each: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A loop that dies of a bug would stop all work, silently: say so, and go on."""
        while True:
            try:
                await each()
            except Exception as error:
                context = {"message": "the dispatcher failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
                await asyncio.sleep(POLL)

    # --- claiming ------------------------------------------------------------------------------------------------

    async def _supply(self) -> None:
        looked, rest = float("-inf"), 0.0
        now = asyncio.get_running_loop().time
        while True:
            self._news.clear()
            if self._is_new or now() - looked >= POLL:
                await asyncio.sleep(looked + rest - now())
                self._is_new, looked = False, now()
                self.stats = await self._insist.on(self._store.stats)
                rest = min(POLL, max(LEAST_POLL, LOOKING * (now() - looked)))
                self._waiting = [(queue.klass, queue.model) for queue in sorted(self.stats.queues, key=_earliest)
                                 if queue.waiting]  # fmt: skip
                self._gates.forget()
            claimed = 0
            for kind in tuple(self._waiting):
                claimed += await self._claim(kind)
            if not claimed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await self._news.wait()

    async def _claim(self, kind: Kind) -> int:
        """Take what is missing in line for one class and model. Returns how many came."""
        wanted = min(MOST_AHEAD, max(AHEAD, int(self.hands.running(kind) * AHEAD_SHARE)))
        gate = self._gates.of_model(kind)
        missing = min(wanted - self.hands.waiting(kind), MOST_HELD - self.hands.of(kind))
        is_heavy = self.hands.bytes > MOST_BYTES
        if gate.has_enough or missing <= wanted // 2 or (is_heavy and self.hands.of(kind)):
            return 0
        missing = missing if gate.is_open and not is_heavy else 1
        at = time.time()
        self._claiming = asyncio.get_running_loop().create_task(self._store.claim(
            self._owner, missing, at + self._lease, at, klass=kind[0], model=kind[1],
            passing_over=self._gates.tenants_with_enough(kind),
        ))  # fmt: skip
        try:
            claims = await asyncio.shield(self._claiming)
        except StoreUnavailable:
            self._claiming = None
            return 0
        self._claiming = None
        for claim in claims:
            held = self.hands.take(claim)
            held.task = asyncio.get_running_loop().create_task(self._run(held))
        if not claims:
            self._waiting.remove(kind)  # what there is has its time, or its tenant's, still to come
        return len(claims)

    # --- one piece of work ---------------------------------------------------------------------------------------

    async def _run(self, held: Held) -> None:
        claim, how = held.claim, "stopped"
        try:
            end = await self._bring_to_end(held)
            self.hands.move(held, DONE)
            how = await self._insist.on(partial(self._write_down, claim, end))
        except asyncio.CancelledError:
            if not held.is_lost:
                await self._let_go(claim)
        except Exception as error:  # not given back: its lease ends, so that whatever this is cannot spin
            context = {"message": "a piece of work failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
        finally:
            self.hands.drop(held)
            self._observe(held, how, time.time())
            self._news.set()

    async def _bring_to_end(self, held: Held) -> End:
        """Run it, again and again while it is told "not now" and that will soon be over."""
        claim = held.claim
        while True:
            passage = self._gates.passage(claim)
            if not passage.is_open:
                self.hands.move(held, PARKED)
                self._news.set()  # there is room for another in line
            try:
                async with asyncio.timeout(HOLD):
                    await passage.enter()
            except TimeoutError:
                return passage.closed(claim.id)
            try:
                self.hands.move(held, IN_LINE)
                held.klass = self._classes.class_of(claim, time.time())
                sent = partial(self._note_sent, held, passage)
                end = await self._executor.run(claim, held.klass, sent)
                passage.ended(end)
            except asyncio.CancelledError:
                if not held.is_hurried:
                    raise
                held.is_hurried = False  # not stopped, but to stand in another line
                held.uncancel()
                continue
            finally:
                passage.leave()
            if not isinstance(end, Again) or end.most or passage.closed_for() > HOLD or end.whose == "item":
                return end

    def _note_sent(self, held: Held, passage: Passage) -> None:
        self.hands.send(held)
        passage.passed()
        self._news.set()

    async def _write_down(self, claim: Claim, end: End) -> str:
        """Tell the store how it went. Returns the word for it."""
        at = time.time()
        if isinstance(end, GaveWay):
            await self._store.release(claim, at, displaced=True)
            return "displaced"
        if isinstance(end, Again) and not end.most:
            await self._store.release(claim, at, not_before=at + wait(0, end.after, self._random))
            return "put_off"
        if isinstance(end, Again) and not is_given_up(claim.tries, end.most):
            await self._store.retry(claim, at + wait(claim.tries, end.after, self._random), at)
            return "retried"
        written = await self._store.finish(claim, end.result, at)
        if written:
            self._gates.of_tenant(claim).hint()
            return "completed" if end.result.ok else "failed"
        return "late"

    async def _let_go(self, claim: Claim) -> None:
        """It was stopped: give it back. What cannot be given back now is, when its lease ends."""
        with contextlib.suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(GIVE_BACK):
                await self._store.release(claim, time.time())

    # --- beside it -----------------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._lease / 3.0):
                    await self._cancelled.wait()
            self._cancelled.clear()
            there = tuple(self.hands)
            latest = {held.claim.key: held for held in sorted(there, key=_attempt)}
            renewal = await self._insist.on(partial(self._renew_all, latest.values()))
            for held in there:  # of one that is here twice, the earlier claim was lost when it was given out again
                held.is_lost = held is not latest[held.claim.key] or held.claim.key in renewal.lost
                if (held.is_lost or held.claim.key in renewal.stop) and held.state != DONE and held.task is not None:
                    held.task.cancel()
            await asyncio.sleep(LEAST_BETWEEN)

    async def _renew_all(self, there: Iterable[Held]) -> Renewal:
        at = time.time()
        return await self._store.renew([held.claim for held in there], at + self._lease, at)

    async def _reap(self) -> None:
        """Take back what others lost."""
        while True:
            if await self._insist.on(lambda: self._store.reap(time.time())):
                self.wake()
            await asyncio.sleep(min(self._lease / 2.0, 5.0))

    async def _hurry(self) -> None:
        """What stands in line and runs out of time goes to a better line."""
        while True:
            await asyncio.sleep(POLL)
            in_line = [held for held in self.hands if held.state == IN_LINE]
            at = time.time()
            if await self._classes.look([held.claim for held in in_line], at):
                for held in in_line:
                    is_first = held.state == IN_LINE and not held.is_promoted
                    if is_first and held.klass != self._classes.class_of(held.claim, at):
                        held.hurry()


def _attempt(held: Held) -> int:
    return held.claim.attempt


def _earliest(queue: Queue) -> float:
    return queue.earliest if queue.earliest == queue.earliest else float("inf")
