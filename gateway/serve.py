"""The verb `serve`: one gateway process from its first socket to its last, and the signals in between.

SIGTERM drains and ends, SIGINT does so without the delay, SIGHUP reloads, SIGUSR2 starts the next process on the
inherited sockets and, once that one serves, drains this one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from gateway import VERSION
from gateway.app import Gateway
from gateway.config.loader import Loaded
from gateway.config.problems import ConfigError
from gateway.config.types import Config
from gateway.config.watch import watch
from gateway.logs import Events, Output, RequestLog
from gateway.sockets import VARIABLE, Inherited, bind, spawn_successor
from gateway.source import ConfigSource

TAKE_OVER = 60.0  # seconds the next process has to start serving


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("-c", "--config", metavar="FILE", help="the configuration")
    source.add_argument("--to", nargs="+", metavar="URL", help="model servers, instead of a file")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="worker processes (only 1 in this version)")


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop. 0 stopped as asked, 1 could not start, 2 bad usage."""
    if args.workers != 1:
        print("headway serve: --workers other than 1 is not in this version", file=sys.stderr)
        return 2
    try:
        source = ConfigSource(args.config, args.to or ())
        loaded = source.load()
    except (ConfigError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    try:
        return uvloop.run(_serve(args, source, loaded))
    except (OSError, ValueError, ssl.SSLError) as error:
        print(f"headway serve: {error}", file=sys.stderr)
        return 1


async def _serve(args: argparse.Namespace, source: ConfigSource, loaded: Loaded) -> int:
    config = loaded.config
    inherited = Inherited(os.environ)
    os.environ.pop(VARIABLE, None)
    sockets = inherited.sockets or [
        bind(config.listen.host, config.listen.port), bind(config.admin.host, config.admin.port)
    ]  # fmt: skip
    output = Output(1)
    events = Events(output, config.log.level)
    gateway = Gateway(loaded, source, RequestLog(output, config.log.level), events)
    # The listeners get copies: the originals are what a successor inherits, whatever has been closed by then.
    await gateway.start(sockets[0].dup(), sockets[1].dup())
    _calm_the_collector()
    inherited.say_ready()
    _greet(sockets, config)
    process = Process(gateway, sockets, events)
    process.listen()
    reloader = asyncio.create_task(_reload_on_change(args, gateway, source))
    delay, timeout = await process.wait_for_end()
    reloader.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reloader
    await gateway.drain(delay, timeout)
    events.log("info", "stopped")
    output.close()
    return 0


def _calm_the_collector() -> None:
    """What exists now stays: no need to look at it again. What requests leave behind is mostly freed by counting, so
    the search for cycles may wait longer; with the usual threshold it runs every dozen requests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 20)


async def _reload_on_change(args: argparse.Namespace, gateway: Gateway, source: ConfigSource) -> None:
    if args.config is None:
        return
    async for _ in watch(args.config, used=source.used):
        await gateway.reload()


def _greet(sockets: list[socket.socket], config: Config) -> None:
    scheme = "https" if config.listen.tls is not None else "http"
    shown = [f"{host}:{port}" for host, port in (sock.getsockname()[:2] for sock in sockets)]
    text = f"headway {VERSION}: serving {scheme}://{shown[0]}, admin http://{shown[1]}, process {os.getpid()}\n"
    sys.stderr.write(text)  # in one piece, line end included: the process before us may be logging to the same place
    sys.stderr.flush()


class Process:
    """Signals to actions. `wait_for_end` returns how to drain: (delay, timeout) in seconds."""

    def __init__(self, gateway: Gateway, sockets: list[socket.socket], events: Events):
        self._gateway = gateway
        self._sockets = sockets
        self._events = events
        self._end: asyncio.Future[tuple[float, float]] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_restarting = False

    def listen(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._finish, True)
        loop.add_signal_handler(signal.SIGINT, self._finish, False)
        loop.add_signal_handler(signal.SIGHUP, self._start, self._reload)
        loop.add_signal_handler(signal.SIGUSR2, self._start, self._restart)

    async def wait_for_end(self) -> tuple[float, float]:
        return await self._end

    def _finish(self, waits: bool) -> None:
        if not self._end.done():
            drain = self._gateway.config.drain  # of now: a reload may have changed it
            self._end.set_result((drain.delay if waits else 0.0, drain.timeout))

    def _start(self, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.get_running_loop().create_task(action())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self) -> None:
        await self._gateway.reload()

    async def _restart(self) -> None:
        """Start the next process; when it serves, this one drains. If it fails, this one goes on."""
        if self._is_restarting or self._end.done():
            return
        self._is_restarting = True
        process, ready = spawn_successor(self._sockets)
        try:
            serves = await asyncio.wait_for(_wait_for_byte(ready), TAKE_OVER)
        except TimeoutError:
            serves = False
        finally:
            os.close(ready)
            self._is_restarting = False
        if serves:
            self._events.log("info", "handed_over", to=process.pid)
            self._finish(False)
        else:
            self._events.log("error", "restart_failed", process=process.pid)
            await _end(process)


async def _wait_for_byte(descriptor: int) -> bool:
    """True when a byte comes, False when the other end closes without one."""
    loop = asyncio.get_running_loop()
    os.set_blocking(descriptor, False)
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, 1) == b"1"


async def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    await asyncio.get_running_loop().run_in_executor(None, process.wait)
