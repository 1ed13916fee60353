"""What every store promises about batches: how they begin, are validated, end, and what then stands in their files."""

from __future__ import annotations

import pytest

from gateway.jobs.base import NotFound, Store
from gateway.jobs.model import Item, LineError, Result, Usage
from tests.gateway.jobs.making import (
    DAY,
    ENDPOINT,
    NOW,
    answer,
    batch_of,
    claim_one,
    clear_up,
    drain,
    file_of,
    line,
    records,
    validating,
)


class BatchesContract:
    """Subclasses give the fixture `store`."""

    async def test_a_batch_begins_validating(self, store: Store) -> None:
        file = await file_of(store, line("a"))
        batch, is_new = await store.create_batch(
            "acme", "async", file.id, ENDPOINT, "24h", NOW + DAY, NOW,
            metadata=(("k", "v"),), output_expires_after=3600.0, key_digest=b"\x01\x02",
        )  # fmt: skip
        assert is_new and batch.id.startswith("batch_") and batch.status == "validating"
        assert (batch.created_at, batch.expires_at, batch.window) == (NOW, NOW + DAY, "24h")
        assert (batch.metadata, batch.output_expires_after, batch.key_digest) == ((("k", "v"),), 3600.0, b"\x01\x02")
        assert (batch.input_file_id, batch.endpoint, batch.klass) == (file.id, ENDPOINT, "async")
        assert await store.batch("acme", batch.id) == batch
        assert await store.claim("w1", 10, NOW + 30, NOW) == []

    async def test_a_batch_needs_a_file_of_its_tenant(self, store: Store) -> None:
        file = await file_of(store, line("a"), "other")
        for id_ in (file.id, "file-unknown"):
            with pytest.raises(NotFound):
                await store.create_batch("acme", "async", id_, ENDPOINT, "24h", NOW + DAY, NOW)

    async def test_a_repeated_idempotency_key_returns_the_first_batch(self, store: Store) -> None:
        first = await validating(store, line("a"), idempotency_key="once")
        again, is_new = await store.create_batch(
            "acme", "async", "file-any", ENDPOINT, "24h", NOW + DAY, NOW + 5, idempotency_key="once"
        )
        assert (again, is_new) == (first, False)
        other = await validating(store, line("a"), tenant="other", idempotency_key="once")
        assert other.id != first.id

    async def test_to_others_it_does_not_exist(self, store: Store) -> None:
        batch = await validating(store, line("a"))
        for call in (store.batch("other", batch.id), store.cancel("other", batch.id, NOW)):
            with pytest.raises(NotFound) as failed:
                await call
            assert (failed.value.status, failed.value.code) == (404, "batch_not_found")

    async def test_batches_are_listed_newest_first(self, store: Store) -> None:
        made = [(await validating(store, line("a"), at=NOW + n)).id for n in range(4)][::-1]
        await validating(store, line("a"), tenant="other")
        page = await store.batches("acme", limit=3)
        assert ([batch.id for batch in page.data], page.has_more) == (made[:3], True)
        page = await store.batches("acme", limit=3, after=made[2])
        assert ([batch.id for batch in page.data], page.has_more) == (made[3:], False)
        with pytest.raises(NotFound):
            await store.batches("acme", after="batch_unknown")

    async def test_one_validator_at_a_time(self, store: Store) -> None:
        first = await validating(store, line("a"))
        second = await validating(store, line("b"), at=NOW + 1)
        taken = await store.claim_validation("v1", NOW + 30, NOW + 2)
        assert taken is not None and taken.id == first.id
        taken = await store.claim_validation("v2", NOW + 30, NOW + 2)
        assert taken is not None and taken.id == second.id
        assert await store.claim_validation("v3", NOW + 30, NOW + 2) is None
        renewed = await store.claim_validation("v1", NOW + 90, NOW + 20)
        assert renewed is not None and renewed.id == first.id
        taken = await store.claim_validation("v3", NOW + 90, NOW + 40)
        assert taken is not None and taken.id == second.id

    async def test_a_validation_may_be_done_again_from_its_beginning(self, store: Store) -> None:
        batch = await validating(store, line("a") + line("b"))
        first, second = Item(1, "a", 0, 10, b"k2"), Item(2, "b", 10, 10, b"k1")
        assert await store.add_items(batch.id, [first, Item(2, "x", 99, 5, b"k9")])
        assert await store.add_items(batch.id, [first, second])
        assert await store.add_items(batch.id, [second])
        assert await store.start(batch.id, 2, "m", NOW + 3)
        assert not await store.add_items(batch.id, [first])
        assert not await store.start(batch.id, 2, "m", NOW + 4)
        assert not await store.fail(batch.id, [LineError("x", "late")], NOW + 4)
        running = await store.batch("acme", batch.id)
        assert (running.status, running.total, running.model, running.in_progress_at) == (
            "in_progress", 2, "m", NOW + 3,
        )  # fmt: skip
        claims = await store.claim("w1", 10, NOW + 30, NOW + 4)
        assert [claim.custom_id for claim in claims] == ["b", "a"]

    async def test_a_failed_validation_ends_the_batch(self, store: Store) -> None:
        batch = await validating(store, line("a"))
        assert await store.add_items(batch.id, [Item(1, "a", 0, 10)])
        errors = (LineError("invalid_json", "no JSON", 1, None), LineError("other", "is so", None, "url"))
        assert await store.fail(batch.id, errors, NOW + 1)
        failed = await store.batch("acme", batch.id)
        assert (failed.status, failed.failed_at, failed.errors) == ("failed", NOW + 1, errors)
        assert failed.ended and failed.output_file_id is None and failed.error_file_id is None
        assert await store.claim("w1", 10, NOW + 30, NOW + 1) == []
        await clear_up(store, NOW + 1)
        assert await store.batch("acme", batch.id) == failed

    async def test_a_batch_completes_with_its_last_line(self, store: Store) -> None:
        batch = await batch_of(store, ["a", "b", "c"], output_expires_after=3600.0)
        good, bad, none = await store.claim("w1", 10, NOW + 30, NOW)
        assert await store.finish(good, answer("A"), NOW + 1)
        assert await store.finish(bad, Result(400, b'{\n "error": {"message": "no"}}', request_id="r2"), NOW + 2)
        now = await store.batch("acme", batch.id)
        assert (now.status, now.completed, now.failed, now.left, now.output_file_id) == ("in_progress", 1, 1, 1, None)
        assert await store.finish(none, Result(error=("no_endpoint", "nobody there")), NOW + 3)
        done = await store.batch("acme", batch.id)
        assert (done.status, done.completed, done.failed, done.total) == ("completed", 1, 2, 3)
        assert (done.finalizing_at, done.completed_at, done.usage) == (NOW + 3, NOW + 3, Usage(10, 4, 5, 1))
        assert done.output_file_id and done.error_file_id
        output = await store.file("acme", done.output_file_id)
        assert (output.purpose, output.expires_at) == ("batch_output", NOW + 3 + 3600)
        told = await records(store, done)
        assert told["a"] == {
            "id": good.id, "custom_id": "a", "error": None,
            "response": {"status_code": 200, "request_id": "r1", "body": {"text": "A"}},
        }  # fmt: skip
        assert told["b"]["response"]["body"] == {"error": {"message": "no"}}
        assert told["c"]["response"] is None and told["c"]["error"] == {
            "code": "no_endpoint",
            "message": "nobody there",
        }

    async def test_an_answer_that_is_no_json_still_is_one_line(self, store: Store) -> None:
        batch = await batch_of(store, ["a", "b"])
        first, second = await store.claim("w1", 10, NOW + 30, NOW)
        assert await store.finish(first, Result(200, b"two\nlines \xff"), NOW)
        assert await store.finish(second, Result(502, b""), NOW)
        told = await records(store, await store.batch("acme", batch.id))
        assert told["a"]["response"]["body"] == "two\nlines \ufffd"
        assert told["b"]["response"]["body"] == ""

    async def test_files_with_nothing_in_them_do_not_come_into_being(self, store: Store) -> None:
        batch = await batch_of(store, ["a"])
        await drain(store)
        done = await store.batch("acme", batch.id)
        assert done.output_file_id and done.error_file_id is None
        empty = await batch_of(store, [])
        assert (empty.status, empty.output_file_id, empty.error_file_id) == ("completed", None, None)

    async def test_a_cancelled_batch_lets_what_runs_end(self, store: Store) -> None:
        batch = await batch_of(store, ["a", "b", "c", "d"])
        ran, gave_up = await store.claim("w1", 2, NOW + 30, NOW)
        cancelling = await store.cancel("acme", batch.id, NOW + 1)
        assert (cancelling.status, cancelling.cancelling_at) == ("cancelling", NOW + 1)
        assert await store.claim("w2", 10, NOW + 30, NOW + 1) == []
        await clear_up(store, NOW + 2)
        assert (await store.batch("acme", batch.id)).status == "cancelling"
        renewal = await store.renew([ran, gave_up], NOW + 60, NOW + 2)
        assert not renewal.lost and renewal.stop == {ran.key, gave_up.key}
        assert await store.finish(ran, answer(), NOW + 3)
        assert await store.release(gave_up, NOW + 4)
        done = await store.batch("acme", batch.id)
        assert (done.status, done.cancelled_at, done.completed, done.failed) == ("cancelled", NOW + 4, 1, 3)
        told = await records(store, done)
        assert told["a"]["error"] is None
        assert {told[name]["error"]["code"] for name in "bcd"} == {"batch_cancelled"}
        assert await store.cancel("acme", batch.id, NOW + 9) == done

    async def test_a_batch_is_cancelled_at_once_while_it_validates(self, store: Store) -> None:
        batch = await validating(store, line("a"))
        await store.add_items(batch.id, [Item(1, "a", 0, 10)])
        cancelled = await store.cancel("acme", batch.id, NOW + 1)
        assert (cancelled.status, cancelled.cancelled_at) == ("cancelled", NOW + 1)
        assert not await store.add_items(batch.id, [Item(1, "a", 0, 10)])
        assert not await store.start(batch.id, 1, "m", NOW + 1)
        await clear_up(store, NOW + 2)
        assert (await store.stats()).queues == ()

    async def test_what_is_not_done_in_time_is_expired(self, store: Store) -> None:
        batch = await batch_of(store, [f"n{n}" for n in range(1200)], window=100.0)
        done = await claim_one(store)
        assert await store.finish(done, answer(), NOW)
        running = await claim_one(store, at=NOW + 90)
        assert await store.claim("w2", 10, NOW + 130, NOW + 100) == []
        await clear_up(store, NOW + 100)
        late = await store.batch("acme", batch.id)
        assert (late.status, late.finalizing_at, late.left) == ("finalizing", NOW + 100, 1)
        assert running.key in (await store.renew([running], NOW + 120, NOW + 101)).stop
        assert await store.retry(running, NOW + 105, NOW + 102)
        ended = await store.batch("acme", batch.id)
        assert (ended.status, ended.expired_at, ended.completed, ended.failed) == ("expired", NOW + 102, 1, 1199)
        told = await records(store, ended)
        assert len(told) == 1200
        assert told[running.custom_id]["error"]["code"] == "batch_expired"
        assert told[done.custom_id]["response"]["status_code"] == 200

    async def test_a_gateway_whose_clock_is_behind_ends_what_another_has_closed(self, store: Store) -> None:
        batch = await batch_of(store, ["a", "b"], window=100.0)
        running = await claim_one(store)
        await clear_up(store, NOW + 100)
        assert (await store.batch("acme", batch.id)).left == 1
        assert await store.release(running, NOW + 99)
        await clear_up(store, NOW + 99)
        ended = await store.batch("acme", batch.id)
        assert (ended.status, ended.failed) == ("expired", 2)

    async def test_a_batch_that_was_never_validated_expires(self, store: Store) -> None:
        batch = await validating(store, line("a"), window=100.0)
        await store.add_items(batch.id, [Item(1, "a", 0, 10)])
        assert await store.claim_validation("v", NOW + 200, NOW + 100) is None
        await clear_up(store, NOW + 100)
        assert (await store.batch("acme", batch.id)).status == "expired"

    async def test_batches_are_forgotten_when_their_time_has_come(self, store: Store) -> None:
        batch = await batch_of(store, ["a"])
        running = await batch_of(store, ["b"], window=90 * DAY)
        assert await store.finish(await claim_one(store), answer(), NOW)
        await clear_up(store, NOW + 7 * DAY - 1, retention=7 * DAY)
        ended = await store.batch("acme", batch.id)
        assert ended.status == "completed" and ended.output_file_id
        await clear_up(store, NOW + 7 * DAY, retention=7 * DAY)
        for call in (store.batch("acme", batch.id), store.file("acme", ended.output_file_id)):
            with pytest.raises(NotFound):
                await call
        assert (await store.batch("acme", running.id)).status == "in_progress"
        assert await drain(store, NOW + 8 * DAY) == 1
