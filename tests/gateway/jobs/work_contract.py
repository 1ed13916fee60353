"""What every store promises to workers: order, leases, fencing, what is counted."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

from gateway.jobs.base import CLAIM_BYTES, DELIVERIES, DELIVERIES_IN_COMPANY, Store
from gateway.jobs.model import Batch, Claim
from tests.gateway.jobs.making import NOW, answer, batch_of, claim_one, drain, records, work


def names(claims: list[Claim]) -> list[str]:
    return [claim.custom_id or claim.path for claim in claims]


class WorkContract:
    """Subclasses give the fixture `store`."""

    async def test_the_earliest_deadline_goes_first(self, store: Store) -> None:
        await batch_of(store, ["late"], window=300.0)
        await batch_of(store, ["soon1", "soon2"], window=100.0)
        await store.submit(work(path="/first", deadline=NOW + 50), NOW)
        await store.submit(work(path="/middle", deadline=NOW + 200), NOW)
        await store.submit(work(path="/last", deadline=NOW + 400), NOW)
        claims = await store.claim("w1", 10, NOW + 30, NOW)
        assert names(claims) == ["/first", "soon1", "soon2", "/middle", "late", "/last"]
        assert len({claim.key for claim in claims}) == 6

    async def test_lines_that_begin_alike_run_one_after_another(self, store: Store) -> None:
        await batch_of(store, ["a", "b", "c", "d", "e"], prefixes=[b"\x02", b"\x01\xff", b"\x02", b"\x01", b"\x01\x00"])
        assert names(await store.claim("w1", 3, NOW + 30, NOW)) == ["d", "e", "b"]
        assert names(await store.claim("w1", 3, NOW + 30, NOW)) == ["a", "c"]

    async def test_the_first_of_two_batches_with_one_deadline_goes_first(self, store: Store) -> None:
        await batch_of(store, ["z1", "z2"], prefixes=[b"\x09", b"\x09"])
        await batch_of(store, ["a1", "a2"], prefixes=[b"\x01", b"\x01"])
        assert names(await store.claim("w1", 10, NOW + 30, NOW)) == ["z1", "z2", "a1", "a2"]

    async def test_a_claim_may_ask_for_a_class_and_a_model(self, store: Store) -> None:
        await batch_of(store, ["a"], klass="async", model="m1")
        await batch_of(store, ["b"], klass="bulk", model="m1")
        await store.submit(work(path="/c", klass="async", model="m2"), NOW)
        assert await store.claim("w1", 10, NOW + 30, NOW, klass="none") == []
        assert await store.claim("w1", 10, NOW + 30, NOW, klass="bulk", model="m2") == []
        assert names(await store.claim("w1", 10, NOW + 30, NOW, klass="async", model="m2")) == ["/c"]
        assert names(await store.claim("w1", 10, NOW + 30, NOW, model="m1", klass="bulk")) == ["b"]
        assert names(await store.claim("w1", 10, NOW + 30, NOW)) == ["a"]

    async def test_a_claim_passes_over_tenants(self, store: Store) -> None:
        await batch_of(store, ["a1", "a2"], window=100.0)
        await batch_of(store, ["b1"], tenant="bell")
        await store.submit(work("acme", path="/a3", deadline=NOW + 10), NOW)
        await store.submit(work("cole", path="/c1", deadline=NOW + 20), NOW)
        assert names(await store.claim("w1", 10, NOW + 30, NOW, passing_over={"acme", "cole"})) == ["b1"]
        passing_over = frozenset(("acme", "nobody"))
        assert names(await store.claim("w1", 10, NOW + 30, NOW, klass="async", passing_over=passing_over)) == ["/c1"]
        assert await store.claim("w1", 10, NOW + 30, NOW, passing_over=["acme"]) == []
        assert names(await store.claim("w1", 10, NOW + 30, NOW)) == ["/a3", "a1", "a2"]

    async def test_a_claim_hands_out_the_line_it_names(self, store: Store) -> None:
        batch = await batch_of(store, ["a", "b"])
        first, second = await store.claim("w1", 2, NOW + 30, NOW)
        assert (first.batch_id, first.custom_id, first.attempt, first.owner) == (batch.id, "a", 1, "w1")
        assert first.body == second.body and first.body.startswith(b'{"model"') and first.body.endswith(b"]}")
        assert first.id.startswith("batch_req_") and first.id != second.id
        assert (first.deadline, first.tenant, first.path) == (batch.expires_at, "acme", batch.endpoint)

    async def test_a_claim_is_bounded_in_bytes(self, store: Store) -> None:
        for _ in range(4):
            await store.submit(work(body=b"x" * (CLAIM_BYTES // 2)), NOW)
        assert len(await store.claim("w1", 10, NOW + 30, NOW)) == 2
        await store.submit(work(body=b"x" * (2 * CLAIM_BYTES), deadline=NOW + 1), NOW)
        (large,) = await store.claim("w1", 10, NOW + 30, NOW)
        assert len(large.body) == 2 * CLAIM_BYTES

    async def test_what_is_claimed_is_claimed_once(self, store: Store) -> None:
        await batch_of(store, [f"n{n}" for n in range(20)])
        taken = [claim.key for owner in "abcd" for claim in await store.claim(owner, 7, NOW + 30, NOW)]
        assert len(taken) == len(set(taken)) == 20

    async def test_a_lease_that_is_renewed_is_held(self, store: Store) -> None:
        await batch_of(store, ["a"])
        claim = await claim_one(store, lease=10)
        assert await store.reap(NOW + 9.5) == 0
        renewal = await store.renew([claim], NOW + 20, NOW + 9.5)
        assert not renewal.lost and not renewal.stop
        assert await store.reap(NOW + 19.5) == 0
        assert await store.finish(claim, answer(), NOW + 19.5)

    async def test_a_lease_that_ended_goes_to_another_and_the_first_is_fenced(self, store: Store) -> None:
        batch = await batch_of(store, ["a"])
        old = await claim_one(store, lease=10)
        assert await store.reap(NOW + 10) == 1
        assert (await store.renew([old], NOW + 40, NOW + 11)).lost == {old.key}
        assert not await store.retry(old, NOW + 11, NOW + 11)
        assert not await store.release(old, NOW + 11)
        new = await claim_one(store, "w2", NOW + 12)
        assert (new.key, new.lost) == (old.key, 1) and new.attempt > old.attempt
        assert not await store.finish(old, answer("old"), NOW + 13)
        assert not await store.finish(replace(new, attempt=new.attempt + 1), answer("forged"), NOW + 13)
        assert await store.finish(new, answer("new"), NOW + 14)
        assert not await store.finish(old, answer("old"), NOW + 15)
        done = await store.batch("acme", batch.id)
        assert (await records(store, done))["a"]["response"]["body"] == {"text": "new"}
        stats = await store.stats()
        assert (stats.lost, stats.repeated, done.repeated) == (1, 1, 1)
        assert stats.late == 3

    async def test_a_result_whose_lease_ended_but_was_not_given_away_counts(self, store: Store) -> None:
        batch = await batch_of(store, ["a"])
        claim = await claim_one(store, lease=10)
        assert await store.reap(NOW + 10) == 1
        assert await store.finish(claim, answer(), NOW + 11)
        assert await store.claim("w2", 10, NOW + 40, NOW + 11) == []
        assert (await store.batch("acme", batch.id)).status == "completed"
        assert (await store.stats()).repeated == 0

    async def test_a_retry_waits_and_does_not_block(self, store: Store) -> None:
        await batch_of(store, ["a", "b"])
        first = await claim_one(store)
        assert await store.retry(first, NOW + 60, NOW)
        assert names(await store.claim("w1", 10, NOW + 90, NOW + 59)) == ["b"]
        (again,) = await store.claim("w1", 10, NOW + 90, NOW + 60)
        assert (again.custom_id, again.tries, again.lost, again.attempt) == ("a", 1, 0, 2)
        assert not await store.retry(first, NOW + 61, NOW + 61)

    async def test_what_is_put_off_waits_and_no_try_is_counted(self, store: Store) -> None:
        await batch_of(store, ["a", "b"])
        await store.submit(work(path="/c", deadline=NOW + 30 * 3600), NOW)
        for claim in await store.claim("w1", 3, NOW + 30, NOW):
            assert await store.release(claim, NOW, not_before=NOW + 60, displaced=claim.custom_id == "b")
        assert await store.claim("w1", 10, NOW + 90, NOW + 59) == []
        again = await store.claim("w1", 10, NOW + 90, NOW + 60)
        told = [(claim.tries, claim.lost, claim.displaced) for claim in again]
        assert (names(again), told) == (["a", "b", "/c"], [(0, 0, 0), (0, 0, 1), (0, 0, 0)])

    async def test_a_displaced_item_is_next_and_no_try_is_counted(self, store: Store) -> None:
        batch = await batch_of(store, ["a", "b"])
        assert await store.release(await claim_one(store), NOW, displaced=True)
        again = await claim_one(store)
        assert (again.custom_id, again.tries, again.displaced) == ("a", 0, 1)
        assert await store.release(again, NOW)
        assert (await claim_one(store)).displaced == 1
        assert (await store.batch("acme", batch.id)).displaced == 1
        assert (await store.stats()).displaced == 1

    async def test_what_workers_vanished_with_stands_behind_its_equals(self, store: Store) -> None:
        await batch_of(store, ["a", "b", "c"])
        await store.claim("w1", 2, NOW + 10, NOW)
        await store.reap(NOW + 10)
        assert names(await store.claim("w2", 10, NOW + 60, NOW + 10)) == ["c", "a", "b"]

    async def test_an_item_that_kills_its_workers_is_given_up(self, store: Store) -> None:
        batch = await batch_of(store, ["poison", "good"])
        at = NOW
        assert await store.finish((await store.claim("w0", 2, at + 10, at))[1], answer(), at)
        for life in range(DELIVERIES):
            at += 20
            assert await store.reap(at) == 1
            if life < DELIVERIES - 1:
                assert len(await store.claim(f"w{life + 1}", 10, at + 10, at)) == 1
        done = await store.batch("acme", batch.id)
        assert (done.status, done.completed, done.failed) == ("completed", 1, 1)
        assert (await records(store, done))["poison"]["error"]["code"] == "poisoned"
        assert (await store.stats()).poisoned == 1

    async def test_items_in_company_of_others_are_not_blamed_so_soon(self, store: Store) -> None:
        batch = await batch_of(store, [f"n{n}" for n in range(8)])
        at = NOW
        for life in range(DELIVERIES_IN_COMPANY - 1):
            assert len(await store.claim(f"w{life}", 8, at + 10, at)) == 8
            at += 20
            assert await store.reap(at) == 8
        assert await drain(store, at) == 8
        assert (await store.batch("acme", batch.id)).completed == 8
        stats = await store.stats()
        assert (stats.poisoned, stats.lost) == (0, 8 * (DELIVERIES_IN_COMPANY - 1))
        assert stats.repeated == stats.lost

    async def test_what_stands_ahead_is_counted(self, store: Store) -> None:
        await batch_of(store, ["a", "b", "c"], window=100.0)
        await batch_of(store, ["d"], window=200.0)
        await store.submit(work(deadline=NOW + 50), NOW)
        assert await store.ahead("async", "m", NOW + 49) == 0
        assert await store.ahead("async", "m", NOW + 100) == 4
        assert await store.ahead("async", "m", NOW + 200) == 5
        assert await store.ahead("async", "other", NOW + 200) == 0
        await store.finish((await store.claim("w1", 2, NOW + 30, NOW))[1], answer(), NOW)
        assert await store.ahead("async", "m", NOW + 100) == 3

    async def test_queues_are_counted_by_class_and_model(self, store: Store) -> None:
        await batch_of(store, ["a", "b"], window=100.0)
        await store.submit(work(deadline=NOW + 50), NOW)
        await store.submit(work(klass="bulk"), NOW)
        assert len(await store.claim("w1", 2, NOW + 30, NOW, klass="async")) == 2
        stats = await store.stats()
        assert [(q.klass, q.model, q.waiting, q.claimed, q.earliest) for q in stats.queues] == [
            ("async", "m", 1, 2, NOW + 50), ("bulk", "m", 1, 0, NOW + 3600),
        ]  # fmt: skip
        assert dict(stats.batches) == {"in_progress": 1}
        await drain(store)
        assert all(isnan(queue.earliest) or queue.claimed for queue in (await store.stats()).queues)

    async def test_many_at_once_each_get_their_own_answer(self, store: Store) -> None:
        import asyncio

        batch = await batch_of(store, [f"n{n}" for n in range(300)])

        async def worker(owner: str) -> int:
            done = 0
            while claims := await store.claim(owner, 10, NOW + 30, NOW):
                done += sum(await asyncio.gather(*(store.finish(c, answer(c.custom_id), NOW) for c in claims)))
            return done

        assert sum(await asyncio.gather(*(worker(f"w{n}") for n in range(8)))) == 300
        done: Batch = await store.batch("acme", batch.id)
        told = await records(store, done)
        assert len(told) == 300
        assert all(record["response"]["body"]["text"] == name for name, record in told.items())
