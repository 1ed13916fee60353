"""What a request body asks for, and how a bad one is refused."""

from typing import Any

import pytest

from backends.sim import ask as asks
from tests.backends.sim.conftest import Start, Wire, ask

HELLO = [{"role": "user", "content": "hello the queue"}]
MODEL = "llama-3.1-8b"
CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "param", "message"),
    [
        (CHAT, {"model": "nope", "messages": HELLO}, 404, "NotFoundError", "model", "not exist"),
        (CHAT, {"model": MODEL}, 400, "Bad Request", "body.messages", "'type': 'missing'"),
        (CHAT, {"messages": []}, 400, "BadRequestError", None, "empty conversation"),
        (CHAT, [1, 2], 400, "Bad Request", "body", "'<list of 2 items>'"),
        (CHAT, b'{"model": "x", ', 400, "Bad Request", "body.15", "in double quotes"),
        (CHAT, b"", 400, "Bad Request", "body", "'input': 'None'"),
        (
            CHAT,
            {"messages": HELLO, "temperature": -1},
            400,
            "BadRequestError",
            "temperature",
            "-1.0",
        ),
        (PLAIN, {"prompt": "a", "max_tokens": 200000}, 400, "BadRequestError", "max_tokens", "greater"),
        (
            PLAIN,
            {"prompt": "a" * 600000},
            400,
            "BadRequestError",
            "input_tokens",
            "131073 input tokens",
        ),
        (PLAIN, {"prompt": "a", "n": 1_000_000_000}, 400, "BadRequestError", "n", "at most 16384"),
        (PLAIN, {"prompt": "a", "max_tokens": 0}, 400, "BadRequestError", "max_tokens", "at least 1"),
        (PLAIN, {"prompt": "a", "max_tokens": "x"}, 400, "Bad Request", "body.max_tokens", "integer"),
        (PLAIN, {"prompt": {}}, 400, "BadRequestError", "prompt", "non-empty"),
    ],
)
async def test_refusals_are_vllms_own(
    start: Start, path: str, body: Any, status: int, kind: str, param: str | None, message: str
) -> None:
    got, answer = await ask(await start(), "POST", path, body)
    error = answer["error"]
    assert (got, error["code"], error["type"], error["param"]) == (status, status, kind, param)
    assert message in error["message"]


async def test_another_media_type(start: Start) -> None:
    status, body = await ask(await start(), "POST", PLAIN, b"{}", content_type="text/plain")
    assert status == 400
    assert "Unsupported Media Type: Only 'application/json' is allowed" in body["error"]["message"]


async def test_paths_and_methods_that_do_not_exist(start: Start) -> None:
    server = await start()
    assert await ask(server, "GET", "/v1/nope") == (404, {"detail": "Not Found"})
    assert await ask(server, "GET", PLAIN) == (405, {"detail": "Method Not Allowed"})
    assert await ask(server, "DELETE", "/health") == (405, {"detail": "Method Not Allowed"})


async def test_a_full_queue_is_503_before_a_stream_begins(start: Start) -> None:
    server = await start(speed=0.01, max_queued=1)
    wire = await Wire.open(server)
    wire.send("POST", PLAIN, b'{"prompt": "a", "stream": true}', content_type="application/json")
    await wire.head()
    status, body = await ask(server, "POST", PLAIN, {"prompt": "a", "stream": True})
    assert status == 503
    assert body["error"]["type"] == "Service Unavailable"
    assert body["error"]["message"].startswith("The engine is currently busy")
    _, page = await ask(server, "GET", "/metrics")
    assert b'admission_rejections_total{model_name="llama-3.1-8b",reason="max_num_queued_reqs"} 1.0' in page
    wire.close()


def test_the_prompt_is_the_concatenation_of_all_texts() -> None:
    parts = [{"type": "text", "text": "b"}, {"type": "image_url", "image_url": {"url": "x"}}, "c"]
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": parts}, {"role": "user"}]
    assert asks.parse_chat({"messages": messages}, MODEL).prompts == (b"abc",)
    assert asks.parse_messages({"messages": messages, "system": "s"}, MODEL).prompts == (b"sabc",)
    given = {"input": [{"role": "user", "content": [{"type": "input_text", "text": "b"}]}], "instructions": "a"}
    assert asks.parse_responses(given, MODEL).prompts == (b"ab",)
    assert asks.parse_completion({"prompt": [[97, 98]]}, MODEL).prompts == (b"a\0\0\0b",)


def test_the_newer_name_of_the_limit_wins_and_completions_have_a_default() -> None:
    body = {"messages": HELLO, "max_tokens": 5, "max_completion_tokens": 7}
    assert asks.parse_chat(body, MODEL).max_tokens == 7
    assert asks.parse_chat({"messages": HELLO}, MODEL).max_tokens is None
    assert asks.parse_completion({"prompt": "a"}, MODEL).max_tokens == 16
