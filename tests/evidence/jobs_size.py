"""A batch of 50,000 lines and 200 MB: memory stays small, and interactive traffic beside it hardly notices.

Interactive streams go to one model server all the time, at a steady rate, first alone and then while the file is
uploaded, validated, run (on another model server) and its output read. Added is what a first token takes through the
gateway beyond what the model server itself takes. Bars: resident memory under 300 MB at any moment; every line has its
answer; added time, median over all phases of the batch, within 10 % of that without (and within a tenth of a
millisecond, which is where the clock of a shared machine ends).

    python -m tests.evidence.jobs_size [--short] [--lines N] [--bytes N]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

import uvloop

from tests.bench.rounds import Bar
from tests.bench.subjects import ROOT
from tests.evidence.jobs_support import ENDED, Gateway, asked, batch_of, content, line, model_server, upload
from tests.evidence.support import Shares, cheap_servers, conclude, counts, fetch, folder, parse, rss_mib

RATE = 40.0  # interactive streams a second
FIRST = 0.02  # seconds to the model server's first token
TOKENS = 4
PAUSE = 0.02  # seconds that a line takes at its model server
AT_ONCE = 6  # lines there at once
KEPT = 30.0  # seconds that an unused connection is good for
PATIENCE = 900.0
LEAST = 1e-4  # seconds that are no difference

T = TypeVar("T")


@dataclass(slots=True)
class People:
    """Interactive streams, one after another at a steady rate, whether or not those before have ended."""

    port: int
    model: str
    seen: dict[str, list[float]] = field(default_factory=dict)  # first tokens by phase, seconds
    lags: list[float] = field(default_factory=list)
    failed: int = 0
    phase: str = "alone"
    idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def run(self) -> None:
        due, tasks = time.monotonic(), set[asyncio.Task[None]]()
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.lags.append(time.monotonic() - due)
            task = asyncio.create_task(self.one(self.phase))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due += 1.0 / RATE

    async def one(self, phase: str) -> None:
        reader, writer = await self.connection()
        messages = [{"role": "user", "content": "hi"}]
        body = json.dumps({"model": self.model, "stream": True, "messages": messages}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-bench: %d 1000 %g\r\n" % (TOKENS, FIRST)
        began = time.perf_counter()
        writer.write(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"data: ")
            took = time.perf_counter() - began
            await reader.readuntil(b"\r\n0\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError):
            self.failed += 1
            return
        self.failed += not head.startswith(b"HTTP/1.1 200")
        self.seen.setdefault(phase, []).append(took - FIRST)
        self.idle.append((time.monotonic(), reader, writer))

    async def connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One that was used lately, or a new one: the gateway closes those that are not used."""
        while self.idle:
            since, reader, writer = self.idle.pop()
            if time.monotonic() - since < KEPT:
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self.port)


@dataclass(slots=True)
class Trial:
    gateway: Gateway
    people: People
    direct: People
    lines: int
    size: int
    peak: float = 0.0

    async def run(self, seconds: float) -> tuple[str, int, dict[str, float]]:
        """The batch's status, how many lines were answered, and how long each phase took."""
        watching = asyncio.create_task(self.watch())
        direct = asyncio.create_task(self.direct.run())
        await asyncio.sleep(seconds)
        direct.cancel()
        people = asyncio.create_task(self.people.run())
        await asyncio.sleep(seconds)
        url, took = self.gateway.url, dict[str, float]()
        file = await self.during("upload", took, lambda: self.upload_apart())
        batch = await self.during("validation", took, lambda: self.wait(batch_of(url, file), ("in_progress", *ENDED)))
        await self.during("run", took, lambda: self.wait(batch, ENDED))
        said = await asyncio.to_thread(fetch, f"{url}/v1/batches/{batch}")
        answers = await self.during("download", took, lambda: content(url, said["output_file_id"]))
        people.cancel()
        watching.cancel()
        return said["status"], len({one["custom_id"] for one in answers}), took

    async def during(self, phase: str, took: dict[str, float], work: Callable[[], T]) -> T:
        began, self.people.phase = time.monotonic(), phase
        done = await asyncio.to_thread(work)
        took[phase] = time.monotonic() - began
        return done

    def upload_apart(self) -> str:
        """From a process of its own: making 200 MB here would disturb those whose times are taken."""
        command = [sys.executable, "-m", "tests.evidence.jobs_size", "--upload", self.gateway.url,
                   "--lines", str(self.lines), "--bytes", str(self.size)]  # fmt: skip
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    def wait(self, batch: str, until: Sequence[str]) -> str:
        end = time.monotonic() + PATIENCE
        while asked(f"{self.gateway.url}/v1/batches/{batch}")["status"] not in until and time.monotonic() < end:
            time.sleep(0.2)
        return batch

    async def watch(self) -> None:
        while True:
            self.peak = max(self.peak, rss_mib(self.gateway.running.process.pid))
            await asyncio.sleep(0.1)


def judge(lines: int, size: int, short: bool) -> int:
    with folder() as where, ExitStack() as stack:
        server = stack.enter_context(model_server())
        fetch(f"{server}/pause", {"seconds": PAUSE})
        _, ports = stack.enter_context(cheap_servers(1))
        gateway = Gateway.made(where / "gateway", server, f"sqlite:{where / 'jobs.db'}", max_concurrency=AT_ONCE,
                               interactive=f"http://127.0.0.1:{ports[0]}")  # fmt: skip
        stack.callback(gateway.stop)
        trial = Trial(gateway, People(gateway.port, "bench"), People(ports[0], "bench"), lines, size)
        return report(trial, *uvloop.run(shared(trial, 3.0 if short else 30.0)), short)


async def shared(trial: Trial, seconds: float) -> tuple[str, int, dict[str, float], Shares]:
    async with Shares({"gateway": lambda: trial.gateway.running.process.pid}) as shares:
        return *await trial.run(seconds), shares


def report(trial: Trial, status: str, answered: int, took: dict[str, float], shares: Shares, short: bool) -> int:
    direct = median(trial.direct.seen["alone"])
    added = {phase: [each - direct for each in seen] for phase, seen in trial.people.seen.items()}
    for phase, seen in added.items():
        late = sorted(seen)[int(0.95 * len(seen))]
        print(f"{phase:10} {took.get(phase, 0.0):6.1f} s, {len(seen):5} streams: added to the first token "
              f"{median(seen) * 1e3:.2f} ms (median), {late * 1e3:.2f} ms (p95)")  # fmt: skip
    shares.show()
    alone = median(added.pop("alone"))
    meanwhile = median([each for seen in added.values() for each in seen])
    lag = sorted(trial.people.lags)[int(0.99 * len(trial.people.lags))]
    counted = [Bar("lines without an answer", trial.lines - answered, 0),
               Bar("batch not completed", float(status != "completed"), 0),
               Bar("resident memory at its most, MB", trial.peak * 1.048576, 300.0),
               Bar("interactive streams that failed", trial.people.failed, 0)]  # fmt: skip
    bar = max(1.1 * alone, alone + LEAST)
    timed = [Bar("added to the first token beside the batch, ms", meanwhile * 1e3, bar * 1e3), *counts(shares, lag)]
    return conclude(counted, timed, short)


def send(url: str, lines: int, size: int) -> int:
    """Make the file, upload it, print its id."""
    padding = "x" * (size // lines - len(line(lines)) - 1)
    print(upload(url, b"".join(line(number, " " + padding) for number in range(lines))))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--lines", type=int, default=50_000)
        parser.add_argument("--bytes", type=int, default=200_000_000)

    if argv is None and "--upload" in sys.argv:
        _, _, url, _, lines, _, size = sys.argv
        return send(url, int(lines), int(size))
    options = parse(__doc__ or "", argv, add)
    if options.short:
        return judge(1000, 4_000_000, True)
    return judge(options.lines, options.bytes, False)


if __name__ == "__main__":
    sys.exit(main())
