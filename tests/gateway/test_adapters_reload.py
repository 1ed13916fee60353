"""An adapter whose path a reload changes is another adapter, whatever the servers list by its name."""

from __future__ import annotations

import asyncio

import pytest

from gateway.adapters import LOAD, UNLOAD
from gateway.core.errors import HeadwayError
from gateway.fetch import Page
from tests.gateway.test_adapters import LORA, Bench, run


def test_another_path_is_another_adapter_whatever_the_servers_list() -> None:
    """A reload that changed the path went on with the old weights."""

    async def scene() -> None:
        bench = Bench()
        await bench.want("a")
        bench.configure("/adapters/a-2")
        bench.fleet.offers.told(0, ("base", "a"))  # the server has the old one, by the same name
        assert not bench.fleet.offers.having("a")
        bench.fleet.requests[1] = 1.0
        assert await bench.want("a") == "e0"
        assert bench.posts[1:] == [("e0", UNLOAD, "a"), ("e0", LOAD, "a")]
        assert bench.paths == [LORA.path, "/adapters/a-2"]
        bench.fleet.offers.told(0, ("base", "a"))
        assert await bench.want("a") == "e0" and len(bench.posts) == 3, "it is the new one now"

    run(scene)


def test_an_old_one_that_will_not_go_is_not_taken_for_the_new_one() -> None:
    async def scene() -> None:
        bench = Bench()
        await bench.want("a")
        bench.fleet.requests[1] = 1.0
        bench.configure("/adapters/a-2")
        bench.answer = Page(400, b"the adapter 'a' has already been loaded")
        with pytest.raises(HeadwayError):
            await bench.want("a")
        assert not bench.fleet.offers.having("a")

    run(scene)


def test_a_path_that_changes_while_it_is_loaded_is_loaded_after_it() -> None:
    async def scene() -> None:
        bench = Bench()
        bench.gate.clear()
        waiting = asyncio.create_task(bench.want("a"))
        for _ in range(3):
            await asyncio.sleep(0)
        bench.configure("/adapters/a-2")
        bench.gate.set()
        assert await waiting == "e0"
        assert bench.posts == [("e0", LOAD, "a"), ("e0", UNLOAD, "a"), ("e0", LOAD, "a")]
        assert bench.paths == [LORA.path, "/adapters/a-2"]

    run(scene)


def test_a_path_that_is_mended_is_tried_at_once() -> None:
    async def scene() -> None:
        bench = Bench()
        bench.answer = Page(404, b"no such adapter path")
        with pytest.raises(HeadwayError):
            await bench.want("a")
        bench.configure("/adapters/a-2")
        bench.answer = Page(200, b"ok")
        assert await bench.want("a") == "e0"

    run(scene)
