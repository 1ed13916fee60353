"""The verb `canary`: asked of a real admin listener, and what it prints."""

from __future__ import annotations

import asyncio
import json
import socket
from argparse import ArgumentParser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from gateway.admin_rollouts import RolloutPages
from gateway.rollouts import cli
from gateway.rollouts.words import explain_lines
from tests.support.rollouts import NAME, World, config, route


@asynccontextmanager
async def listening(w: World) -> AsyncIterator[str]:
    """The admin listener's pages of canaries, on a port of their own."""
    app = web.Application()
    RolloutPages(SimpleNamespace(canaries=w.canaries)).add_to(app.router)  # type: ignore[arg-type]
    runner = web.AppRunner(app)
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, sock).start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        await runner.cleanup()


def said(w: World, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """What `headway canary WORDS` returns, prints, and complains of."""

    async def main() -> int:
        async with listening(w) as admin:
            parser = ArgumentParser()
            cli.add_arguments(parser)
            args = parser.parse_args([*words, "--admin", admin])
            return await asyncio.to_thread(cli.run, args)

    code = asyncio.run(main())
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def world(tmp_path: Path) -> World:
    w = World(tmp_path)
    w.boot()
    w.settle()
    return w


def test_status_tells_where_the_only_canary_stands(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run(20)
    code, out, err = said(world, capsys, "status")
    assert (code, err) == (0, "")
    assert out.startswith(f"{NAME}: running at step 1 of 3, 5 % of the requests, says not yet: ")
    assert "stable -> old, 95 %: " in out and "next (canary) -> new, 5 %: " in out
    assert "time to first token" in out


def test_pause_resume_abort_and_restart_do_what_they_say(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    sequence = {"pause": "is paused", "resume": "is running", "promote": "is promoted", "abort": "is rolled back",
                "restart": "begins anew"}  # fmt: skip
    for verb, told in (*sequence.items(), ("abort", "is rolled back")):
        code, out, err = said(world, capsys, verb, "--why", "a test")
        assert (code, err) == (0, "")
        assert out.startswith(f"{NAME} {told}\n")
    assert any(line["told"].endswith(": a test") for line in world.history() if line["kind"] == "abort")


def test_a_name_with_slashes_and_brackets_finds_its_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    w = World(tmp_path)
    w.boot(config(models={"meta/llama 3": (route(),), "b": (route("x"),)}))
    code, out, _ = said(w, capsys, "pause", "meta/llama 3/routes[0]")
    assert code == 0 and out.startswith("meta/llama 3/routes[0] is paused")
    assert said(w, capsys, "status", "meta/llama 3")[0] == 0
    code, out, _ = said(w, capsys, "status")
    assert [line.split(": ")[0] for line in out.splitlines()] == ["meta/llama 3/routes[0]", "b/x"]


def test_what_cannot_be_done_is_said_with_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    w = World(tmp_path)
    w.boot(config(models={"a": (route("blue"), route("green"))}))
    assert said(w, capsys, "pause") == (1, "", "canary: which one? a/blue, a/green\n")
    assert said(w, capsys, "pause", "red") == (1, "", "canary: no such canary: 'red'; there is a/blue, a/green\n")
    code, _, err = said(w, capsys, "resume", "blue")
    assert code == 1 and err == "canary: a/blue: resume is not possible: the canary is running\n"
    w.boot(config(models={}))
    assert said(w, capsys, "status") == (0, "no canary is configured\n", "")
    assert said(w, capsys, "abort")[2] == "canary: no canary is configured: no route has a `canary:`\n"


def test_json_is_what_the_listener_answers(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    found: Any = json.loads(said(world, capsys, "status", "--json")[1])
    assert found["canary"]["name"] == NAME and found["history"]


def test_a_listener_that_is_not_there_or_another_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    cli.add_arguments(parser)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    assert cli.run(parser.parse_args(["status", "--admin", f"http://127.0.0.1:{port}"])) == 1
    assert "no answer from the admin listener" in capsys.readouterr().err
    assert cli.run(parser.parse_args(["status", "--admin", "localhost"])) == 2


def test_explain_tells_the_arm_and_how_its_canary_does(world: World) -> None:
    world.run(5)
    routed = {"rule": "routes[0]", "arm": "next", "drawn": 0.0312, "user": "", "forced": False}
    views: Any = world.canaries.views()["canaries"]
    lines = explain_lines(routed, views)
    assert lines[0] == "arm `next` of routes[0]: drawn (0.0312 of 1)"
    assert lines[1].startswith("it is the canary; now running at step 1 of 3")
    assert explain_lines({**routed, "arm": ""}, views) == []
    assert "the canary beside it is `next`" in explain_lines({**routed, "arm": "stable", "user": "ab"}, views)[1]
    assert explain_lines({**routed, "forced": True}, []) == [
        "arm `next` of routes[0]: forced by its header (0.0312 of 1)"
    ]
