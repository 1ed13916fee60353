"""An endpoints file: each change once, and the last good set through everything bad."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from gateway.config.endpoints_file import parse_endpoints
from gateway.config.files import changes
from gateway.discovery.file import File


def follow(contents: list[bytes | None]) -> tuple[File, list[str]]:
    async def one_by_one(path: str) -> AsyncIterator[bytes | None]:
        assert path == "f"
        for content in contents:
            yield content

    said: list[str] = []
    parse = partial(parse_endpoints, source="f", env={})
    return File("p", "vllm", said.append, path="f", contents=one_by_one, parse=parse), said


async def urls(source: File) -> list[list[str]]:
    return [[endpoint.url for endpoint in one] async for one in source.watch()]


async def test_each_change_gives_the_whole_set() -> None:
    source, said = follow([b"http://a", b"http://a\nhttp://b", b"# same\nhttp://a\nhttp://b", b"http://b"])
    assert await urls(source) == [["http://a:80"], ["http://a:80", "http://b:80"], ["http://b:80"]]
    assert said == []


async def test_a_bad_or_missing_file_keeps_the_last_good_set_and_says_why() -> None:
    source, said = follow([b"http://a", b"nonsense", None, b"[]", b"\xff", b"http://b"])
    assert await urls(source) == [["http://a:80"], ["http://b:80"]]
    assert len(said) == 4
    assert all("the last good set stays" in line for line in said)
    assert "f:1:1: a list is expected" in said[0]


async def test_a_file_that_was_never_good_gives_an_empty_set_at_first() -> None:
    source, _ = follow([None, b"nonsense", b"http://a"])
    assert await urls(source) == [[], ["http://a:80"]]


async def test_it_follows_a_real_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("http://a")
    parse = partial(parse_endpoints, source="f", env={})
    source = File("p", "vllm", print, path=str(path), contents=partial(changes, every=0.002), parse=parse)
    sets = source.watch()
    assert [endpoint.id for endpoint in await anext(sets)] == ["a:80"]
    path.write_text("http://b")
    assert [endpoint.id for endpoint in await anext(sets)] == ["b:80"]
    await sets.aclose()
