"""What every store promises about files and their content."""

from __future__ import annotations

import hashlib

import pytest

from gateway.jobs.base import PIECE, NotFound, Store
from tests.gateway.jobs.making import DAY, NOW, batch_of, claim_one, clear_up, drain, file_of, line, read


class FilesContract:
    """Subclasses give the fixture `store`."""

    async def test_a_file_comes_out_as_it_went_in(self, store: Store) -> None:
        data = bytes(range(256)) * 5000
        writer = await store.new_file("acme", "in.jsonl", "batch", NOW, NOW + DAY)
        for start in range(0, len(data), 77_777):
            await writer.write(data[start : start + 77_777])
        file = await writer.finish(NOW + 1)
        assert (file.filename, file.purpose, file.bytes) == ("in.jsonl", "batch", len(data))
        assert (file.created_at, file.expires_at, file.tenant) == (NOW + 1, NOW + DAY, "acme")
        assert file.id.startswith("file-")
        assert await store.file("acme", file.id) == file
        assert await read(store, "acme", file.id) == data

    async def test_any_part_of_a_file_can_be_read(self, store: Store) -> None:
        data = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(3 * PIECE // 32 + 1))
        file = await file_of(store, data)
        for start, length in ((0, 1), (1, PIECE), (PIECE - 1, 2), (PIECE, None), (2 * PIECE - 7, PIECE + 9),
                              (len(data) - 1, None), (len(data), None), (len(data) + 5, 3), (5, 0)):  # fmt: skip
            end = None if length is None else start + length
            assert await read(store, "acme", file.id, start, length) == data[start:end], (start, length)

    async def test_an_empty_file_is_a_file(self, store: Store) -> None:
        file = await file_of(store, b"")
        assert file.bytes == 0
        assert await read(store, "acme", file.id) == b""

    async def test_a_file_is_handed_out_in_pieces(self, store: Store) -> None:
        file = await file_of(store, b"x" * (8 * PIECE))
        pieces = [len(piece) async for piece in store.read("acme", file.id)]
        assert len(pieces) >= 4 and max(pieces) <= 2 * PIECE

    async def test_a_file_that_is_being_written_does_not_exist(self, store: Store) -> None:
        writer = await store.new_file("acme", "in.jsonl", "batch", NOW)
        await writer.write(b"x" * (2 * PIECE))
        assert (await store.files("acme")).data == ()
        await writer.abort()
        await writer.abort()
        assert (await store.files("acme")).data == ()

    async def test_to_others_it_does_not_exist(self, store: Store) -> None:
        file = await file_of(store, b"mine")
        with pytest.raises(NotFound) as failed:
            await store.file("other", file.id)
        assert (failed.value.status, failed.value.code) == (404, "file_not_found")
        with pytest.raises(NotFound):
            await read(store, "other", file.id)
        with pytest.raises(NotFound):
            await store.delete_file("other", file.id, NOW)
        assert (await store.files("other")).data == ()
        assert await read(store, "acme", file.id) == b"mine"

    async def test_files_are_listed_page_by_page(self, store: Store) -> None:
        made = [await file_of(store, b"x", at=NOW + n) for n in range(5)]
        await file_of(store, b"x", "other", NOW + 2)
        newest = [file.id for file in reversed(made)]
        first = await store.files("acme", limit=2)
        assert ([file.id for file in first.data], first.has_more) == (newest[:2], True)
        second = await store.files("acme", limit=2, after=newest[1])
        assert ([file.id for file in second.data], second.has_more) == (newest[2:4], True)
        last = await store.files("acme", limit=2, after=newest[3])
        assert ([file.id for file in last.data], last.has_more) == (newest[4:], False)
        oldest = await store.files("acme", limit=3, order="asc", after=made[0].id)
        assert [file.id for file in oldest.data] == [file.id for file in made[1:4]]
        with pytest.raises(NotFound):
            await store.files("acme", after="file-unknown")

    async def test_files_are_listed_by_purpose(self, store: Store) -> None:
        batch = await batch_of(store, ["a"])
        await drain(store)
        batch = await store.batch("acme", batch.id)
        shown = [file.id for file in (await store.files("acme", purpose="batch")).data]
        assert shown == [batch.input_file_id]
        shown = [file.id for file in (await store.files("acme", purpose="batch_output")).data]
        assert shown == [batch.output_file_id]

    async def test_a_deleted_file_is_gone(self, store: Store) -> None:
        file = await file_of(store, b"x" * PIECE * 3)
        await store.delete_file("acme", file.id, NOW)
        for call in (store.file("acme", file.id), store.delete_file("acme", file.id, NOW),
                     read(store, "acme", file.id)):  # fmt: skip
            with pytest.raises(NotFound):
                await call
        assert (await store.files("acme")).data == ()
        await clear_up(store, NOW)

    async def test_a_batch_keeps_the_file_it_was_made_of(self, store: Store) -> None:
        batch = await batch_of(store, ["a", "b"])
        await store.delete_file("acme", batch.input_file_id, NOW)
        await clear_up(store, NOW)
        whole = b"".join([piece async for piece in store.read_input(batch.id)])
        assert whole == line("a") + line("b")
        claim = await claim_one(store)
        assert claim.body.startswith(b'{"model"')
        assert await drain(store) == 1
        assert await drain(store, NOW + 60) == 0
        assert await store.reap(NOW + 60) == 1
        assert await drain(store, NOW + 60) == 1
        await clear_up(store, NOW + 60)
        with pytest.raises(NotFound):
            [piece async for piece in store.read_input(batch.id)]

    async def test_files_go_when_their_time_has_come(self, store: Store) -> None:
        short = await file_of(store, b"x" * PIECE, expires_at=NOW + 10)
        plain = await file_of(store, b"y")
        long = await file_of(store, b"z", expires_at=NOW + 90 * DAY)
        await clear_up(store, NOW + 9)
        assert len((await store.files("acme")).data) == 3
        await clear_up(store, NOW + 10)
        with pytest.raises(NotFound):
            await store.file("acme", short.id)
        await store.file("acme", plain.id)
        await clear_up(store, NOW + 30 * DAY)
        with pytest.raises(NotFound):
            await store.file("acme", plain.id)
        assert await read(store, "acme", long.id) == b"z"
