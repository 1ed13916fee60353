"""Adapters: loaded once where there is most room, used where they are, let go when others need their place."""

from __future__ import annotations

import asyncio
import json
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.adapters import AWAY, FORGET, LOAD, SPREAD, UNLOAD, Adapters
from gateway.config.types import Config, Lora, Pool, model_to
from gateway.core.errors import HeadwayError, NoEndpoint, UpstreamError
from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.types import Endpoint
from gateway.fetch import Page
from gateway.prober import LEFT

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
        self.paths: list[str] = []
        self.configure()

    def configure(self, path: str = LORA.path or "") -> None:
        """Three adapters, `a` from this path."""
        lora = {"a": Lora(path, most=2), "b": LORA, "c": LORA, **{f"n{number}": LORA for number in range(6)}}
        models = {name: model_to(name, "p", lora=lora[name]) for name in lora}
        self.adapters.reconfigure(Config({"p": Pool("p")}, models))

    def candidates(self, name: str) -> list[str]:
        """Whom a request for it may be sent to."""
        snapshot = self.fleet.snapshot(1.0, needs=name)
        return [self.fleet.endpoint(int(row)).id for row in snapshot.rows]

    async def post(self, pool: str, endpoint: Endpoint, path: str, body: bytes) -> Page:
        told = json.loads(body)
        self.posts.append((endpoint.id, path, told["lora_name"]))
        self.paths += [told["lora_path"]] if path == LOAD else []
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
            bench.adapters.is_forgotten("p", "e0", "a")
            bench.adapters.ends("p", "e0", "a")
            await bench.want("a")
        assert [post[1] for post in bench.posts] == [LOAD, LOAD]
        assert not bench.adapters._uses._running, "names and endpoints come and go"

    run(scene)


def test_an_adapter_that_nobody_has_any_longer_is_served_by_nobody() -> None:
    """Who waited for its place was sent anywhere when the only one that had the adapter had left: 404."""

    async def scene() -> None:
        bench = Bench()
        await bench.want("a")
        assert bench.candidates("a") == ["e0"]
        bench.fleet.offers.unlearn(0, "a")
        for name in ("a", "b"):
            with pytest.raises(NoEndpoint):
                bench.candidates(name)
        assert bench.candidates("base") == bench.candidates("whatever") == ["e0", "e1"]

    run(scene)


def test_many_adapters_that_are_asked_for_at_once_are_spread() -> None:
    """Loads that had not ended were not counted, so all of them went to one endpoint."""

    async def scene() -> None:
        bench = Bench()
        bench.fleet.requests[1] = 1.0
        bench.gate.clear()
        waiting = [asyncio.create_task(bench.want(f"n{number}")) for number in range(4)]
        for _ in range(3):
            await asyncio.sleep(0)
        bench.gate.set()
        await asyncio.gather(*waiting)
        assert sorted(bench.posts) == [("e0", LOAD, "n0"), ("e0", LOAD, "n2"), ("e1", LOAD, "n1"), ("e1", LOAD, "n3")]

    run(scene)


def test_those_that_are_on_their_way_need_room_too() -> None:
    async def scene() -> None:
        bench = Bench()
        bench.fleet.update([bench.fleet.endpoint(0)], 0.0)
        for at, name in enumerate("ab"):
            bench.now = float(at)
            await bench.want(name)
        bench.gate.clear()
        waiting = [asyncio.create_task(bench.want(name)) for name in ("n0", "n1")]
        for _ in range(3):
            await asyncio.sleep(0)
        bench.gate.set()
        await asyncio.gather(*waiting)
        assert bench.fleet.offers.of(0) == {"base", "n0", "n1"}, "at most two"

    run(scene)


def test_no_server_for_a_moment_is_not_remembered_for_long() -> None:
    """A reload takes the pool's endpoints out of sight for a moment, and requests were refused for ten seconds."""

    async def scene() -> None:
        bench = Bench()
        bench.answer = UpstreamError("the model server has left the pool", cause=LEFT)
        with pytest.raises(HeadwayError):
            await bench.want("a")
        bench.now, bench.answer = AWAY, Page(200, b"ok")
        assert await bench.want("a") == "e0"

    run(scene)


def test_what_cannot_be_unloaded_does_not_stop_what_is_to_be_loaded() -> None:
    async def scene() -> None:
        bench = Bench()
        bench.fleet.update([bench.fleet.endpoint(0)], 0.0)
        for at, name in enumerate("ab"):
            bench.now = float(at)
            await bench.want(name)
        post = bench.post

        async def failing(pool: str, endpoint: Endpoint, path: str, body: bytes) -> Page:
            page = await post(pool, endpoint, path, body)
            if path == UNLOAD:
                raise UpstreamError("the page took too long", cause="timeout")
            return page

        bench.adapters._post = failing
        assert await bench.want("c") == "e0"
        assert bench.posts[2:] == [("e0", UNLOAD, "a"), ("e0", LOAD, "c")]

    run(scene)
