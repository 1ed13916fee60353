"""Limits counted across gateways: tells the ledger in Redis what was used, and brings leases back.

One task per gateway. Accounts in use report every 0.1 s, one whose lease runs out at once, one at rest every few
seconds; all that is due goes in one round trip, one call of the script each. No request waits here: it spends from its
account's lease (`core.leases`), and only one that finds its lease empty, while there is more to be had, may wait for
the next answer, `RENEWAL` seconds at most.

A circuit breaker stands before Redis: a connection that breaks, an error (a replica that is read-only, a full memory),
or two answers in a row that took longer than `PATIENCE`, and it counts as lost. Then `when_lost` says what happens:
`local`, each gateway alone, at its share of the limits; or `refuse`. It is tried again every second until it answers.
A Redis that comes back empty has forgotten debts, not leases: at most one bucket more than the limit is let through,
once, and that is said in the log.

Left to others: what a lease is (`core.leases`), the ledger's arithmetic (`shared.script`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from math import inf
from secrets import token_hex
from typing import Literal

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.config.types import Shared
from gateway.core.lease import Given, Message, Told
from gateway.core.leases import SOONEST, LeasedAccount
from gateway.core.limiter import Terms
from gateway.shared.script import ORDER, SCRIPT

PREFIX = "headway:limits:"
PATIENCE = 0.25  # seconds for an answer
STRIKES = 2  # answers in a row that take longer, and Redis counts as lost
TRY_AGAIN = 1.0  # seconds between tries while it is lost
TICK = 0.05  # seconds between looks at what is due
RENEWAL = 0.1  # seconds a request may wait for its lease
TTL = 10.0  # seconds after which a gateway that is not heard of is charged for all it kept
LIFE = 2 * 86_400_000  # milliseconds an account that nobody uses is remembered: a day's budget, and one more
BATCH = 100  # accounts in one round trip

Report = Callable[[str, str], None]  # an event's name, and what is wrong


class Silence(Exception):
    """Redis did not answer, or not with what was asked for. `late` is a slow one."""

    def __init__(self, why: str, late: bool = False):
        super().__init__(why)
        self.late = late


class SharedLimits:
    """The accounts of one gateway process in the common ledger. `start` before the first request, `stop` at the end."""

    def __init__(self, shared: Shared, report: Report, name: str = "", clock: Callable[[], float] = time.monotonic,
                 wall: Callable[[], float] = time.time):  # fmt: skip
        self.when_lost: Literal["local", "refuse"] = shared.when_lost
        self.is_lost = True
        self._report = report
        self._gateway = name or token_hex(8)
        self._clock = clock
        self._wall = wall
        self._redis = Redis.from_url(
            shared.url.reveal(), socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE, retry=Retry(NoBackoff(), 0),
            max_connections=2,
        )  # fmt: skip
        self._accounts: dict[str, LeasedAccount] = {}
        self._leaving: dict[str, LeasedAccount] = {}
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._script = ""
        self._strikes = 0
        self._looked_at = 0.0
        self._was_lost = False  # ... and it was said
        self._urgent = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # --- what the limiter asks for -------------------------------------------------------------------------------

    def account(self, name: str, terms: Terms) -> LeasedAccount:
        found = self._accounts.get(name)
        if found is None:
            found = self._accounts[name] = LeasedAccount(terms, self.is_lost)
            self._urgent.set()
        return found

    def move(self, old: str, new: str, terms: Terms) -> None:
        account = self._accounts[new] = self._accounts.pop(old)
        account.move(terms, self._clock(), self._wall())
        self._urgent.set()

    def drop(self, name: str) -> None:
        account = self._accounts.pop(name, None)
        if account is not None:
            self._leaving[name] = account

    def wake(self) -> None:
        """An account is urgent."""
        self._urgent.set()

    def renewal(self, name: str) -> asyncio.Future[None]:
        """Done when the account has heard from the ledger, or RENEWAL seconds from now."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.setdefault(name, []).append(future)
        loop.call_later(RENEWAL, _finish, future)
        return future

    # --- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Meet the ledger, if it is there, so that the first request finds a lease. Then go on in the background."""
        await self._look(self._clock())
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Give back what is kept, and leave."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if not self.is_lost:
            with contextlib.suppress(Silence):
                await self._exchange({**self._accounts, **self._leaving}, leaving=True)
        await self._redis.aclose()

    async def _run(self) -> None:
        while True:
            try:
                await self._rest()
                await self._look(self._clock())
            except Exception as error:  # a bug of ours must not end the counting
                self._report("shared_limits_failed", repr(error))
                await asyncio.sleep(TRY_AGAIN)

    async def _rest(self) -> None:
        if self.is_lost:
            await asyncio.sleep(TRY_AGAIN)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TICK):
                await self._urgent.wait()
        await asyncio.sleep(max(0.0, self._looked_at + SOONEST - self._clock()))
        self._urgent.clear()

    async def _look(self, now: float) -> None:
        """Report what is due."""
        self._looked_at = now
        try:
            if self.is_lost:
                await self._ping()
                due = dict(self._accounts)
            else:
                due = {name: account for name, account in self._accounts.items() if account.is_due(now)}
            if self._leaving:
                leaving, self._leaving = self._leaving, {}
                await self._exchange(leaving, leaving=True)
            await self._exchange(due)
        except Silence as silence:
            self._failed(silence)
            return
        if due:
            self._strikes = 0
        if self.is_lost:
            self.is_lost = False
            if self._was_lost:
                self._report("shared_limits_back", "")
            self._was_lost = False

    def _failed(self, silence: Silence) -> None:
        self._strikes += 1
        if silence.late and self._strikes < STRIKES and not self.is_lost:
            return
        if not self._was_lost:
            self._report("shared_limits_lost", str(silence))
        self.is_lost = self._was_lost = True
        now = self._clock()
        for account in self._accounts.values():
            account.lost(now)
        self._release(list(self._waiting))

    # --- Redis ---------------------------------------------------------------------------------------------------

    async def _ping(self) -> None:
        try:
            await self._redis.ping()
            self._script = await self._redis.script_load(SCRIPT)
        except RedisTimeoutError as error:
            raise Silence("no answer in time", late=True) from error
        except (RedisError, OSError) as error:
            raise Silence(str(error)[:200]) from error

    async def _exchange(self, accounts: dict[str, LeasedAccount], leaving: bool = False) -> None:
        names = list(accounts)
        for first in range(0, len(names), BATCH):
            batch = names[first : first + BATCH]
            now, at = self._clock(), self._wall()
            waiting = {name: self._waiting.pop(name) for name in batch if name in self._waiting}
            messages = [accounts[name].report(now, at, leaving) for name in batch]
            try:
                answers = await self._ask(batch, messages, leaving)
                for name, message, answer in zip(batch, messages, answers, strict=True):
                    self._hear(accounts[name], name, message, answer)
            except Silence:
                for name in batch:
                    accounts[name].reported_at = -inf  # at once again
                raise
            finally:
                for futures in waiting.values():
                    for future in futures:
                        _finish(future)

    async def _ask(self, names: Sequence[str], messages: Sequence[Message], leaving: bool) -> list[object]:
        """One round trip. Raises Silence."""
        try:
            pipeline = self._redis.pipeline(transaction=False)
            for name, message in zip(names, messages, strict=True):
                tenant, _, terms = name.rpartition(":")
                pipeline.evalsha(self._script, 1, f"{PREFIX}{{{tenant}}}:{terms}", self._written(message, leaving))
            answers: list[object] = await pipeline.execute(raise_on_error=False)
        except RedisTimeoutError as error:
            raise Silence("no answer in time", late=True) from error
        except (RedisError, OSError) as error:
            raise Silence(str(error)[:200]) from error
        for answer in answers:
            if isinstance(answer, NoScriptError):  # it has been restarted: its scripts are gone
                raise Silence("it has forgotten the script")
            if isinstance(answer, Exception):
                raise Silence(str(answer)[:200])
        return answers

    def _written(self, message: Message, leaving: bool) -> str:
        return json.dumps({
            "gateway": self._gateway, "ttl": TTL, "life": LIFE, "leaving": leaving,
            "wishes": {kind: wish._asdict() for kind, wish in message.items()},
        })  # fmt: skip

    def _hear(self, account: LeasedAccount, name: str, message: Message, answer: object) -> None:
        kinds = [kind for kind in ORDER if kind in message]
        if not isinstance(answer, list) or len(answer) != 3 + 3 * len(kinds):
            raise Silence("an answer of another form")
        known, gateways, claimed, *figures = (float(figure) for figure in answer)
        if not known and account.is_met and not account.is_lost:
            self._report("shared_limits_forgotten", name.rpartition(":")[0])
        told = {kind: Told(*figures[3 * i : 3 * i + 3]) for i, kind in enumerate(kinds)}
        account.received(message, Given(bool(known), gateways, bool(claimed), told), self._clock())

    def _release(self, names: Sequence[str]) -> None:
        for name in names:
            for future in self._waiting.pop(name):
                _finish(future)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
