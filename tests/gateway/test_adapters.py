"""Adapters: loaded once where there is most room, used where they are, let go when others need their place."""

from __future__ import annotations

import asyncio
import json
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.adapters import FORGET, LOAD, SPREAD, UNLOAD, Adapters
from gateway.config.types import Config, Lora, Pool, model_to
from gateway.core.errors import HeadwayError, UpstreamError
from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.types import Endpoint
from gateway.fetch import Page

LORA = Lora("/adapters/a", most=2)


class Bench:
    """Adapters over a fleet of two; what was posted is kept, answers come when they are let."""

    def __init__(self) -> None:
        self.fleet = Fleet("p", Rule(), Random(1))
        ends = [Endpoint(f"e{n}", f"http://e{n}", "p", "vllm") for n in range(2)]
        self.fleet.update(ends, 0.0, fresh=True)
        for row in range(2):
            self.fleet.offers.told(row, ("base",))
        self.now = 0.0
        self.posts: list[tuple[str, str, str]] = []
        self.answer: Page | Exception = Page(200, b"ok")
        self.gate = asyncio.Event()
        self.gate.set()
        events: Any = SimpleNamespace(log=lambda *args, **more: None)
        self.adapters = Adapters(lambda: {"p": self.fleet}, self.post, events, lambda: self.now)
        models = {name: model_to(name, "p", lora=LORA) for name in ("a", "b", "c")}
        self.adapters.reconfigure(Config({"p": Pool("p")}, models))

    async def post(self, pool: str, endpoint: Endpoint, path: str, body: bytes) -> Page:
        self.posts.append((endpoint.id, path, json.loads(body)["lora_name"]))
        await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def want(self, name: str) -> str:
        """Ask for it; where it went."""
        await self.adapters.wait_for(("p",), name)
        return ",".join(self.fleet.endpoint(row).id for row in sorted(self.fleet.offers.having(name)))


def run(test: Any) -> None:
    asyncio.run(test())


def test_many_who_want_it_at_once_are_one_load() -> None:
    async def scene() -> None:
        bench = Bench()
        bench.gate.clear()
        waiting = [asyncio.create_task(bench.want("a")) for _ in range(5)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        bench.gate.set()
        assert set(await asyncio.gather(*waiting)) == {"e0"}
        assert bench.posts == [("e0", LOAD, "a")]
        assert await bench.want("a") == "e0" and len(bench.posts) == 1, "it is there"
        assert await bench.want("b") == "e1", "where there are fewer"

    run(scene)


def test_a_client_that_leaves_does_not_stop_the_load_for_the_others() -> None:
    async def scene() -> None:
        bench = Bench()
        bench.gate.clear()
        first, second = (asyncio.create_task(bench.want("a")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        bench.gate.set()
        assert await second == "e0" and len(bench.posts) == 1

    run(scene)


def test_the_one_used_longest_ago_makes_room_unless_it_is_in_use() -> None:
    async def scene() -> None:
        bench = Bench()
        bench.fleet.update([bench.fleet.endpoint(0)], 0.0)
        for at, name in enumerate("ab"):
            bench.now = float(at)
            await bench.want(name)
        bench.adapters.begins("p", "e0", "a")  # `a` is older, and in use
        bench.now = 2.0
        await bench.want("c")
        assert bench.posts[2:] == [("e0", UNLOAD, "b"), ("e0", LOAD, "c")]
        assert bench.fleet.offers.of(0) == {"base", "a", "c"}
        bench.adapters.ends("p", "e0", "a")
        bench.now = 3.0
        await bench.want("b")
        assert bench.posts[4:] == [("e0", UNLOAD, "a"), ("e0", LOAD, "b")]

    run(scene)


def test_what_cannot_be_loaded_is_refused_with_the_servers_words_and_tried_again_later() -> None:
    async def scene() -> None:
        bench = Bench()
        bench.answer = Page(404, b'{"error": "no such adapter path"}')
        for _ in range(3):
            with pytest.raises(HeadwayError) as caught:
                await bench.want("a")
            assert caught.value.status == 503 and "no such adapter path" in caught.value.message
        assert len(bench.posts) == 1
        bench.now, bench.answer = FORGET + 1.0, Page(400, b"the adapter 'a' has already been loaded")
        assert await bench.want("a") == "e0", "a server that has it has it"
        bench.answer = UpstreamError("connecting was refused", cause="refused")
        with pytest.raises(HeadwayError) as caught:
            await bench.want("b")
        assert caught.value.code == "adapter_not_loaded"

    run(scene)


def test_a_second_one_gets_it_when_the_first_is_much_busier_and_nobody_waits() -> None:
    async def scene() -> None:
        bench = Bench()
        await bench.want("a")
        bench.fleet.ours[0] = bench.fleet.requests[0] = SPREAD + 1.0
        bench.gate.clear()
        await bench.want("a")
        await asyncio.sleep(0)
        assert bench.posts[-1] == ("e1", LOAD, "a") and bench.fleet.offers.having("a") == [0]
        bench.gate.set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert bench.fleet.offers.having("a") == [0, 1]

    run(scene)


def test_what_somebody_waits_for_is_not_unloaded_before_its_turn() -> None:
    async def scene() -> None:
        bench = Bench()
        bench.fleet.update([bench.fleet.endpoint(0)], 0.0)
        bench.adapters.wants("a")  # it has the adapter, and still waits for a place
        for at, name in enumerate("abc"):
            bench.now = float(at)
            await bench.want(name)
        assert bench.posts[2:] == [("e0", UNLOAD, "b"), ("e0", LOAD, "c")]
        bench.adapters.leaves("a")
        await bench.want("b")
        assert bench.posts[4:] == [("e0", UNLOAD, "a"), ("e0", LOAD, "b")]

    run(scene)


def test_a_pool_without_the_adapter_gets_no_request_but_the_adapter() -> None:
    async def scene() -> None:
        bench = Bench()
        assert bench.adapters.has("p", "base") and not bench.adapters.has("p", "a")
        assert not bench.adapters.has("p", "a"), "it is being loaded"
        for _ in range(5):
            await asyncio.sleep(0)
        assert bench.adapters.has("p", "a") and bench.posts == [("e0", LOAD, "a")]

    run(scene)


def test_a_load_that_fails_where_it_would_help_is_not_tried_with_every_request() -> None:
    async def scene() -> None:
        bench = Bench()
        await bench.want("a")
        bench.fleet.ours[0] = bench.fleet.requests[0] = SPREAD + 1.0
        bench.answer = Page(500, b"out of memory")
        for _ in range(5):
            await bench.want("a")
            for _ in range(5):
                await asyncio.sleep(0)
        assert bench.posts == [("e0", LOAD, "a"), ("e1", LOAD, "a")]

    run(scene)


def test_a_server_that_has_forgotten_it_gets_it_again_and_a_client_cannot_ask_for_that_all_the_time() -> None:
    async def scene() -> None:
        bench = Bench()
        await bench.want("a")
        for _ in range(5):
            bench.adapters.begins("p", "e0", "a")
            bench.adapters.ends("p", "e0", "a", 404)
            await bench.want("a")
        assert [post[1] for post in bench.posts] == [LOAD, LOAD]
        assert not bench.adapters._running, "names and endpoints come and go"

    run(scene)
