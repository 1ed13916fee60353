"""Batches as clients see them: the official client unchanged, validation all or nothing, tenants apart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types import Batch

from gateway.jobs.model import Result, Usage
from tests.gateway.jobs.test_files import run
from tests.support.jobs_api import ALICE, BOB, POOR, Api, lines, said

CHAT: Any = "/v1/chat/completions"


async def uploaded(sdk: AsyncOpenAI, raw: bytes) -> str:
    return (await sdk.files.create(file=("in.jsonl", raw), purpose="batch")).id


async def made(sdk: AsyncOpenAI, raw: bytes, **more: Any) -> Batch:
    wish: dict[str, Any] = {"input_file_id": await uploaded(sdk, raw), "endpoint": CHAT, "completion_window": "24h"}
    return await sdk.batches.create(**{**wish, **more})


async def validated(sdk: AsyncOpenAI, id_: str) -> Batch:
    for _ in range(1000):
        batch = await sdk.batches.retrieve(id_)
        if batch.status != "validating":
            return batch
        await asyncio.sleep(0.01)
    raise AssertionError("the batch is not validated")


def test_a_batch_is_made_validated_run_and_read(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        sdk = api.sdk()
        metadata = {"k" * 64: "v" * 512, "two": ""}
        expiry: Any = {"anchor": "created_at", "seconds": 7200}
        batch = await made(sdk, lines(said("a"), said("b")), metadata=metadata, output_expires_after=expiry)
        assert (batch.object, batch.status, batch.endpoint) == ("batch", "validating", CHAT)
        assert (batch.completion_window, batch.metadata, batch.errors) == ("24h", metadata, None)
        assert batch.expires_at == batch.created_at + 86_400 and batch.id.startswith("batch_")
        batch = await validated(sdk, batch.id)
        assert batch.status == "in_progress" and batch.in_progress_at is not None and batch.model == "m"
        assert batch.request_counts is not None and batch.request_counts.to_dict() == {
            "total": 2, "completed": 0, "failed": 0
        }  # fmt: skip
        assert api.made == 1
        now = batch.created_at + 1.0
        claims = await api.store.claim("w", 10, now + 60, now)
        assert [claim.custom_id for claim in claims] and {claim.path for claim in claims} == {CHAT}
        assert await api.store.finish(claims[0], Result(200, b'{"x": 1}', usage=Usage(5, 1, 3)), now)
        assert await api.store.finish(claims[1], Result(400, b'{"error": 1}'), now)
        while (batch := await sdk.batches.retrieve(batch.id)).status == "finalizing":
            await api.store.expire(now, 1e9)
        assert batch.status == "completed" and batch.completed_at is not None and batch.request_counts is not None
        assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
        assert batch.usage is not None and batch.usage.total_tokens == 8
        assert batch.output_file_id is not None and batch.error_file_id is not None
        assert b'"x":1' in (await sdk.files.content(batch.output_file_id)).content
        assert (await sdk.files.retrieve(batch.output_file_id)).purpose == "batch_output"
        with pytest.raises(openai.ConflictError):
            await sdk.batches.cancel(batch.id)

    run(tmp_path, test)


def test_a_file_with_errors_fails_its_batch_as_a_whole_with_their_lines(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        sdk = api.sdk()
        raw = lines(said(), said(stream=True), said(model="none")) + b"{\n"
        batch = await validated(sdk, (await made(sdk, raw)).id)
        assert batch.status == "failed" and batch.failed_at is not None and batch.errors is not None
        assert batch.errors.object == "list"
        assert [(error.line, error.code) for error in batch.errors.data or []] == [
            (2, "stream_not_allowed"), (3, "model_not_found"), (4, "invalid_json_line")
        ]  # fmt: skip
        assert await api.store.claim("w", 10, 1e10, 1e9) == []
        batch = await validated(sdk, (await made(sdk, b"\n\n")).id)
        assert batch.errors is not None and [error.code for error in batch.errors.data or []] == ["empty_file"]

    run(tmp_path, test)


def test_errors_are_listed_up_to_a_hundred(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        sdk = api.sdk()
        batch = await validated(sdk, (await made(sdk, b"{\n" * 5000)).id)
        assert batch.errors is not None and len(batch.errors.data or []) == 100

    run(tmp_path, test)


def test_many_lines_go_to_the_store_in_pieces(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        sdk = api.sdk()
        raw = lines(*(said(f"text {n % 7} " * 50) for n in range(3000)))
        batch = await validated(sdk, (await made(sdk, raw)).id)
        assert batch.status == "in_progress" and batch.request_counts is not None
        assert batch.request_counts.total == 3000

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"completion_window": "24 hours"}, "completion_window"), ({"completion_window": "721h"}, "completion_window"),
        ({"completion_window": "0h"}, "completion_window"), ({"endpoint": "/v1/files"}, "endpoint"),
        ({"endpoint": "/v1/audio/transcriptions"}, "endpoint"), ({"endpoint": "https://x/v1/completions"}, "endpoint"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"), ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"), ({"metadata": {"k": 7}}, "metadata[...]"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3599}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor"),
        ({"input_file_id": "file-none"}, "input_file_id"), ({"input_file_id": 7}, "input_file_id"),
        ({"extra_body": {"colour": "red"}}, "colour"),
        ({"extra_headers": {"x-headway-deadline": "1h"}}, "x-headway-deadline"),
        ({"extra_headers": {"x-headway-callback": "https://a/"}}, "x-headway-callback"),
    ],
)  # fmt: skip
def test_a_wish_that_makes_no_sense_is_refused_with_its_parameter(
    tmp_path: Path, wish: dict[str, Any], param: str
) -> None:
    async def test(api: Api) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            await made(api.sdk(), lines(said()), **wish)
        assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")
        assert (await api.sdk().batches.list()).data == []

    run(tmp_path, test, validating=False)


def test_bodies_that_are_no_wish_are_refused(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with api.client() as client:
            for body, code in ((b"", "invalid_json"), (b"[]", "invalid_value"), (b"{", "invalid_json"),
                               (b"{}", "missing_required_parameter"), (b'"\xff"', "invalid_value")):  # fmt: skip
                answer = await client.ask("/v1/batches", body, f"x-api-key: {ALICE}")
                assert (answer.status, answer.error["code"]) == (400, code)
            client.send(
                f"POST /v1/batches HTTP/1.1\r\nhost: a\r\napi-key: {ALICE}\r\ncontent-length: 999999\r\n\r\n".encode()
            )
            assert (await client.answer()).status == 413

    run(tmp_path, test)


def test_other_windows_and_other_paths_are_accepted(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        sdk = api.sdk()
        window: Any = "1h"
        batch = await made(sdk, lines(said()), completion_window=window, endpoint="/v1/embeddings")
        assert batch.expires_at == batch.created_at + 3600

    run(tmp_path, test, validating=False)


def test_an_idempotency_key_gives_the_first_batch_again(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        sdk = api.sdk()
        file = await uploaded(sdk, lines(said()))
        wish: Any = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        headers = {"Idempotency-Key": "once"}
        first = await sdk.batches.create(**wish, extra_headers=headers)
        assert (await sdk.batches.create(**wish, extra_headers=headers)).id == first.id
        assert (await sdk.batches.create(**wish)).id != first.id
        await sdk.files.delete(file)
        assert (await sdk.batches.create(**wish, extra_headers=headers)).id == first.id
        for fields in ({}, {"Idempotency-Key": "new"}):
            with pytest.raises(openai.BadRequestError):
                await sdk.batches.create(**wish, extra_headers=fields)
        with pytest.raises(openai.BadRequestError):
            await sdk.batches.create(**wish, extra_headers={"Idempotency-Key": "a b"})

    run(tmp_path, test, validating=False)


def test_batches_are_listed_cancelled_and_belong_to_their_tenant(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        alice, bob = api.sdk(), api.sdk(BOB)
        ids = [(await made(alice, lines(said()))).id for _ in range(3)]
        assert [batch.id async for batch in await alice.batches.list(limit=2)] == ids[::-1]
        page = await alice.batches.list(limit=2)
        assert page.has_more and page.model_extra is not None and page.model_extra["last_id"] == ids[1]
        assert (await bob.batches.list()).data == []
        for call in (bob.batches.retrieve, bob.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                await call(ids[0])
        with pytest.raises(openai.BadRequestError) as caught:  # of another's file
            await bob.batches.create(input_file_id=(await alice.files.list()).data[0].id, endpoint=CHAT,
                                     completion_window="24h")  # fmt: skip
        assert caught.value.param == "input_file_id"
        batch = await alice.batches.cancel(ids[0])
        assert batch.status in ("cancelling", "cancelled")
        assert (await alice.batches.cancel(ids[0])).status == "cancelled"
        with pytest.raises(openai.BadRequestError):
            await alice.batches.list(limit=101)

    run(tmp_path, test, validating=False)


def test_a_class_the_key_may_not_use_is_refused_at_once(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await made(api.sdk(POOR), lines(said()))
        assert caught.value.code == "class_not_allowed"
        batch = await made(api.sdk(POOR), lines(said()), extra_headers={"x-headway-class": "interactive"})
        assert (await api.store.batch("poor", batch.id)).klass == "interactive"
        with pytest.raises(openai.BadRequestError):
            await made(api.sdk(), lines(said()), extra_headers={"x-headway-class": "nonsense"})

    run(tmp_path, test, validating=False)


def test_a_deleted_input_does_not_stop_its_batch_and_an_output_is_no_input(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        sdk = api.sdk()
        batch = await made(sdk, lines(said()))
        await sdk.files.delete(batch.input_file_id)
        api.api.start()
        assert (await validated(sdk, batch.id)).status == "in_progress"

    run(tmp_path, test, validating=False)


def test_validation_goes_on_after_a_restart(tmp_path: Path) -> None:
    ids = []

    async def before(api: Api) -> None:
        ids.append((await made(api.sdk(), lines(said()))).id)

    async def after(api: Api) -> None:
        assert (await validated(api.sdk(), ids[0])).status == "in_progress"

    run(tmp_path, before, validating=False)
    run(tmp_path, after)
