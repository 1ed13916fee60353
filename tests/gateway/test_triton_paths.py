"""Requests for Triton: bodies that belong to the model, streams by their path, and errors told apart."""

import pytest

from gateway.core.errors import BadRequest
from gateway.dialects import OPENAI, TRITON
from gateway.paths import Paths
from gateway.peek import peek
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop
from tests.support.upstream import Upstream, answer, whole

MISUSE = b'{"error":"generate expects model to produce exactly 1 response, use generate stream for model that ..."}'
BROKEN = b'{"error":"the model failed"}'


@pytest.mark.parametrize(
    ("body", "prompt", "limit"),
    [
        (b'{"text_input": "hi", "max_tokens": 8}', b'"hi"', 8),
        (b'{"text_input": ["hi", "you"], "max_tokens": [8]}', b'["hi", "you"]', None),
        (b'{"prompt": 5, "model": [1], "stream": [true], "user": {}, "n": "x"}', b"", None),
        (b'{"inputs": []}', b"", None),
    ],
)
def test_the_members_of_a_body_may_be_of_any_type(body: bytes, prompt: bytes, limit: int | None) -> None:
    seen = peek(body, tensors=True)
    assert (seen.text, seen.limit) == (prompt, limit)


@pytest.mark.parametrize("body", [b"{bad", b"[1]", b'{"a": 1} 2', b'{"max_tokens": 1, "max_tokens": 2}', b"\xff", b""])
def test_what_two_parsers_could_read_differently_is_refused_all_the_same(body: bytes) -> None:
    with pytest.raises(BadRequest):
        peek(body, tensors=True)


@pytest.mark.parametrize(("path", "streams"), [("infer", False), ("generate", False), ("generate_stream", True)])
def test_the_path_says_whether_the_answer_is_a_stream(path: str, streams: bool) -> None:
    found = Paths(()).find(b"/v2/models/some-model/" + path.encode())
    assert found is not None
    assert (found[0].streams, found[0].dialect, found[1]) == (streams, TRITON, "some-model")


def test_an_unknown_path_of_the_protocol_is_refused_in_its_own_shape() -> None:
    assert Paths(()).dialect(b"/v2/repository/index") is TRITON
    assert Paths(()).dialect(b"/v3/models") is OPENAI


@on_uvloop
async def test_an_error_in_a_200_that_the_client_caused_passes_and_is_not_held_against_the_server() -> None:
    async with (
        Upstream(whole(answer(MISUSE))) as one,
        Upstream(whole(answer(MISUSE))) as two,
        Running(config(pool([one, two], engine="triton"))) as gateway,
        gateway.client() as client,
    ):
        for _ in range(8):
            said = await client.ask("/v2/models/m/generate", b'{"text_input": "hi"}')
            assert (said.status, said.body) == (200, MISUSE)
        assert (one.posts, two.posts) == (8, 0)
        await gateway.settled(8)


@on_uvloop
async def test_an_error_in_a_200_that_the_server_caused_is_tried_elsewhere() -> None:
    async with (
        Upstream(whole(answer(BROKEN))) as one,
        Upstream(whole(answer(b'{"text_output":"a"}'))) as two,
        Running(config(pool([one, two], engine="triton"))) as gateway,
        gateway.client() as client,
    ):
        said = await client.ask("/v2/models/m/generate", b'{"text_input": "hi"}')
        assert (said.status, said.body) == (200, b'{"text_output":"a"}')
        assert (one.posts, two.posts) == (1, 1)
        await gateway.settled(1)
