"""`headway serve` as a process: its signals, its restarts, and how it fails to start."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from tests.support.client import Client, chat, post
from tests.support.loop import on_uvloop, until
from tests.support.ports import free_port
from tests.support.process import Serving, run
from tests.support.upstream import SSE_HEAD, Line, Received, Upstream, chunk

TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}'
FILE = """version: 1
listen: 127.0.0.1:0
admin: 127.0.0.1:0
drain: {{delay: {delay}, timeout: {timeout}}}
pools:
  p: {{engine: http, endpoints: ["{url}"]}}
models:
  {model}: {{to: p}}
"""


def write(folder: Path, up: Upstream, *, delay: str = "200ms", timeout: str = "20s", model: str = "m") -> str:
    path = folder / "headway.yaml"
    path.write_text(FILE.format(url=up.url, delay=delay, timeout=timeout, model=model))
    return str(path)


class Streams:
    """Streams of one token, a gate, and another token."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def __call__(self, line: Line, request: Received) -> bool:
        if b'"stream"' not in request.body:
            await line.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            return True
        await line.send(SSE_HEAD + chunk(TOKEN + b"\n\n"))
        await self.gate.wait()
        await line.send(chunk(TOKEN + b"\n\n") + b"0\r\n\r\n")
        return True


async def served(client: Client, model: str) -> None:
    """Wait until this model is known."""
    for _ in range(1000):
        if (await client.ask(body=chat(model))).status == 200:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{model} did not come")


def test_sigterm_lets_streams_finish_and_exits_0(tmp_path: Path) -> None:
    @on_uvloop
    async def body() -> None:
        streams = Streams()
        async with Upstream(streams) as up, Serving("-c", write(tmp_path, up)) as gateway:
            async with Client(gateway.port) as client, Client(gateway.port) as other:
                assert (await other.get("/readyz")).status == 200
                client.send(post(chat(stream=True)))
                await client.head()
                gateway.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.1)
                assert (await other.get("/readyz")).status == 503
                streams.gate.set()
                assert await client._chunks() == ((TOKEN + b"\n\n") * 2, True)
            assert await gateway.end() == 0
            assert any("stopped" in line for line in gateway.said)

    body()


def test_sigterm_cuts_what_does_not_finish_with_an_error_event(tmp_path: Path) -> None:
    @on_uvloop
    async def body() -> None:
        async with Upstream(Streams()) as up:
            file = write(tmp_path, up, delay="0s", timeout="300ms")
            async with Serving("-c", file) as gateway, Client(gateway.port) as client:
                client.send(post(chat(stream=True)))
                await client.head()
                gateway.process.send_signal(signal.SIGTERM)
                said, is_whole = await client._chunks()
                assert said.startswith(TOKEN + b'\n\ndata: {"error":') and not is_whole
                assert await gateway.end() == 0

    body()


def test_saving_the_file_and_sighup_reload_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    @on_uvloop
    async def body() -> None:
        async with (
            Upstream(Streams()) as up,
            Serving("-c", write(tmp_path, up)) as gateway,
            Client(gateway.port) as client,
        ):
            assert (await client.ask(body=chat("m"))).status == 200
            write(tmp_path, up, model="renamed")
            gateway.process.send_signal(signal.SIGHUP)
            await served(client, "renamed")
            assert (await client.ask(body=chat("m"))).status == 404
            (tmp_path / "headway.yaml").write_text("version: 1\npools: {p: {engin: http}}\n")
            gateway.process.send_signal(signal.SIGHUP)
            await until(lambda: any("reload_refused" in line for line in gateway.said))
            assert (await client.ask(body=chat("renamed"))).status == 200
            write(tmp_path, up, model="third")  # saved, and no signal
            await served(client, "third")

    body()


def test_a_reloaded_drain_delay_counts(tmp_path: Path) -> None:
    @on_uvloop
    async def body() -> None:
        async with Upstream() as up, Serving("-c", write(tmp_path, up, delay="5m")) as gateway:
            async with Client(gateway.port) as client:
                write(tmp_path, up, delay="0s", model="renamed")
                await served(client, "renamed")
            gateway.process.send_signal(signal.SIGTERM)
            assert await gateway.end() == 0

    body()


def test_sigusr2_hands_the_socket_over_and_no_request_fails(tmp_path: Path) -> None:
    @on_uvloop
    async def body() -> None:
        streams = Streams()
        async with Upstream(streams) as up, Serving("-c", write(tmp_path, up)) as gateway:
            statuses: list[int] = []
            is_over = False

            async def load() -> None:
                while not is_over:  # a connection for each: none may be refused or reset
                    async with Client(gateway.port) as client:
                        statuses.append((await client.ask()).status)

            workers = [asyncio.create_task(load()) for _ in range(2)]
            async with Client(gateway.port) as client:
                client.send(post(chat(stream=True)))
                await client.head()
                for number in (1, 2):
                    os.kill(gateway.processes[-1], signal.SIGUSR2)
                    await gateway.greeting(number + 1)
                streams.gate.set()
                assert await client._chunks() == ((TOKEN + b"\n\n") * 2, True)
            assert await gateway.end() == 0
            is_over = True
            await asyncio.gather(*workers)
            assert set(statuses) == {200} and len(statuses) > 20 and len(set(gateway.processes)) == 3

    body()


def test_a_successor_that_cannot_start_leaves_the_old_process_serving(tmp_path: Path) -> None:
    @on_uvloop
    async def body() -> None:
        async with (
            Upstream(Streams()) as up,
            Serving("-c", write(tmp_path, up)) as gateway,
            Client(gateway.port) as client,
        ):
            (tmp_path / "headway.yaml").write_text("nonsense")
            gateway.process.send_signal(signal.SIGUSR2)
            await until(lambda: any("restart_failed" in line for line in gateway.said), "the failed restart")
            assert (await client.ask()).status == 200 and gateway.process.returncode is None

    body()


def test_what_cannot_start_says_why_and_exits_1(tmp_path: Path) -> None:
    @on_uvloop
    async def body() -> None:
        bad = tmp_path / "bad.yaml"
        bad.write_text("version: 1\npools:\n  p: {engin: http}\nmodels: {}\n")
        code, said = await run("serve", "-c", str(bad))
        assert code == 1 and "bad.yaml:3" in said and "engin" in said and "Traceback" not in said
        code, said = await run("serve", "-c", str(tmp_path / "absent.yaml"))
        assert code == 1 and "absent.yaml" in said and "Traceback" not in said
        async with Upstream() as up:
            taken = tmp_path / "taken.yaml"
            taken.write_text(FILE.format(url=up.url, delay="0s", timeout="1s", model="m").replace(
                "listen: 127.0.0.1:0", f"listen: 127.0.0.1:{up.port}"))  # fmt: skip
            code, said = await run("serve", "-c", str(taken))
            assert code == 1 and f"127.0.0.1:{up.port}" in said and "Traceback" not in said
        assert (await run("serve"))[0] == 2
        code, said = await run("serve", "--to", f"http://127.0.0.1:{free_port()}", "--workers", "2")
        assert code == 2 and "not in this version" in said

    body()
