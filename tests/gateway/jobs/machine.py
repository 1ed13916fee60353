"""Any sequence of claims, renewals, results, retries, lost workers, cancellations and restarts, on a store and beside
it on the reference: they must say the same, and at the end every item has exactly one record."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gateway.jobs.base import Store
from gateway.jobs.model import Claim, Result
from tests.gateway.jobs.making import DAY, NOW, answer, batch_of, clear_up, records, work
from tests.gateway.jobs.reference import Group, Item, Reference

T = TypeVar("T")
LEASE = 10.0
OWNERS = st.sampled_from(("w1", "w2", "w3"))
CODES = {"batch_cancelled": "cancelled", "batch_expired": "expired", "poisoned": "poisoned", "no_endpoint": "failed"}


class StoreMachine(RuleBasedStateMachine):
    """Subclasses make the store, and say what its restart does to leases."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.at = NOW
        self.reference = Reference()
        self.claims: list[tuple[Claim, Item]] = []

    def make_store(self) -> Store:
        raise NotImplementedError

    def restarted(self) -> None:
        """What the reference must know of it."""

    def do(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    @initialize()
    def begin(self) -> None:
        self.store = self.make_store()

    def teardown(self) -> None:
        try:
            if hasattr(self, "store"):
                self.do(self.wind_up())
                self.do(self.store.close())
        finally:
            self.loop.close()

    # ---- what can happen ----

    @rule(window=st.sampled_from((30.0, 100.0, 5 * DAY)), keys=st.lists(st.binary(max_size=2), min_size=1, max_size=5))
    def new_batch(self, window: float, keys: list[bytes]) -> None:
        names = [f"n{n}" for n in range(len(keys))]
        batch = self.do(batch_of(self.store, names, prefixes=keys, at=self.at, window=window))
        group = Group(len(self.reference.groups), batch.id, batch.expires_at, single=False)
        group.items = [Item(name, n, keys[n], group) for n, name in enumerate(names)]
        self.reference.groups.append(group)

    @rule(patience=st.sampled_from((30.0, 100.0, 5 * DAY)))
    def new_job(self, patience: float) -> None:
        job, _ = self.do(self.store.submit(work(deadline=self.at + patience), self.at))
        group = Group(len(self.reference.groups), job.id, job.deadline, single=True)
        group.items = [Item("", 0, b"", group)]
        self.reference.groups.append(group)

    @rule(seconds=st.sampled_from((1.0, 4.0, 11.0, 40.0)))
    def time_passes(self, seconds: float) -> None:
        self.at += seconds

    @rule(owner=OWNERS, limit=st.integers(1, 6))
    def claim(self, owner: str, limit: int) -> None:
        claims = self.do(self.store.claim(owner, limit, self.at + LEASE, self.at))
        items = self.reference.claim(owner, limit, self.at + LEASE, self.at)
        told = [(c.batch_id or c.id, c.custom_id, c.attempt, c.tries, c.lost, c.displaced) for c in claims]
        assert told == [(i.group.id, i.name, i.attempt, i.tries, i.lost, i.displaced) for i in items]
        assert all(claim.body for claim in claims)
        self.claims += zip(claims, items, strict=True)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), ok=st.booleans())
    def finish(self, data: st.DataObject, ok: bool) -> None:
        claim, item = data.draw(st.sampled_from(self.claims))
        if item.attempt == claim.attempt and item.record in ("completed", "failed"):
            return  # said twice by the one who wrote it: where answers can be lost, that is True
        result = answer(str(claim.attempt)) if ok else Result(error=("no_endpoint", str(claim.attempt)))
        written = self.do(self.store.finish(claim, result, self.at))
        assert written == self.reference.finish(item, claim.attempt, "completed" if ok else "failed")

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), wait=st.sampled_from((0.0, 5.0, 60.0)))
    def retry(self, data: st.DataObject, wait: float) -> None:
        claim, item = data.draw(st.sampled_from(self.claims))
        held = self.reference.holds(item, claim.attempt)
        assert self.do(self.store.retry(claim, self.at + wait, self.at)) == held
        if held:
            item.tries += 1
            self.reference.let_go(item, self.at, self.at + wait)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), displaced=st.booleans(), wait=st.sampled_from((None, 5.0)))
    def release(self, data: st.DataObject, displaced: bool, wait: float | None) -> None:
        claim, item = data.draw(st.sampled_from(self.claims))
        held = self.reference.holds(item, claim.attempt)
        not_before = None if wait is None else self.at + wait
        told = self.do(self.store.release(claim, self.at, displaced=displaced, not_before=not_before))
        assert told == held
        if held:
            item.displaced += displaced
            self.reference.counts["displaced"] += displaced
            self.reference.let_go(item, self.at, not_before or 0.0)

    @precondition(lambda self: self.claims)
    @rule(owner=OWNERS)
    def renew(self, owner: str) -> None:
        mine = [(claim, item) for claim, item in self.claims if claim.owner == owner]
        latest = {claim.key: (claim, item) for claim, item in mine}
        renewal = self.do(self.store.renew([claim for claim, _ in latest.values()], self.at + LEASE, self.at))
        lost, stop = set(), set()
        for key, (claim, item) in latest.items():
            if not self.reference.holds(item, claim.attempt):
                lost.add(key)
                continue
            item.until = self.at + LEASE
            if item.over(self.at):
                stop.add(key)
        assert (set(renewal.lost), set(renewal.stop)) == (lost, stop)

    @rule()
    def reap(self) -> None:
        assert self.do(self.store.reap(self.at)) == self.reference.reap(self.at)

    @precondition(lambda self: self.reference.groups)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        group = data.draw(st.sampled_from(self.reference.groups))
        stop = self.store.cancel_job if group.single else self.store.cancel
        self.do(stop("acme", group.id, self.at))
        self.reference.cancel(group, self.at)

    @rule()
    def expire(self) -> None:
        self.do(clear_up(self.store, self.at))
        self.reference.expire(self.at)

    @rule()
    def restart(self) -> None:
        self.do(self.store.close())
        self.store = self.make_store()
        self.restarted()

    # ---- what must hold ----

    async def wind_up(self) -> None:
        """Let every lease end and every item run: nothing may be left, and nothing may have been recorded twice."""
        await self.check_counts()
        for _ in range(8):
            self.at += 100
            await self.store.reap(self.at)
            self.reference.reap(self.at)
            for claim in await self.store.claim("last", 10_000, self.at + LEASE, self.at):
                assert await self.store.finish(claim, answer(str(claim.attempt)), self.at)
            for item in self.reference.claim("last", 10_000, self.at + LEASE, self.at):
                assert self.reference.finish(item, item.attempt, "completed")
            await clear_up(self.store, self.at)
            self.reference.expire(self.at)
        for group in self.reference.groups:
            assert group.ended
            await (self.check_job(group) if group.single else self.check_batch(group))
        await self.check_counts()

    async def check_counts(self) -> None:
        stats = await self.store.stats()
        assert {name: getattr(stats, name) for name in self.reference.counts} == self.reference.counts
        held = sum(item.owner is not None for item in self.reference.items)
        assert sum(queue.claimed for queue in stats.queues) == held
        left = sum(item.record is None for item in self.reference.items)
        assert sum(queue.waiting + queue.claimed for queue in stats.queues) == left

    async def check_batch(self, group: Group) -> None:
        batch = await self.store.batch("acme", group.id)
        told = await records(self.store, batch)
        ended = {}
        for name, record in told.items():
            done = record["error"] is None
            ended[name] = "completed" if done else CODES[record["error"]["code"]]
            if ended[name] in ("completed", "failed"):
                attempt = record["response"]["body"]["text"] if done else record["error"]["message"]
                assert int(attempt) == self.reference.find(group.id, name).attempt
        assert ended == {item.name: item.record for item in group.items}
        completed = sum(item.record == "completed" for item in group.items)
        assert (batch.total, batch.completed, batch.failed) == (
            len(group.items), completed, len(group.items) - completed,
        )  # fmt: skip
        expected = "cancelled" if group.cancelling else "expired" if group.out_of_time else "completed"
        assert batch.status == expected

    async def check_job(self, group: Group) -> None:
        job = await self.store.job("acme", group.id)
        (item,) = group.items
        assert job.state == ("failed" if item.record == "poisoned" else item.record)
        assert job.result is not None and (job.tries, job.displaced) == (item.tries, item.displaced)
