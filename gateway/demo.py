"""The verb `demo`: the main job with nothing else installed. Simulated model servers of different speed, a gateway in
front of them, light traffic, and a table of where requests go and why; until Ctrl-C.

The idea: nothing is staged. The servers and the gateway are the programs `headway sim` and `headway serve`, started as
anybody would start them, with a configuration file that can be edited while they run. The simulated GPUs run at a
fraction of their speed, so that a few requests a second are a real load for them and no load for this machine.

Left to others: the programs' lives (`demo_children`), the requests (`demo_traffic`, `demo_batch`), what is shown
(`demo_table`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from gateway import VERSION, demo_batch
from gateway.demo_children import Child, DemoError, start, wait_for_byte
from gateway.demo_table import Screen, Tally, render
from gateway.demo_traffic import Traffic, ask_json
from gateway.sockets import VARIABLE, bind

HOST = "127.0.0.1"
PORT, ADMIN_PORT = 8080, 9090  # where they are free
MODEL = "llama-3.1-8b"
GPUS = ("h100", "h100", "a100", "l40s")
SPEED = 0.25
RATE = 4.0  # requests a second
START_WITHIN = 60.0  # seconds
EVERY_SHOWN, EVERY_PRINTED = 1.0, 5.0  # seconds between tables: on a terminal, elsewhere


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=_positive, metavar="N", help="stop by itself after N seconds of traffic")
    parser.add_argument("--rate", type=_positive, default=RATE, metavar="R",
                        help="requests a second (default %(default)g)")  # fmt: skip
    parser.add_argument("--pick", default="predicted_latency", metavar="POLICY",
                        help="who gets a request (default %(default)s); try round_robin beside it")  # fmt: skip


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 1e6:
        raise ValueError
    return value


def run(args: argparse.Namespace) -> int:
    """Run until Ctrl-C or for `--seconds`. 0 ended as asked, 1 something could not start or stopped by itself."""
    try:
        with TemporaryDirectory(prefix="headway-demo-") as where:
            return asyncio.run(_run(args, Path(where)))
    except (DemoError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # whoever read our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"headway demo: {error}", file=sys.stderr)
        return 1


async def _run(args: argparse.Namespace, where: Path) -> int:
    """The demo and the wait for a signal, whichever ends first; then everything it started is stopped."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    demo = Demo(args, where)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(demo.stop)
        await _first_of(demo.run(), stop.wait())
        print("\nstopping ...", flush=True)
    print(demo.summary(), flush=True)
    return 0


async def _first_of(*coroutines: Coroutine[object, object, object]) -> None:
    """Wait for one to end, cancel the others, raise what the one raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


class Demo:
    """One demo. `run` it, then `stop` it whatever happened."""

    def __init__(self, args: argparse.Namespace, where: Path):
        self._args = args
        self._file = where / "gateway.yaml"
        self._where = where
        self._tally = Tally(time.monotonic())
        self._children: list[Child] = []
        self._client, self._admin = _claim(PORT), _claim(ADMIN_PORT)
        self._port, self._admin_port = (int(sock.getsockname()[1]) for sock in (self._client, self._admin))
        self._traffic = Traffic(HOST, self._port, MODEL, args.rate, Random(1))

    async def run(self) -> None:
        """Start everything, show it. Raises DemoError when a program of ours ends by itself."""
        try:
            async with asyncio.timeout(START_WITHIN):
                servers = await self._start_servers()
                await self._start_gateway(servers)
        except TimeoutError:
            raise DemoError(f"not everything was up within {START_WITHIN:.0f} s: is this machine very busy?") from None
        print(self._greeting(servers), flush=True)
        await _first_of(self._traffic.run(), self._show(), *(child.wait_for_death() for child in self._children))

    async def stop(self) -> None:
        for child in reversed(self._children):
            await child.stop()
        self._client.close()
        self._admin.close()

    def summary(self) -> str:
        return f"stopped. {self._traffic.answered} requests answered, {self._traffic.failed} failed."

    # --- starting ------------------------------------------------------------------------------------------------

    async def _start_servers(self) -> list[str]:
        """The simulated servers, all in one process. Their URLs, in the order of GPUS."""
        urls: asyncio.Queue[str] = asyncio.Queue()

        def on_line(line: str) -> None:
            words = line.split()
            if len(words) > 2 and words[0] == "sim":
                urls.put_nowait(words[2])

        words = ["sim", "--speed", str(SPEED), "--mean-output", "120"]
        for gpu in GPUS:
            words += ["--profile", f"{gpu}_{MODEL}_bf16_tp1"]
        child = await start("the simulated servers", words, on_line)
        self._children.append(child)
        found: list[str] = []

        async def collect() -> None:
            while len(found) < len(GPUS):
                found.append(await urls.get())

        await _first_of(collect(), child.wait_for_death())
        return found

    async def _start_gateway(self, servers: list[str]) -> None:
        """The gateway, on sockets that are open already: whoever comes early waits, nobody is refused."""
        self._file.write_text(self._configuration(servers))
        ready, told = os.pipe()
        descriptors = [self._client.fileno(), self._admin.fileno(), told]
        try:
            child = await start(
                "the gateway", ["serve", "-c", str(self._file)], self._on_gateway_line, descriptors,
                {VARIABLE: ",".join(map(str, descriptors))},
            )  # fmt: skip
        finally:
            os.close(told)
        self._children.append(child)
        if not await wait_for_byte(ready):
            await child.wait_for_death()

    def _on_gateway_line(self, line: str) -> None:
        """Count a line of the request log. Whatever else a program says is its last words, should it stop."""
        with contextlib.suppress(ValueError):
            fields = json.loads(line)
            if isinstance(fields, dict) and fields.get("event") == "request" and fields["method"] == "POST":
                self._tally.note(fields, time.monotonic())

    def _configuration(self, servers: list[str]) -> str:
        endpoints = "".join(
            f"      - {{url: {url}, labels: {{gpu: {gpu}}}}}\n" for url, gpu in zip(servers, GPUS, strict=True)
        )
        return (
            f"# Written by `headway demo`. Edit and save: the gateway reloads it.\nversion: 1\n"
            f"listen: {HOST}:{self._port}\nadmin: {HOST}:{self._admin_port}\ndrain: {{delay: 0s}}\n"
            f"pools:\n  gpus:\n    engine: vllm\n    pick: {self._args.pick}\n    endpoints:\n{endpoints}"
            f"models:\n  {MODEL}: {{to: gpus, aliases: [gpt-4o-mini]}}\n"
            f"jobs: {{store: sqlite:jobs.db}}  # work that can wait is kept there\n"
        )

    # --- showing -------------------------------------------------------------------------------------------------

    def _greeting(self, servers: list[str]) -> str:
        client, admin = f"http://{HOST}:{self._port}", f"http://{HOST}:{self._admin_port}"
        batch = demo_batch.write(self._where, client, MODEL)
        chat = {"model": MODEL, "stream": True, "max_tokens": 20, "messages": [{"role": "user", "content": "hello"}]}
        taken = [f"Port {wanted} is taken, so the {what} listens on {port}.\n"
                 for wanted, port, what in ((PORT, self._port, "gateway"), (ADMIN_PORT, self._admin_port, "admin page"))
                 if wanted != port]  # fmt: skip
        return f"""Headway {VERSION}: a gateway on {client}, {len(GPUS)} simulated GPUs behind it
that serve {MODEL} at {SPEED:.0%} of their real speed, and {self._args.rate:g} requests a second.
{"".join(taken)}
  chat       curl -sN {client}/v1/chat/completions -H 'content-type: application/json' \\
               -d '{json.dumps(chat)}'
  batch      sh {batch}  # {demo_batch.LINES} requests that can wait
  queues     curl -s {admin}/api/queues; curl -s {admin}/api/jobs
  models     curl -s {client}/v1/models
  servers    curl -s {admin}/api/endpoints
  metrics    curl -s {admin}/metrics
  why there? {self._explain()} demo-1
  freeze one curl -s {servers[-1]}/sim/fault -d '{{"kind": "hang", "for": 30}}'
  reload     edit and save {self._file}
  Ctrl-C     stops everything
"""

    async def _show(self) -> None:
        """Draw the table again and again, for as long as was asked."""
        is_terminal = sys.stdout.isatty()
        screen = Screen(_write, is_terminal)
        until = time.monotonic() + (self._args.seconds or float("inf"))
        while (left := until - time.monotonic()) > 0.0:
            await asyncio.sleep(min(left, EVERY_SHOWN if is_terminal else EVERY_PRINTED))
            try:
                endpoints = (await ask_json(HOST, self._admin_port, "/api/endpoints"))["pools"]["gpus"]
                jobs = await ask_json(HOST, self._admin_port, "/api/jobs")
            except (OSError, EOFError, ValueError, KeyError):
                continue  # between two gateways, or the pool was renamed in the file
            size = shutil.get_terminal_size()
            screen.show(render(self._tally, endpoints, jobs, time.monotonic()), size.columns, size.lines)

    def _explain(self) -> str:
        """The command that explains a request, as this one was called."""
        own = Path(sys.argv[0]).name
        python = os.path.relpath(sys.executable)
        command = own if own == "headway" else f"{python if not python.startswith('..') else sys.executable} -m gateway"
        where = "" if self._admin_port == ADMIN_PORT else f" --admin http://{HOST}:{self._admin_port}"
        return f"{command} explain{where}"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _claim(port: int) -> socket.socket:
    """A listening socket on this port, or on any where it is taken."""
    try:
        return bind(HOST, port)
    except OSError:
        return bind(HOST, 0)
