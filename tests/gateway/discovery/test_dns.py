"""A name's addresses: changes, names that vanish, resolvers that fail or hang, and answers nobody should follow."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from gateway.discovery.dns import Dns, resolve

GONE = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
BROKEN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


class Script:
    """A resolver that gives one answer after another, and a clock that goes on 10 s with each."""

    def __init__(self, *answers: list[str] | Exception) -> None:
        self.answers: Iterator[list[str] | Exception] = iter(answers)
        self.now = 0.0
        self.said: list[str] = []

    def clock(self) -> float:
        return self.now

    def resolve(self, name: str, port: int) -> list[str]:
        self.now += 10.0
        answer = next(self.answers, None)
        if answer is None:
            self.over.get_loop().call_soon_threadsafe(lambda: self.over.done() or self.over.set_result(None))
            raise BROKEN
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def play(self) -> list[list[str]]:
        """Every set until the script is over."""
        sets: list[list[str]] = []
        given = {"name": "m", "port": 80, "every": 0.0, "resolve": self.resolve, "clock": self.clock}
        source = Dns("p", "vllm", self.said.append, **given)  # type: ignore[arg-type]
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def follow() -> None:
            async for one in source.watch():
                sets.append([endpoint.url for endpoint in one])

        following = asyncio.ensure_future(follow())
        await asyncio.wait_for(self.over, 10)
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        return sets


async def test_each_change_of_addresses_gives_the_whole_set() -> None:
    script = Script(["10.0.0.1"], ["10.0.0.1"], ["10.0.0.1", "fd00::1"], ["10.0.0.2"])
    assert await script.play() == [
        ["http://10.0.0.1:80"], ["http://10.0.0.1:80", "http://[fd00::1]:80"], ["http://10.0.0.2:80"]]  # fmt: skip


async def test_a_name_that_vanishes_keeps_its_addresses_for_a_minute() -> None:
    script = Script(["10.0.0.1"], *[GONE] * 6, ["10.0.0.1"], *[GONE] * 8)
    assert await script.play() == [["http://10.0.0.1:80"], []]
    assert [line.partition(" m ")[2] for line in script.said[:3]] == [
        "does not exist, its last addresses stay for 60 s",
        "does not exist, its last addresses stay for 60 s",
        "has not existed for 60 s, its addresses are dropped",
    ]


async def test_a_resolver_that_cannot_answer_changes_nothing_however_long() -> None:
    script = Script(["10.0.0.1"], *[BROKEN] * 20, ["10.0.0.2"])
    assert await script.play() == [["http://10.0.0.1:80"], ["http://10.0.0.2:80"]]
    assert len([line for line in script.said if "cannot be resolved" in line]) <= 2


async def test_a_name_that_never_was_gives_an_empty_set_at_first() -> None:
    assert await Script(GONE, ["10.0.0.1"]).play() == [[], ["http://10.0.0.1:80"]]


async def test_addresses_of_the_clouds_metadata_are_left_out_and_told() -> None:
    script = Script(["10.0.0.1", "169.254.169.254"])
    assert await script.play() == [["http://10.0.0.1:80"]]
    assert "leads to 169.254.169.254, which no model server can have" in script.said[0]


async def test_a_hanging_resolver_delays_nothing_but_its_answer() -> None:
    release = threading.Event()

    def hang(name: str, port: int) -> list[str]:
        release.wait(30)
        return ["10.0.0.1"]

    source = Dns("p", "vllm", print, name="m", port=80, resolve=hang)
    first = asyncio.ensure_future(anext(source.watch()))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not first.done()
    release.set()
    assert [endpoint.url for endpoint in await asyncio.wait_for(first, 10)] == ["http://10.0.0.1:80"]


def test_an_answer_that_comes_after_the_loop_is_gone_harms_nobody() -> None:
    release, started = threading.Event(), threading.Event()

    def hang(name: str, port: int) -> list[str]:
        started.set()
        release.wait(30)
        return []

    async def give_up() -> None:
        waiting = asyncio.ensure_future(anext(Dns("p", "v", print, name="m", port=80, resolve=hang).watch()))
        await asyncio.to_thread(started.wait, 10)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting

    asyncio.run(give_up())
    release.set()
    for thread in threading.enumerate():
        if thread.name == "headway-resolver":
            thread.join(10)
            assert not thread.is_alive()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_systems_resolver_is_asked(name: str) -> None:
    assert set(resolve(name, 80)) & {"127.0.0.1", "::1"}
