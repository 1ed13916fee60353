"""The demo's programs: what is started is stopped, and one that ends by itself is noticed."""

import asyncio
import os

import pytest

from gateway import demo_children
from gateway.demo_children import DemoError, start, wait_for_byte


async def test_lines_of_a_child_are_read_and_its_end_is_told_with_its_last_words() -> None:
    lines: list[str] = []
    child = await start("the checker", ["check", "/nonexistent.yaml"], lines.append)
    with pytest.raises(DemoError, match=r"the checker stopped:(.|\n)*nonexistent\.yaml"):
        await child.wait_for_death()
    await child.stop()
    assert any("nonexistent.yaml" in line for line in lines)


async def test_a_stopped_child_leaves_nobody_in_its_group() -> None:
    ready = asyncio.Event()
    words = ["sim", "--profile", "h100_llama-3.1-8b_bf16_tp1"]
    child = await start("a server", words, lambda line: ready.set())
    await asyncio.wait_for(ready.wait(), 60.0)
    watch = asyncio.create_task(child.wait_for_death())
    await child.stop()
    await child.stop()  # twice is once
    with pytest.raises(DemoError):
        await watch
    with pytest.raises(ProcessLookupError):
        os.killpg(child._process.pid, 0)


async def test_a_child_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_children, "GRACE", 0.0)
    child = await start("a server", ["sim", "--profile", "h100_llama-3.1-8b_bf16_tp1"], lambda line: None)
    await child.stop()
    assert child._process.returncode is not None


@pytest.mark.parametrize(("sent", "result"), [(b"1", True), (b"0", False), (b"", False)])
async def test_a_pipe_tells_ready_or_gone(sent: bytes, result: bool) -> None:
    ready, told = os.pipe()
    os.write(told, sent)
    os.close(told)
    assert await wait_for_byte(ready) is result
