"""Tests of loadtest/models.py: the first listed model, or an error that says what to do."""

from __future__ import annotations

import asyncio

import pytest

from loadtest.models import first_model


async def ask(body: bytes, status: bytes = b"200 OK") -> tuple[str, bytes]:
    """What `first_model` makes of that answer, and the request it sent."""
    seen = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(body), body))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server:
        return await asyncio.to_thread(first_model, url, {"authorization": "Bearer k"}), bytes(seen)


async def test_the_first_model_is_taken_and_the_key_is_sent() -> None:
    name, request = await ask(b'{"data":[{"id":"m1"},{"id":"m2"}]}')
    assert name == "m1"
    assert request.startswith(b"GET /v1/models ") and b"authorization: bearer k" in request.lower()


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data":[]}', b'{"data":[{"id":7}]}', b'{"data":null}'])
async def test_a_list_without_a_model_is_an_error_that_names_the_option(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"names no model.*--model"):
        await ask(body)


def test_a_server_that_is_not_there_is_said_to_be_so() -> None:
    with pytest.raises(ValueError, match=r"does not answer .*refused"):
        first_model("http://127.0.0.1:1", {})


async def test_a_refused_request_is_an_error_that_names_the_option() -> None:
    with pytest.raises(ValueError, match=r"401.*--model"):
        await ask(b"{}", b"401 Unauthorized")
