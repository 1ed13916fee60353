"""What every store promises about single jobs and their callbacks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.jobs.base import NotFound, Store
from gateway.jobs.model import Result
from tests.gateway.jobs.making import DAY, ENDPOINT, NOW, answer, batch_of, claim_one, clear_up, work


class JobsContract:
    """Subclasses give the fixture `store`."""

    async def test_a_job_runs_and_keeps_its_result(self, store: Store) -> None:
        wanted = work(fields=((b"x-a", b"1"), (b"x-b", b"\xff")), key_digest=b"\x00\x01", body=b"\x00body")
        job, is_new = await store.submit(wanted, NOW)
        assert is_new and job.id.startswith("job_") and not job.ended
        assert (job.state, job.created_at, job.deadline, job.result) == ("queued", NOW, NOW + 3600, None)
        claim = await claim_one(store, at=NOW + 1)
        assert (claim.id, claim.tenant, claim.path, claim.body) == (job.id, "acme", ENDPOINT, b"\x00body")
        assert (claim.fields, claim.key_digest, claim.batch_id) == (wanted.fields, wanted.key_digest, None)
        assert (claim.klass, claim.model, claim.deadline) == ("async", "m", NOW + 3600)
        running = await store.job("acme", job.id)
        assert (running.state, running.started_at) == ("running", NOW + 1)
        result = replace(answer(), content_type="text/plain", body=b"\x00\xff")
        assert await store.finish(claim, result, NOW + 2)
        done = await store.job("acme", job.id)
        assert (done.state, done.ended_at, done.result) == ("completed", NOW + 2, result)

    async def test_waiting_jobs_are_counted_beside_lines_of_batches(self, store: Store) -> None:
        await batch_of(store, ["a", "b", "c"])
        for _ in range(5):
            await store.submit(work(), NOW)
        (queue,) = (await store.stats()).queues
        assert (queue.waiting, queue.claimed, queue.jobs) == (8, 0, 5)
        claims = await store.claim("w1", 10, NOW + 30, NOW)
        (queue,) = (await store.stats()).queues
        assert (queue.claimed, queue.jobs) == (len(claims), 5 - sum(claim.batch_id is None for claim in claims))

    async def test_a_job_that_failed_says_how(self, store: Store) -> None:
        for result in (Result(400, b"{}"), Result(error=("upstream_failed", "it broke"))):
            job, _ = await store.submit(work(), NOW)
            assert await store.finish(await claim_one(store), result, NOW)
            ended = await store.job("acme", job.id)
            assert (ended.state, ended.result) == ("failed", result)

    async def test_a_repeated_idempotency_key_returns_the_first_job(self, store: Store) -> None:
        first, is_new = await store.submit(work(idempotency_key="once"), NOW)
        assert is_new
        for n in range(10):
            assert await store.submit(work(idempotency_key="once", body=b"other"), NOW + n) == (first, False)
        other, is_new = await store.submit(work("other", idempotency_key="once"), NOW)
        assert is_new and other.id != first.id
        claims = await store.claim("w1", 10, NOW + 30, NOW)
        assert sorted(claim.tenant for claim in claims) == ["acme", "other"]
        for claim in claims:
            assert await store.finish(claim, answer(), NOW + 1)
        again, is_new = await store.submit(work(idempotency_key="once"), NOW + 2)
        assert not is_new and again.state == "completed" and again.result == answer()
        assert await store.claim("w1", 10, NOW + 30, NOW + 2) == []

    async def test_a_key_may_be_used_again_when_its_job_is_forgotten(self, store: Store) -> None:
        first, _ = await store.submit(work(idempotency_key="once"), NOW)
        assert await store.finish(await claim_one(store), answer(), NOW)
        await clear_up(store, NOW + 31 * DAY)
        with pytest.raises(NotFound) as failed:
            await store.job("acme", first.id)
        assert (failed.value.status, failed.value.code) == (404, "job_not_found")
        second, is_new = await store.submit(work(idempotency_key="once", deadline=NOW + 99 * DAY), NOW + 31 * DAY)
        assert is_new and second.id != first.id

    async def test_to_others_it_does_not_exist(self, store: Store) -> None:
        job, _ = await store.submit(work(), NOW)
        for call in (store.job("other", job.id), store.cancel_job("other", job.id, NOW)):
            with pytest.raises(NotFound):
                await call

    async def test_a_waiting_job_is_cancelled_at_once(self, store: Store) -> None:
        job, _ = await store.submit(work(), NOW)
        cancelled = await store.cancel_job("acme", job.id, NOW + 1)
        assert (cancelled.state, cancelled.ended_at) == ("cancelled", NOW + 1)
        assert cancelled.result is not None and cancelled.result.error is not None
        assert await store.claim("w1", 10, NOW + 30, NOW + 1) == []
        assert await store.cancel_job("acme", job.id, NOW + 2) == cancelled

    async def test_a_job_that_waits_for_its_next_try_is_cancelled_at_once(self, store: Store) -> None:
        job, _ = await store.submit(work(), NOW)
        assert await store.retry(await claim_one(store), NOW + 60, NOW)
        assert (await store.cancel_job("acme", job.id, NOW + 1)).state == "cancelled"
        assert await store.claim("w1", 10, NOW + 90, NOW + 61) == []

    async def test_a_running_job_is_cancelled_when_its_worker_lets_go(self, store: Store) -> None:
        job, _ = await store.submit(work(), NOW)
        claim = await claim_one(store)
        assert (await store.cancel_job("acme", job.id, NOW + 1)).state == "cancelling"
        assert (await store.cancel_job("acme", job.id, NOW + 1)).state == "cancelling"
        assert (await store.renew([claim], NOW + 60, NOW + 1)).stop == {claim.key}
        assert await store.release(claim, NOW + 2)
        assert (await store.job("acme", job.id)).state == "cancelled"
        assert not await store.finish(claim, answer(), NOW + 3)

    async def test_a_result_that_comes_before_the_worker_lets_go_counts(self, store: Store) -> None:
        job, _ = await store.submit(work(), NOW)
        claim = await claim_one(store)
        await store.cancel_job("acme", job.id, NOW + 1)
        assert await store.finish(claim, answer(), NOW + 2)
        assert (await store.job("acme", job.id)).state == "completed"

    async def test_a_job_past_its_deadline_is_expired(self, store: Store) -> None:
        waiting, _ = await store.submit(work(deadline=NOW + 10), NOW)
        delayed, _ = await store.submit(work(deadline=NOW + 10), NOW)
        (first, second) = await store.claim("w1", 2, NOW + 60, NOW)
        await store.retry(second, NOW + 5, NOW)
        running, _ = await store.submit(work(deadline=NOW + 9), NOW)
        held = await claim_one(store, lease=60)
        assert held.id == running.id
        assert await store.release(first, NOW)
        assert await store.claim("w2", 10, NOW + 40, NOW + 10) == []
        await clear_up(store, NOW + 10)
        for job in (waiting, delayed):
            ended = await store.job("acme", job.id)
            assert ended.state == "expired" and ended.result is not None and ended.result.error is not None
        assert (await store.job("acme", running.id)).state == "running"
        assert (await store.renew([held], NOW + 90, NOW + 11)).stop == {held.key}
        assert await store.release(held, NOW + 12)
        assert (await store.job("acme", running.id)).state == "expired"

    async def test_tries_and_lost_places_are_shown(self, store: Store) -> None:
        job, _ = await store.submit(work(), NOW)
        assert await store.retry(await claim_one(store), NOW, NOW)
        assert await store.release(await claim_one(store), NOW, displaced=True)
        assert await store.release(await claim_one(store), NOW)
        await claim_one(store, lease=5)
        assert (await store.job("acme", job.id)).repeated == 0
        assert await store.reap(NOW + 5) == 1
        assert (await store.job("acme", job.id)).state == "queued"
        await claim_one(store, "w2", at=NOW + 6)
        seen = await store.job("acme", job.id)
        assert (seen.tries, seen.displaced, seen.repeated, seen.started_at) == (1, 1, 1, NOW)

    async def test_a_callback_is_due_when_its_job_has_ended(self, store: Store) -> None:
        job, _ = await store.submit(work(callback="https://example.test/x"), NOW)
        silent, _ = await store.submit(work(), NOW)
        assert await store.due_callbacks(10, NOW + 30, NOW) == []
        for claim in await store.claim("w1", 10, NOW + 30, NOW):
            assert await store.finish(claim, answer(), NOW + 1)
        (call,) = await store.due_callbacks(10, NOW + 31, NOW + 1)
        assert (call.job.id, call.job.callback, call.tries) == (job.id, "https://example.test/x", 0)
        assert call.job.result == answer() and silent.callback is None
        assert await store.due_callbacks(10, NOW + 60, NOW + 2) == []
        (call,) = await store.due_callbacks(10, NOW + 60, NOW + 31)
        assert call.tries == 1
        await store.called(job.id, NOW + 100)
        assert await store.due_callbacks(10, NOW + 130, NOW + 99) == []
        (call,) = await store.due_callbacks(10, NOW + 130, NOW + 100)
        assert call.tries == 2
        await store.called(job.id, None)
        await store.called(job.id, NOW + 101)
        assert await store.due_callbacks(10, NOW + 900, NOW + 800) == []
