"""Files as clients see them: the official client unchanged, any size in pieces, tenants apart, errors in shape."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.config.types import Limits
from tests.support.client import Answer, Client
from tests.support.jobs_api import ALICE, BOB, Api, settings
from tests.support.loop import on_uvloop, until

SMALL = b'{"a": 1}\n{"b": 2}\n'


def run(tmp_path: Path, test: Any, **more: Any) -> None:
    @on_uvloop
    async def go() -> None:
        async with Api(tmp_path, **more) as api:
            await test(api)

    go()


def form(*parts: tuple[str, bytes]) -> bytes:
    made = b""
    for name, value in parts:
        filename = '; filename="in.jsonl"' if name == "file" else ""
        made += f'--b0\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'.encode() + value + b"\r\n"
    return made + b"--b0--\r\n"


def upload(body: bytes, *fields: str, key: str = ALICE, chunked: bool = False) -> bytes:
    size = "transfer-encoding: chunked" if chunked else f"content-length: {len(body)}"
    lines = ("content-type: multipart/form-data; boundary=b0", f"authorization: Bearer {key}", size, *fields)
    head = "POST /v1/files HTTP/1.1\r\nhost: a\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n"
    return head.encode() + (b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body)


async def sent(client: Client, raw: bytes) -> Answer:
    client.send(raw)
    return await client.answer()


def test_a_file_is_uploaded_looked_at_listed_read_and_deleted(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        sdk = api.sdk()
        made = await sdk.files.create(file=("in.jsonl", SMALL), purpose="batch")
        assert (made.object, made.bytes, made.filename, made.purpose) == ("file", len(SMALL), "in.jsonl", "batch")
        assert made.id.startswith("file-") and made.status == "processed" and made.expires_at is None
        assert await sdk.files.retrieve(made.id) == made
        assert [file.id async for file in await sdk.files.list()] == [made.id]
        assert (await sdk.files.content(made.id)).content == SMALL
        gone = await sdk.files.delete(made.id)
        assert (gone.id, gone.deleted, gone.object) == (made.id, True, "file")
        with pytest.raises(openai.NotFoundError) as caught:
            await sdk.files.retrieve(made.id)
        assert caught.value.code == "file_not_found" and caught.value.type == "not_found_error"
        assert [record.status for record in api.records] == [200, 200, 200, 200, 200, 404]
        assert {record.tenant for record in api.records} == {"alice"}

    run(tmp_path, test)


def test_files_are_listed_page_by_page_in_either_order(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        sdk = api.sdk()
        ids = [(await sdk.files.create(file=(f"{n}", SMALL), purpose="batch")).id for n in range(5)]
        assert [file.id async for file in await sdk.files.list(limit=2)] == ids[::-1]
        assert [file.id async for file in await sdk.files.list(limit=3, order="asc")] == ids
        first = await sdk.files.list(limit=2, order="asc")
        assert (first.has_more, first.model_extra) == (True, {"first_id": ids[0], "last_id": ids[1], "object": "list"})
        assert (await sdk.files.list(limit=2, after=ids[3], order="asc")).has_more is False
        assert (await sdk.files.list(purpose="vision")).data == []
        for query, param in (({"limit": 0}, "limit"), ({"limit": 10001}, "limit"), ({"order": "up"}, "order")):
            with pytest.raises(openai.BadRequestError) as caught:
                await sdk.files.list(extra_query=query)
            assert caught.value.param == param
        with pytest.raises(openai.NotFoundError):
            await sdk.files.list(after="file-none")

    run(tmp_path, test)


def test_files_belong_to_their_tenant(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        alice, bob = api.sdk(), api.sdk(BOB)
        made = await alice.files.create(file=("x", SMALL), purpose="batch")
        for call in (bob.files.retrieve, bob.files.content, bob.files.delete):
            with pytest.raises(openai.NotFoundError):
                await call(made.id)
        assert (await bob.files.list()).data == []
        with pytest.raises(openai.AuthenticationError):
            await api.sdk("sk-wrong").files.list()
        assert (await alice.files.content(made.id)).content == SMALL

    run(tmp_path, test)


def test_a_file_may_expire(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        expiry: Any = {"anchor": "created_at", "seconds": 3600}
        made = await api.sdk().files.create(file=("x", SMALL), purpose="batch", expires_after=expiry)
        assert made.expires_at == made.created_at + 3600
        async with api.client() as client:
            for anchor, seconds, status in (
                (b"created_at", b"3599", 400), (b"created_at", b"2592001", 400), (b"created_at", b"-1", 400),
                (b"now", b"3600", 400), (b"created_at", b"2592000", 200),
            ):  # fmt: skip
                fields = (("expires_after[anchor]", anchor), ("expires_after[seconds]", seconds))
                for parts in ((*fields, ("file", SMALL)), (("file", SMALL), *fields)):
                    said = await sent(client, upload(form(("purpose", b"batch"), *parts)))
                    assert said.status == status

    run(tmp_path, test)


def test_the_fields_of_an_upload_may_come_in_any_order_chunked_and_slowly(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        body = form(("file", SMALL), ("purpose", b"batch"))
        async with api.client() as client:
            assert (await sent(client, upload(body, chunked=True))).json()["bytes"] == len(SMALL)
            raw = upload(body, "expect: 100-continue")
            head, rest = raw[: -len(body)], raw[-len(body) :]
            client.send(head)
            assert (await client.head())[0] == 100
            for at in range(0, len(rest), 7):
                client.send(rest[at : at + 7])
                await asyncio.sleep(0)
            made = (await client.answer()).json()
            said = await client.get(f"/v1/files/{made['id']}/content", f"api-key: {ALICE}")
            assert said.body == SMALL and said.named["content-type"] == "application/octet-stream"
            client.send(f"HEAD /v1/files/{made['id']}/content HTTP/1.1\r\nhost: a\r\napi-key: {ALICE}\r\n\r\n".encode())
            assert (await client.answer(bodiless=True)).named["content-length"] == str(len(SMALL))

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (form(("purpose", b"batch")), 400, "missing_required_parameter", "file"),
        (form(("file", SMALL)), 400, "missing_required_parameter", "purpose"),
        (form(("purpose", b"vision"), ("file", SMALL)), 400, "invalid_value", "purpose"),
        (form(("file", SMALL), ("purpose", b"vision")), 400, "invalid_value", "purpose"),
        (form(("purpose", b"batch"), ("file", b"")), 400, "empty_file", "file"),
        (form(("purpose", b"batch"), ("file", SMALL), ("x", b"y")), 400, "unknown_parameter", "x"),
        (form(("purpose", b"batch"), ("file", SMALL))[:-6], 400, "invalid_form", None),
        (form(("purpose", b"batch"), ("file", b"x" * 1_000_001)), 413, "file_too_large", "file"),
        (b"{}", 400, "invalid_form", None),
    ],
)
def test_an_upload_that_is_wrong_leaves_nothing(
    tmp_path: Path, body: bytes, status: int, code: str, param: str | None
) -> None:
    async def test(api: Api) -> None:
        for chunked in (False, True):
            async with api.client() as client:
                said = await sent(client, upload(body, chunked=chunked))
                assert (said.status, said.error["code"], said.error["param"]) == (status, code, param)
        assert (await api.sdk().files.list()).data == []
        assert not api.api._files.uploads

    run(tmp_path, test, settings=settings(limits=Limits(file=1_000_000)))


def test_a_large_file_passes_in_pieces_over_the_limit_of_bodies(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        data = bytes(range(256)) * 20_000
        made = await api.sdk().files.create(file=("big", data), purpose="batch")
        assert made.bytes == len(data)
        assert (await api.sdk().files.content(made.id)).content == data
        assert api.server.buffered == 0

    run(tmp_path, test, settings=settings(limits=Limits(body=100_000, buffered=200_000)))


def test_what_expires_is_said_before_a_large_file(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        fields = (("expires_after[anchor]", b"created_at"), ("expires_after[seconds]", b"3600"))
        async with api.client() as client:
            body = form(("file", b"x" * 3_000_000), ("purpose", b"batch"), *fields)
            said = await sent(client, upload(body))
            assert (said.status, said.error["message"]) == (400, "put expires_after before the file")
        assert (await api.sdk().files.list()).data == []

    run(tmp_path, test)


def test_a_client_that_leaves_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with api.client() as client:
            body = form(("purpose", b"batch"), ("file", b"x" * 3_000_000))
            client.send(upload(body)[:-1000])
            await until(lambda: api.api._files.uploads)
            await asyncio.sleep(0.1)
            client.reset()
            await until(lambda: not api.api._files.uploads)
        assert (await api.sdk().files.list()).data == []

    run(tmp_path, test)
