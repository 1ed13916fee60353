"""Names of models: what is believed of a list, when it is asked for, and what a failure changes."""

import asyncio
import contextlib
import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import model_names
from gateway.core.types import Endpoint
from gateway.model_names import MAX_NAMES, ModelNames, Served, parse_models

A = Endpoint(id="a", url="http://a:1", pool="p", engine="vllm")


def page(*names: object) -> bytes:
    return json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode()


def names_on(body: bytes) -> tuple[str, ...]:
    return tuple(one.name for one in parse_models(body))


def test_the_ids_are_the_names_in_their_order_and_once():
    assert names_on(page("b", "a", "b")) == ("b", "a")


def test_what_cannot_be_a_name_is_left_out():
    assert names_on(page("", "x" * 257, "a\nb", 7, None, "x" * 256)) == ("x" * 256,)
    assert names_on(b'{"data": [1, null, [], {"name": "x"}, {"id": "y"}]}') == ("y",)


def test_how_long_a_prompt_may_be_is_believed_where_it_can_be_true():
    said = b'{"data": [{"id": "a", "max_model_len": 2048}, {"id": "b", "max_model_len": -1}, {"id": "c"}]}'
    assert parse_models(said) == (Served("a", 2048), Served("b"), Served("c"))


def test_a_list_is_bounded():
    assert len(parse_models(page(*map(str, range(1000))))) == MAX_NAMES


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"<html>", b'{"data": {}}', b"[" * 100_000, b"\xff\xfe"])
def test_what_is_no_list_of_models_raises(body):
    with pytest.raises(ValueError):
        parse_models(body)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(body):
    with contextlib.suppress(ValueError):
        assert all(0 < len(name) <= 256 for name in names_on(body))


class Asked:
    def __init__(self, *answers: bytes | Exception):
        self.answers = list(answers)
        self.urls: list[str] = []
        self.done = asyncio.Event()

    async def get(self, url: str, endpoint: Endpoint) -> bytes:
        self.urls.append(url)
        answer = self.answers.pop(0)
        if not self.answers:
            self.done.set()
            self.answers.append(answer)
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextlib.asynccontextmanager
async def watching(names):
    task = asyncio.create_task(names.watch(A))
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_an_endpoint_is_asked_when_it_is_alive_and_not_before(monkeypatch):
    asked = Asked(page("m"))
    names = ModelNames(asked.get, lambda endpoint_id: "vllm", Random(1))
    async with watching(names):
        await asyncio.sleep(0)
        assert not asked.urls
        names.is_alive("a")
        names.is_alive("nobody")
        await asked.done.wait()
        await asyncio.sleep(0)
        assert asked.urls == ["http://a:1/v1/models"]
        assert names.names == {"a": ("m",)}
        names.forget("a")
        assert names.names == {}


async def test_a_failure_changes_nothing_and_the_next_answer_counts(monkeypatch):
    monkeypatch.setattr(model_names, "ASK_AGAIN", 0.001)
    asked = Asked(page("m"), OSError("gone"), b"garbage", page("n"))
    names = ModelNames(asked.get, lambda endpoint_id: "auto", Random(1))
    seen = set()
    async with watching(names), asyncio.timeout(20):
        names.is_alive("a")
        while names.names.get("a") != ("n",):
            seen.add(names.names.get("a"))
            await asyncio.sleep(0.0005)
    assert seen <= {None, ("m",)}


@pytest.mark.parametrize("engine", ["http", "triton", "jetstream"])
async def test_an_engine_without_such_a_page_is_not_asked(engine):
    asked = Asked(page("m"))
    names = ModelNames(asked.get, lambda endpoint_id: engine, Random(1))
    async with watching(names):
        names.is_alive("a")
        for _ in range(5):
            await asyncio.sleep(0)
        assert not asked.urls


async def test_a_list_that_was_asked_for_before_something_changed_is_asked_for_again():
    told = []
    asked = Asked(page("m"), page("m", "loaded"))

    async def get(url: str, endpoint: Endpoint) -> bytes:
        if not asked.urls:
            names.ask_again("a")  # a command is answered while this list is on its way
        return await asked.get(url, endpoint)

    names = ModelNames(get, lambda endpoint_id: "vllm", Random(1),
                       lambda endpoint_id, served: told.append([one.name for one in served]))  # fmt: skip
    async with watching(names), asyncio.timeout(20):
        names.is_alive("a")
        await asked.done.wait()
        await asyncio.sleep(0)
    assert told == [["m", "loaded"]]
