"""What the evidence shares: simulated servers, a gateway before them, what they cost, and how a verdict is printed.

Everything started here is a child process that is stopped by its own id when the `with` block ends, whatever happened.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.machine import cpu_seconds, machine, resident_mib
from tests.bench.rounds import BUSIEST, LAG, Bar
from tests.bench.subjects import ROOT, Running, start, stop, wait_until_listening
from tests.support.ports import free_port, free_ports

PROFILE = "a100_llama-3.1-8b_bf16_tp1"
MODEL = "llama-3.1-8b"
CAPACITY = 9.1  # requests a second of the azure_conv_2023 trace that one such server completes (the data's README)
SHARED = Path(__file__).resolve().parents[3] / "shared"


def parse(about: str, argv: Sequence[str] | None, add: Callable[[argparse.ArgumentParser], None] | None = None,
          ) -> argparse.Namespace:  # fmt: skip
    """The command line of every evidence: `--short` and what `add` adds. Prints what runs, and on what."""
    name = Path(sys.modules["__main__"].__file__ or "evidence").stem if argv is None else "evidence"
    parser = argparse.ArgumentParser(prog=f"python -m tests.evidence.{name}", description=about.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a few seconds; times are printed and not judged")
    if add is not None:
        add(parser)
    options = parser.parse_args(argv)
    print(about.splitlines()[0])
    print(f"machine: {machine()}; load average {os.getloadavg()[0]:.1f} at the start", flush=True)
    return options


def conclude(counted: Sequence[Bar], timed: Sequence[Bar] = (), short: bool = False) -> int:
    """Print every bar; the exit code. In the short form times are only shown: the machine may be busy."""
    for bar in counted:
        print(bar)
    for bar in timed:
        print(f"shown {bar.what}: {bar.figure:.2f}{bar.unit} (bar of the full form: {bar.limit:g})" if short else bar)
    kept = all(bar.kept for bar in counted) and (short or all(bar.kept for bar in timed))
    print("PASS" if kept else "FAIL", flush=True)
    return 0 if kept else 1


# --- asking running programs -----------------------------------------------------------------------------------------


def fetch(url: str, body: object = None, timeout: float = 5.0) -> Any:
    """The JSON of a GET, or with `body` of a POST. Raises OSError; an error status is `urllib.error.HTTPError`."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=timeout) as answer:
        text = answer.read()
    return json.loads(text) if text else None


async def fetch_beside(url: str, body: object = None) -> Any:
    """`fetch` without stopping the event loop."""
    return await asyncio.to_thread(fetch, url, body)


def wait_for(what: str, true: Callable[[], bool], patience: float = 20.0) -> None:
    """Return when `true()`; SystemExit when it is not within `patience` seconds."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            if true():
                return
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.05)
    raise SystemExit(f"waited {patience:g} s in vain: {what}")


async def poll(true: Callable[[], bool], patience: float, every: float = 0.02) -> bool:
    """Wait until `true()`; False when it is not within `patience` seconds."""
    until = time.monotonic() + patience
    while not true():
        if time.monotonic() > until:
            return False
        await asyncio.sleep(every)
    return True


@contextmanager
def folder() -> Iterator[Path]:
    """A directory for one run, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="headway-evidence-") as name:
        yield Path(name)


# --- simulated servers -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Sim:
    """One simulated model server in a process of its own."""

    port: int
    command: list[str]
    where: Path
    running: Running

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.running.process.pid

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = fetch(f"{self.url}/sim/state")
        return found

    def fault(self, kind: str, **more: object) -> None:
        fetch(f"{self.url}/sim/fault", {"kind": kind, **more})

    def kill(self) -> None:
        """kill -9, and collect it."""
        self.running.process.send_signal(signal.SIGKILL)
        self.running.process.wait()

    def restart(self) -> None:
        """A new process on the same port, listening."""
        self.running = start(f"sim {self.port}", self.command, self.port, self.where)
        wait_until_listening(self.running, self.where)


@contextmanager
def simulators(count: int, where: Path, speed: float = 1.0, *more: str) -> Iterator[list[Sim]]:
    """`count` simulated A100 servers, each in its own process, listening."""
    made: list[Sim] = []
    try:
        for number in range(count):
            port, place = free_port(), where / f"sim{number}"
            command = [sys.executable, "-m", "backends.sim", "--profile", PROFILE, "--port", str(port),
                       "--speed", str(speed), "--seed", str(number), *more]  # fmt: skip
            made.append(Sim(port, command, place, start(f"sim {port}", command, port, place)))
        for sim in made:
            wait_until_listening(sim.running, sim.where)
        yield made
    finally:
        for sim in made:
            stop(sim.running)


@contextmanager
def cheap_servers(count: int, idle: float = 0.0) -> Iterator[tuple[Running, list[int]]]:
    """The evidence's own upstream (`tests.evidence.upstream`): the process and its ports."""
    command = [sys.executable, "-m", "tests.evidence.upstream", str(count), str(idle)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    running = Running("upstream", 0, process)
    try:
        assert process.stdout is not None
        yield running, [int(port) for port in process.stdout.readline().split()]
    finally:
        stop(running)


# --- the gateway -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Gateway:
    """A running gateway: its ports, its configuration file and its log."""

    port: int
    admin: int
    file: Path
    where: Path
    running: Running
    read_to: int = 0  # of the log
    told: list[bytes] = field(default_factory=list)  # its lines but those of requests

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.running.process.pid

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of one name in its log so far. Each call reads only what is new: a request has a line too."""
        with (self.where / "log").open("rb") as log:
            log.seek(self.read_to)
            new = log.read()
        whole = new.rfind(b"\n") + 1
        self.read_to += whole
        self.told += [line for line in new[:whole].splitlines() if b'"event":"request"' not in line]
        return [json.loads(line[line.index(b"{") :]) for line in self.told if b'"event":"%b"' % name.encode() in line]

    def metric(self, name: str) -> float:
        """The sum of a metric's series."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def configuration(port: int, admin: int, urls: Sequence[str], model: str = MODEL, slo: Mapping[str, str] | None = None,
                  top: Mapping[str, object] | None = None, **pool: object) -> dict[str, Any]:  # fmt: skip
    """A configuration of one pool and one model, with what the model promises.

    `pool` are further keys of the pool, `top` of the whole.
    """
    return {
        **(top or {}),
        "version": 1,
        "listen": f"127.0.0.1:{port}",
        "admin": f"127.0.0.1:{admin}",
        "drain": {"delay": "0s", "timeout": "30s"},
        "pools": {"main": {"engine": "vllm", "endpoints": list(urls), "pick": "least_tokens", **pool}},
        "models": {model: {"to": "main", "slo": dict(slo or {})}},
    }


@contextmanager
def gateway(where: Path, urls: Sequence[str], model: str = MODEL, file: Path | None = None,
            slo: Mapping[str, str] | None = None, top: Mapping[str, object] | None = None,
            **pool: object) -> Iterator[Gateway]:  # fmt: skip
    """A gateway in front of these servers, ready."""
    where.mkdir(parents=True, exist_ok=True)
    port, admin = free_ports(2)
    file = file or where / "headway.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(configuration(port, admin, urls, model, slo, top, **pool), indent=1))  # JSON is YAML
    running = start("headway", [sys.executable, "-m", "gateway", "serve", "-c", str(file)], port, where)
    try:
        wait_until_listening(running, where)
        wait_for("readiness", lambda: fetch(f"http://127.0.0.1:{admin}/readyz")["status"] == "ready")
        yield Gateway(port, admin, file, where, running)
    finally:
        stop(running)


# --- what processes cost ---------------------------------------------------------------------------------------------


def rss_mib(pid: int) -> float:
    """Resident memory of one process."""
    return resident_mib([pid])


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@dataclass(slots=True)
class Shares:
    """Shares of a core that processes use: mean over the run, and the busiest second. `async with` it."""

    pids: Mapping[str, Callable[[], int]]
    busiest: dict[str, float] = field(default_factory=dict)
    mean: dict[str, float] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Shares:
        self._task = asyncio.create_task(self._sample())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _sample(self) -> None:
        spent, wall = dict.fromkeys(self.pids, 0.0), 0.0
        while True:
            before, began = self._read(), time.monotonic()
            await asyncio.sleep(1.0)
            after, took = self._read(), time.monotonic() - began
            wall += took
            for name in self.pids:
                used = max(0.0, after[name] - before[name])  # less than nothing: the process is a new one
                spent[name] += used
                self.busiest[name] = max(self.busiest.get(name, 0.0), used / took)
                self.mean[name] = spent[name] / wall

    def _read(self) -> dict[str, float]:
        found = {}
        for name, pid in self.pids.items():
            try:
                found[name] = cpu_seconds([pid()])
            except OSError:  # not there at the moment
                found[name] = 0.0
        return found

    def show(self) -> None:
        told = (f"{name} {self.mean[name]:.0%} (busiest second {self.busiest[name]:.0%})" for name in self.mean)
        print("shares of a core: " + ", ".join(told))


def counts(shares: Shares, lag: float) -> list[Bar]:
    """The bars a real-time run has to keep to count at all: nobody short of CPU, and the client on time (s, p99)."""
    return [Bar("busiest process, share of a core, mean", max(shares.mean.values(), default=0.0), BUSIEST),
            Bar("client's start lag p99, ms", lag * 1e3, LAG * 1e3)]  # fmt: skip
