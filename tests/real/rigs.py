"""Starting and finding what is tested: real model servers by their scripts, and Headway in front of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.sockets import VARIABLE, bind
from tests.bench.machine import tree
from tests.bench.subjects import ROOT, Running, start, stop, wait_until_listening
from tests.real.ask import ask
from tests.support.ports import free_ports

DEFAULT = ROOT.parent / "shared" / "rigs"
START = 300.0  # seconds a server may take to start


def end_on_sigterm() -> None:
    """A command that is told to stop unwinds, so that what it started is stopped too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class Report:
    """Prints each check as it is decided, with its figures, and counts."""

    def __init__(self) -> None:
        self.passed = self.failed = 0

    def check(self, name: str, ok: bool, figures: object = "") -> bool:
        self.passed += ok
        self.failed += not ok
        print(f"{'PASS' if ok else 'FAIL'}  {name}" + (f": {figures}" if figures != "" else ""), flush=True)
        return ok

    def verdict(self) -> int:
        print(f"\n{self.passed} passed, {self.failed} failed", flush=True)
        return 1 if self.failed else 0


class Script:
    """A script that starts and stops one kind of server on a port."""

    def __init__(self, folder: Path, name: str, env: Mapping[str, str]):
        self.path = folder / name
        self._env = env

    def missing(self) -> str:
        """Why it cannot be used, or nothing."""
        if not self.path.is_file():
            return f"{self.path} is not there: name the folder of the start scripts with --rigs, or servers with --urls"
        return ""

    def start(self, port: int, *flags: str) -> str:
        """The URL, once it is ready. Raises SystemExit with what the script said."""
        try:
            done = subprocess.run([str(self.path), "start", str(port), *flags], env={**os.environ, **self._env},
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START)  # fmt: skip
        except subprocess.TimeoutExpired:
            self.stop(port)
            raise SystemExit(f"{self.path.name} on port {port} is not ready after {START:g} s") from None
        if done.returncode:
            raise SystemExit(f"{self.path.name} start {port} failed:\n{(done.stdout + done.stderr)[-2000:]}")
        return f"http://127.0.0.1:{port}"

    def stop(self, port: int) -> None:
        subprocess.run([str(self.path), "stop", str(port)], capture_output=True, timeout=60)


def processes(port: int) -> list[int]:
    """The processes of the server that listens on a port, the listening one first."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and int(fields[1].partition(":")[2], 16) == port:
            inodes.add(f"socket:[{fields[9]}]")
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            held = {os.readlink(link.path) for link in os.scandir(f"/proc/{entry}/fd")}
        except OSError:
            continue
        if held & inodes:
            found.append(int(entry))
    if not found:
        raise SystemExit(f"no process of ours listens on port {port}")
    return tree(min(found))


def engine_core(port: int) -> int:
    """The process in which a vLLM server computes."""
    for pid in processes(port):
        if "EngineCore" in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "):
            return pid
    raise SystemExit(f"the server on port {port} has no process called EngineCore")


def kill(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


@dataclass(frozen=True, slots=True)
class Headway:
    """A running gateway: where clients and operators find it, and what it wrote."""

    url: str
    admin: str
    log: Path

    async def endpoints(self, pool: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await ask(self.admin, "/api/endpoints")).json["pools"][pool]
        return found

    async def endpoint(self, pool: str, url: str) -> dict[str, Any]:
        return next(one for one in await self.endpoints(pool) if one["url"] == url)

    def lines(self, event: str = "request") -> list[dict[str, Any]]:
        """Log lines of one kind so far."""
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if line.get("event") == event]


@contextmanager
def headway(where: Path, config: Mapping[str, Any]) -> Iterator[Headway]:
    """A gateway with this configuration; listeners, a quick drain and a version are added."""
    port, admin = free_ports(2)
    where.mkdir(parents=True, exist_ok=True)
    file = where / "headway.yaml"
    whole = {"version": 1, "listen": f"127.0.0.1:{port}", "admin": f"127.0.0.1:{admin}",
             "drain": {"delay": "0s", "timeout": "1s"}, **config}  # fmt: skip
    file.write_text(json.dumps(whole, indent=1))  # JSON is YAML
    running = start("headway", [sys.executable, "-m", "gateway", "serve", "-c", str(file)], port, where)
    try:
        wait_until_listening(running, where)
        yield Headway(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}", where / "log")
    finally:
        stop(running)


@contextmanager
def headway_to(where: Path, urls: Sequence[str]) -> Iterator[Headway]:
    """`headway serve --to URL...`. Its default ports may be taken: it gets its sockets as a restart hands them on."""
    where.mkdir(parents=True, exist_ok=True)
    sockets = [bind("127.0.0.1", 0) for _ in range(2)]
    ready, told = os.pipe()
    handed = [*(sock.fileno() for sock in sockets), told]
    with (where / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--to", *urls], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, text=True, pass_fds=handed,
            env={**os.environ, VARIABLE: ",".join(map(str, handed))},
        )  # fmt: skip
    os.close(told)
    port, admin = (sock.getsockname()[1] for sock in sockets)
    try:
        if os.read(ready, 1) != b"1":
            raise SystemExit(f"headway serve --to failed:\n{(where / 'log').read_text()[-2000:]}")
        yield Headway(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}", where / "log")
    finally:
        os.close(ready)
        for sock in sockets:
            sock.close()
        stop(Running("headway", port, process))
