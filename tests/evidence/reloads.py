"""Random edits of the file of a running gateway: nothing half applied, nothing failed.

A gateway with rules, splits, mirrors and a canary serves plain answers and streams while its file is rewritten again
and again: with one of four good files, or with one of them after random edits (`tests.support.mutating`), by a rename,
in place, or in place in pieces; then POST /api/reload, SIGHUP, or nothing but the gateway's own look at the file. What
each text must lead to is worked out here with the same loader: its own configuration, or the one before.

Bars: 0 failed requests; whenever the gateway is asked, its configuration is one of the whole ones that were written
(every value of it, not only the digest); every good text comes into use, every bad one is refused with a line number.

Edits that are valid and would rightly hurt (another port, another model's name) are left out: what they do is what the
file says. `Edits.is_harmless` says which those are.

    python -m tests.evidence.reloads [--short] [--edits N] [--seed N]
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
import urllib.error
from collections import Counter
from collections.abc import Sequence
from typing import Any

import uvloop

from gateway.config.types import Config
from gateway.describe import masked
from tests.bench.rounds import Bar
from tests.evidence.closed_loop import Tally, Worker, make_ask
from tests.evidence.edits import MODEL, Edits, encoded
from tests.evidence.support import Gateway, cheap_servers, conclude, fetch_beside, folder, gateway, parse


class Writer:
    """Writes texts over the file of a running gateway, and sees to what each leads."""

    def __init__(self, running: Gateway, edits: Edits):
        self.running = running
        self.edits = edits
        self.allowed: dict[str, Any] = {}
        self.looks = 0
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.slowest = 0.0
        self._now = ""

    async def shown(self) -> Any:
        """What the gateway says its configuration is, which must be a whole one."""
        found = await fetch_beside(f"http://127.0.0.1:{self.running.admin}/api/config")
        self.looks += 1
        if found != self.allowed.get(found["digest"]):
            self.wrong.append(f"shows {found['digest'][:12]}, which is no whole configuration that was written")
        return found["digest"]

    async def look_on(self) -> None:
        """Ask again and again, also in the middle of a reload."""
        while True:
            await self.shown()
            await asyncio.sleep(0.05)

    def allow(self, config: Config) -> None:
        self.allowed[config.digest] = json.loads(json.dumps(masked(config)))

    async def start(self) -> None:
        """From the configuration that it was started with to the first good one."""
        first = self.edits.read(self.running.file.read_text())
        assert first is not None
        self.allow(first)
        self._now = await self.shown()
        await self.write(self.edits.good[0], self.edits.read(self.edits.good[0]))

    async def write(self, text: str, config: Config | None) -> None:
        """One text, by one of the ways; what must come of it comes, or is noted as wrong."""
        draw, began, before = self.edits.draw, time.monotonic(), self._now
        if config is not None:
            self.allow(config)
        wanted = before if config is None else config.digest
        await self._put(text, draw.choice(("rename", "in place", "in pieces")))
        way = draw.choice(("POST", "POST", "POST", "SIGHUP", "look"))
        refused = await self._tell(way)
        if way == "POST" and (refused is None) != (config is not None):
            self.wrong.append(f"{'refused' if refused else 'taken'} by {way}: {text!r} {refused}")
        if refused is not None and not re.search(r":\d+:\d+: .", refused):
            self.wrong.append(f"refused without line and column: {refused}")
        while wanted != before and await self.shown() != wanted:
            if time.monotonic() - began > 8.0:
                self.wrong.append(f"not in use 8 s after {way}: {text!r}")
                return
            await asyncio.sleep(0.02)
        self._now = wanted
        self.slowest = max(self.slowest, time.monotonic() - began)
        kind = "refused" if config is None else "same" if wanted == before else "taken"
        self.outcomes[f"{kind} ({way})"] += 1

    async def _put(self, text: str, how: str) -> None:
        data, file = encoded(text), self.running.file
        if how == "rename":
            file.with_name("new").write_bytes(data)
            os.replace(file.with_name("new"), file)
            return
        middle = self.edits.draw.randrange(len(data) + 1) if how == "in pieces" else 0
        if self.edits.read(data[:middle].decode("utf-8", "replace")) is not None:
            middle = 0  # half of it would be a file of its own, and be rightly used
        with file.open("wb", buffering=0) as out:  # an editor, or a copy over a slow line, caught in the middle
            out.write(data[:middle])
            await asyncio.sleep(0.05 if middle else 0.0)
            out.write(data[middle:])

    async def _tell(self, way: str) -> str | None:
        """Have the file read again; what it was refused with, where that is told."""
        if way == "POST":
            try:
                await fetch_beside(f"http://127.0.0.1:{self.running.admin}/api/reload", {})
            except urllib.error.HTTPError as error:
                with error:
                    return str(json.loads(error.read())["error"].get("problems"))
        elif way == "SIGHUP":
            os.kill(self.running.pid, signal.SIGHUP)
            await asyncio.sleep(0.1)
        else:
            await asyncio.sleep(1.3)  # two looks at the file that agree
        return None


def workers(port: int, tally: Tally) -> list[Worker]:
    """Light load: plain answers and streams, with and without a connection that is kept."""
    plain, stream = make_ask(), make_ask(tokens=25)
    return [*(Worker(port, lambda: plain, tally, keep=n % 2 == 0, think=0.05) for n in range(6)),
            *(Worker(port, lambda: stream, tally, keep=n % 2 == 0, think=0.05) for n in range(4))]  # fmt: skip


async def everything(running: Gateway, ports: Sequence[int], count: int, seed: int, short: bool) -> int:
    edits = Edits(running, ports, seed)
    writer, tally, going = Writer(running, edits), Tally(), True
    await writer.start()
    load = asyncio.gather(*(worker.run(lambda: going) for worker in workers(running.port, tally)))
    watching, began = asyncio.create_task(writer.look_on()), time.monotonic()
    try:
        for _ in range(count):
            await writer.write(*edits.next())
    finally:
        going = False
        await load
        watching.cancel()
    took, outcomes = time.monotonic() - began, dict(sorted(writer.outcomes.items()))
    for line in writer.wrong[:20]:
        print(line)
    print(f"{count} edits in {took:.0f} s: {outcomes}; {writer.looks} looks, {len(writer.allowed)} whole "
          f"configurations; {tally.total} requests, failed {dict(tally.failures)}", flush=True)  # fmt: skip
    missing = {"refused", "taken"} - {kind.split()[0] for kind in outcomes}
    counted = [Bar(f"failed of {tally.total} requests", tally.failed, 0),
               Bar("configurations half applied, good ones not in use, bad ones not refused", len(writer.wrong), 0),
               Bar("kinds of outcome that did not occur", len(missing), 0),
               Bar("exits of the gateway", int(running.running.process.poll() is not None), 0)]  # fmt: skip
    return conclude(counted, [Bar("slowest to be in use, s", writer.slowest, 5.0)], short)


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: object) -> None:
        parser.add_argument("--edits", type=int, default=500)  # type: ignore[attr-defined]
        parser.add_argument("--seed", type=int, default=5)  # type: ignore[attr-defined]

    options = parse(__doc__ or "", argv, add)
    count = 25 if options.short else options.edits
    with folder() as where, cheap_servers(4) as (_, ports):
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        with gateway(where / "headway", urls, MODEL) as running:
            return uvloop.run(everything(running, ports, count, options.seed, options.short))


if __name__ == "__main__":
    sys.exit(main())
