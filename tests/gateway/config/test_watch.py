"""A file that changes, in all the ways files are changed, is noticed once; one that only looks different is not."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from gateway.config.files import changes, read_regular
from gateway.config.watch import watch

EVERY = 0.002


async def next_of(contents: AsyncGenerator[bytes | None, None]) -> bytes | None:
    return await asyncio.wait_for(anext(contents), 10)


async def stays_quiet(contents: AsyncGenerator[bytes | None, None], looks: int = 10) -> "asyncio.Task[bytes | None]":
    """A pending wait for the next change, after several looks at a file that should not count as changed."""
    waiting = asyncio.ensure_future(anext(contents))
    for _ in range(looks):
        await asyncio.sleep(EVERY)
    assert not waiting.done()
    return waiting


async def test_every_way_to_change_a_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one")
    contents = changes(str(path), every=EVERY)
    assert await next_of(contents) == b"one"
    path.write_bytes(b"two")  # overwritten in place, same size
    assert await next_of(contents) == b"two"
    (tmp_path / "new").write_bytes(b"three")
    os.replace(tmp_path / "new", path)  # renamed over
    assert await next_of(contents) == b"three"
    path.unlink()
    assert await next_of(contents) is None
    path.write_bytes(b"four")
    assert await next_of(contents) == b"four"
    await contents.aclose()


async def test_a_swapped_symlink_counts_even_further_up(tmp_path: Path) -> None:
    """As Kubernetes mounts config maps: f -> ..data/f, and ..data is swapped."""
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_bytes(name.encode())
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "f").symlink_to("..data/f")
    contents = changes(str(tmp_path / "f"), every=EVERY)
    assert await next_of(contents) == b"v1"
    (tmp_path / "..new").symlink_to("v2")
    os.replace(tmp_path / "..new", tmp_path / "..data")
    assert await next_of(contents) == b"v2"
    await contents.aclose()


async def test_a_touched_file_has_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one")
    contents = changes(str(path), every=EVERY)
    await next_of(contents)
    os.utime(path, (1, 1))
    waiting = await stays_quiet(contents)
    path.write_bytes(b"two")
    assert await asyncio.wait_for(waiting, 10) == b"two"
    await contents.aclose()


async def test_only_so_much_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    contents = changes(str(path), 3, every=EVERY)
    assert await next_of(contents) == b"123"
    await contents.aclose()


async def test_watching_the_configuration_tells_only_of_changes(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one")
    events = watch(str(path), EVERY)
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(EVERY * 10)
    assert not waiting.done()
    path.write_bytes(b"two")
    assert await asyncio.wait_for(waiting, 10) is None
    await events.aclose()


async def test_a_change_before_the_first_look_is_told_to_who_knows_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"two")
    events = watch(str(path), EVERY, used=lambda: b"one")
    assert await asyncio.wait_for(anext(events), 10) is None
    await events.aclose()


async def test_a_file_that_is_what_it_was_but_not_what_is_used_has_changed(tmp_path: Path) -> None:
    """Changed, read by somebody else, and changed back between two looks."""
    path = tmp_path / "f"
    path.write_bytes(b"one")
    used = b"one"
    events = watch(str(path), EVERY, used=lambda: used)
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(EVERY * 10)
    used = b"two"
    assert not waiting.done()  # nobody has touched it
    (tmp_path / "new").write_bytes(b"one")
    os.replace(tmp_path / "new", path)
    assert await asyncio.wait_for(waiting, 10) is None
    await events.aclose()


async def test_a_change_that_somebody_else_has_read_already_is_none(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one")
    used = b"one"
    events = watch(str(path), EVERY, used=lambda: used)
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(EVERY * 10)
    used = b"two"
    path.write_bytes(b"two")
    await asyncio.sleep(EVERY * 20)
    assert not waiting.done()
    path.unlink()
    assert await asyncio.wait_for(waiting, 10) is None
    await events.aclose()


def test_pipes_devices_and_folders_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError):
            read_regular(str(path), 10)
