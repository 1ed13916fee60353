"""Which request of which path is whose, and what happens beside the requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config.types import Limits
from gateway.jobs import http
from gateway.jobs.base import StoreUnavailable
from gateway.jobs.model import Batch
from gateway.jobs.sqlite import SqliteStore
from tests.gateway.jobs.test_batches import made, validated
from tests.gateway.jobs.test_files import form, run, sent, upload
from tests.support.jobs_api import ALICE, Api, lines, said, settings


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/v1/files", 405), ("POST", "/v1/files/file-1", 405), ("DELETE", "/v1/files", 405),
        ("DELETE", "/v1/files/file-1/content", 405), ("GET", "/v1/files/", 404), ("GET", "/v1/files/a/b", 404),
        ("GET", "/v1/files/a/content/c", 404), ("GET", "/v1/files/..%2fx", 404), ("GET", "/v1/files/a/cancel", 404),
        ("GET", "/v1/jobs", 404), ("POST", "/v1/jobs/job_1", 405), ("GET", "/v1/batches/batch_1/cancel", 405),
        ("GET", "/v1/batches/batch_1/content", 404), ("GET", "/v1/batches/batch_1", 404),
        ("GET", "/v1/jobs/job_1", 404),
        ("DELETE", "/v1/jobs/job_1", 404), ("GET", "/v1/files?limit=2&limit=3", 400),
        ("GET", "/v1/files?after=%ff", 400),
        ("GET", "/v1/files", 200), ("HEAD", "/v1/files", 200), ("GET", "/v1/batches", 200),
    ],
)  # fmt: skip
def test_each_path_has_its_methods_and_errors_have_openais_shape(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    async def test(api: Api) -> None:
        async with api.client() as client:
            client.send(f"{method} {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {ALICE}\r\n\r\n".encode())
            said = await client.answer(bodiless=method == "HEAD")
            assert said.status == status
            if status != 200:
                assert set(json.loads(said.body)["error"]) == {"message", "type", "code", "param"}

    run(tmp_path, test, validating=False)


class Shaky(SqliteStore):
    """A store whose first answers fail: `claim_validation` of each kind once, and the reading of the first input."""

    def __init__(self, path: str):
        super().__init__(path)
        self.errors: list[Exception] = [StoreUnavailable("away"), ValueError("a bug")]
        self.half = True

    async def claim_validation(self, *args: Any) -> Batch | None:
        if self.errors:
            raise self.errors.pop()
        return await super().claim_validation(*args)

    async def read_input(self, batch_id: str) -> AsyncIterator[bytes]:
        async for piece in super().read_input(batch_id):
            if self.half:
                self.half = False
                yield piece[:100]
                raise StoreUnavailable("away")
            yield piece


def test_validation_outlives_a_store_that_fails_and_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_PAUSE", 0.01)
    told: list[Any] = []

    async def test(api: Api) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))
        api.api.start()
        sdk = api.sdk()
        batch = await validated(sdk, (await made(sdk, lines(said("a"), said("b")))).id)
        assert batch.status == "in_progress" and batch.request_counts is not None and batch.request_counts.total == 2
        assert [type(error) for error in told] == [ValueError]

    run(tmp_path, test, store=Shaky(str(tmp_path / "shaky.db")), validating=False)


def test_a_bug_is_a_500_and_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*args: Any) -> Any:
        raise ValueError("a bug")

    async def test(api: Api) -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))
        monkeypatch.setattr(api.store, "file", broken)
        async with api.client() as client:
            answer = await client.get("/v1/files/file-1", f"x-api-key: {ALICE}")
            assert (answer.status, answer.error["code"]) == (500, "internal_error")
            assert (await client.get("/v1/files", f"x-api-key: {ALICE}")).status == 200  # on the same connection
        assert [type(error) for error in told] == [ValueError]

    run(tmp_path, test)


def test_a_reload_changes_what_may_be_asked(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        body = form(("purpose", b"batch"), ("file", b"x" * 100))
        for limit, status in ((10, 413), (10_000, 200)):
            api.api.reconfigure(settings(limits=Limits(file=limit)), api.intake)
            async with api.client() as client:
                assert (await sent(client, upload(body))).status == status

    run(tmp_path, test)


@pytest.mark.parametrize("hangs", [False, True])
def test_every_answer_survives_a_store_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    monkeypatch.setattr("gateway.jobs.desk.PATIENCE", 0.05)

    async def away(*args: Any, **more: Any) -> Any:
        if hangs:
            await asyncio.Event().wait()
        raise StoreUnavailable("away", retry_after=3.0)

    async def reading(*args: Any, **more: Any) -> AsyncIterator[bytes]:
        await away()
        yield b""

    async def test(api: Api) -> None:
        file = (await api.sdk().files.create(file=("x", lines(said())), purpose="batch")).id
        for name in [
            "files",
            "delete_file",
            "batch",
            "batches",
            "cancel",
            "create_batch",
            "submit",
            "job",
            "cancel_job",
            "new_file",
        ]:
            monkeypatch.setattr(api.store, name, away)
        monkeypatch.setattr(api.store, "read", reading)
        wish = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        form_type = "content-type: multipart/form-data; boundary=b0"
        async with api.client() as client:
            for method, path, body in (
                ("GET", "/v1/files", b""), ("DELETE", f"/v1/files/{file}", b""),
                ("GET", f"/v1/files/{file}/content", b""),
                ("POST", "/v1/files", form(("purpose", b"batch"), ("file", b"x"))), ("GET", "/v1/batches", b""),
                ("POST", "/v1/batches", json.dumps(wish).encode()), ("GET", "/v1/batches/batch_1", b""),
                ("POST", "/v1/batches/batch_1/cancel", b""), ("GET", "/v1/jobs/job_1", b""),
                ("DELETE", "/v1/jobs/job_1", b""), ("POST", "/v1/chat/completions", json.dumps(said()).encode()),
            ):  # fmt: skip
                head = (f"{method} {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {ALICE}\r\nprefer: respond-async\r\n"
                        f"{form_type}\r\ncontent-length: {len(body)}\r\n\r\n")  # fmt: skip
                answer = await sent(client, head.encode() + body)
                assert (answer.status, answer.error["code"]) == (503, "jobs_unavailable"), (method, path)
                assert answer.named["retry-after"] == ("1" if hangs else "3")
                assert answer.named["x-headway-reason"] == "jobs_unavailable"
        monkeypatch.undo()

    run(tmp_path, test, validating=False)


def test_a_content_that_breaks_in_the_middle_does_not_look_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def reading(*args: Any, **more: Any) -> AsyncIterator[bytes]:
        yield b"x" * 10
        raise StoreUnavailable("away")

    async def test(api: Api) -> None:
        file = (await api.sdk().files.create(file=("x", b"x" * 100), purpose="batch")).id
        monkeypatch.setattr(api.store, "read", reading)
        async with api.client() as client:
            answer = await client.get(f"/v1/files/{file}/content", f"x-api-key: {ALICE}")
            assert (answer.status, answer.whole) == (200, False)

    run(tmp_path, test, validating=False)
