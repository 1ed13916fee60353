"""Reloads under load: 200 good ones with endpoints coming and going, then the bad files, and nobody notices.

8 clients that keep their connection, 8 that do not, 8 with streams. The file is replaced by a rename, by a symlink
swap, or with SIGHUP or POST /api/reload after it. Bars: 0 failed requests; open files and memory as they were, within
5 %; each of the 18 bad files refused (one line that names the line of the defect, one count, the old configuration
kept) under load, and at a start (exit status not 0 within 5 s, with file, line and kind).

    python -m tests.evidence.reload [--short] [--reloads N]
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import uvloop

from tests.bench.rounds import Bar
from tests.bench.subjects import ROOT
from tests.evidence.closed_loop import Tally, Worker, make_ask
from tests.evidence.support import (
    SHARED,
    Gateway,
    cheap_servers,
    conclude,
    configuration,
    fetch_beside,
    folder,
    gateway,
    open_files,
    parse,
    poll,
    rss_mib,
)

BAD = SHARED / "http_corpus" / "yaml_bad"
WAYS = ("rename", "symlink", "SIGHUP", "POST")
PICKS = ("least_tokens", "least_inflight", "round_robin", "power_of_two")


class Editor:
    """Changes the configuration of a running gateway, whose file lies behind a symlink to a folder."""

    def __init__(self, running: Gateway, ports: Sequence[int]):
        self.running = running
        self.ports = list(ports)
        self._draw = Random(3)
        self._link = running.file.parent
        self._folders = 0
        self.slowest = 0.0

    def text(self, ports: Sequence[int], **pool: object) -> bytes:
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        wanted = configuration(self.running.port, self.running.admin, urls, "bench", **pool)
        return json.dumps(wanted, indent=1).encode()

    def rename(self, content: bytes) -> None:
        """Replace the file in one step."""
        new = self._link.resolve() / "new"
        new.write_bytes(content)
        os.replace(new, self.running.file)

    def swap(self, content: bytes) -> None:
        """Point the symlink to another folder in one step, as mounted config maps do."""
        self._folders += 1
        target = self._link.parent / f"folder{self._folders}"
        target.mkdir()
        (target / self.running.file.name).write_bytes(content)
        new = self._link.parent / "new-link"
        new.symlink_to(target)
        os.replace(new, self._link)

    async def change(self, way: str, ports: Sequence[int], pick: str, tries: int) -> bool:
        """One good reload; True when it is in use within 20 s."""
        content, began = self.text(ports, pick=pick, retry={"tries": tries}), time.monotonic()
        (self.swap if way == "symlink" else self.rename)(content)
        if way == "SIGHUP":
            os.kill(self.running.pid, signal.SIGHUP)
        elif way == "POST":
            await fetch_beside(f"http://127.0.0.1:{self.running.admin}/api/reload", {})
        wanted = {f"http://127.0.0.1:{port}" for port in ports}
        while time.monotonic() - began < 20.0:
            used = (await self.config())["pools"]["main"]
            if {one["url"] for one in used["endpoints"]} == wanted and used["retry"]["tries"] == tries:
                self.slowest = max(self.slowest, time.monotonic() - began)
                return True
            await asyncio.sleep(0.03)
        return False

    async def config(self) -> Any:
        """What the gateway says its configuration is."""
        return await fetch_beside(f"http://127.0.0.1:{self.running.admin}/api/config")

    async def many(self, count: int) -> int:
        """So many good reloads; how many did not come into use. Ends with every endpoint and the first options."""
        missed = 0
        for number in range(count):
            last = number == count - 1
            ports = self.ports if last else self._draw.sample(self.ports, self._draw.randint(2, len(self.ports)))
            pick = PICKS[0] if last else self._draw.choice(PICKS)
            tries = 2 + number % 2 if not last else 4
            if not await self.change(WAYS[number % 4], ports, pick, tries):
                print(f"reload {number + 1} of {count} ({WAYS[number % 4]}) did not come into use", flush=True)
                missed += 1
        return missed


class Load:
    """Clients around a block of work."""

    def __init__(self, port: int, tally: Tally):
        self._on = False
        ask, stream = make_ask(), make_ask(tokens=25)
        self._workers = [Worker(port, lambda: ask, tally, keep=n % 2 == 0, think=0.02) for n in range(16)]
        self._workers += [Worker(port, lambda: stream, tally, keep=n % 2 == 0) for n in range(8)]

    async def __aenter__(self) -> None:
        self._on = True
        self._all = asyncio.gather(*(worker.run(lambda: self._on) for worker in self._workers))

    async def __aexit__(self, *exc: object) -> None:
        self._on = False
        await self._all


async def at_rest(pid: int, rest: float) -> tuple[int, float]:
    """Open files and memory (MiB) when nothing is going on: a health check may be, so the least of a few looks."""
    await asyncio.sleep(rest)  # idle connections to the servers close after 4 s
    looks = []
    for _ in range(5 if rest < 1.0 else 20):
        looks.append(open_files(pid))
        await asyncio.sleep(0.1)
    return min(looks), rss_mib(pid)


async def good_ones(editor: Editor, tally: Tally, count: int) -> list[Bar]:
    running, rest = editor.running, 7.0 if count > 20 else 0.5
    async with Load(running.port, tally):
        missed = await editor.many(max(4, count // 2))
        if count > 20:  # the last 10,000 decisions are kept: let that be full before it is measured
            await poll(lambda: tally.total > 12_000, 60.0)
    files, memory = await at_rest(running.pid, rest)
    async with Load(running.port, tally):
        began = time.monotonic()
        missed += await editor.many(count)
        took = time.monotonic() - began
    files_after, memory_after = await at_rest(running.pid, rest)
    print(f"{count} reloads in {took:.0f} s (slowest to be in use {editor.slowest:.1f} s); before them {files} open "
          f"files and {memory:.1f} MiB, after them {files_after} and {memory_after:.1f}", flush=True)  # fmt: skip
    return [Bar("reloads that did not come into use", missed, 0),
            Bar("open files, change in %", 100.0 * abs(files_after - files) / files, 5.0),
            Bar("memory, growth in %", 100.0 * (memory_after - memory) / memory, 5.0)]  # fmt: skip


async def bad_ones(editor: Editor, tally: Tally, defects: Sequence[dict[str, object]]) -> tuple[list[Bar], list[Bar]]:
    running = editor.running
    before, unrefused, kept, slowest, growth = await editor.config(), [], True, 0.0, 0.0
    async with Load(running.port, tally):
        for defect in defects:
            counted, memory, began = failures(running), rss_mib(running.pid), time.monotonic()
            editor.rename((BAD / str(defect["file"])).read_bytes())
            peak = memory
            while await asyncio.to_thread(failures, running) == counted and time.monotonic() - began < 8.0:
                peak = max(peak, rss_mib(running.pid))
                await asyncio.sleep(0.05)
            slowest, growth = max(slowest, time.monotonic() - began), max(growth, peak - memory)
            await asyncio.sleep(1.0)  # for a second count, if there is one, and for the log's line
            refused = running.events("reload_refused")
            said = " ".join(refused[-1]["problems"]) if refused else "nothing"
            if (more := failures(running) - counted) != 1 or not names(said, defect):
                unrefused.append(f"{defect['file']}: counted {more:g}, said {said[:200]}")
            kept = kept and await editor.config() == before
    for line in unrefused:
        print(line)
    print(f"{len(defects)} bad files under load: slowest refusal {slowest:.1f} s after the write, memory at most "
          f"{growth:.1f} MiB more", flush=True)  # fmt: skip
    found = [Bar("bad files not refused with one count and one line that names the defect", len(unrefused), 0),
             Bar("old configuration not kept", int(not kept), 0),
             Bar("files named PWNED", len([*editor.running.where.rglob("PWNED"), *ROOT.glob("PWNED")]), 0)]  # fmt: skip
    # Two looks at the file, half a second apart, come before the 2 s that reading it may take.
    return found, [Bar("slowest refusal, s after the write", slowest, 3.0),
                   Bar("memory for a bad file, MiB", growth, 50.0)]  # fmt: skip


def failures(running: Gateway) -> float:
    return running.metric("headway_config_reload_failures_total")


def names(said: str, defect: dict[str, object]) -> bool:
    """Whether a message has the line and the kind of a defect, and what was meant."""
    line, words = defect["line"], str(defect["defect"]).split(", meant ")
    return (line is None or f":{line}:" in said) and all(word in said for word in words)


async def starts(where: Path, defects: Sequence[dict[str, object]]) -> tuple[list[Bar], list[Bar]]:
    """Start a gateway with each bad file."""
    wrong, slowest = [], 0.0
    for defect in defects:
        file, began = BAD / str(defect["file"]), time.monotonic()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "serve", "-c", str(file), cwd=ROOT,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)  # fmt: skip
        try:
            said = (await asyncio.wait_for(process.communicate(), 20.0))[0].decode(errors="replace")
        except TimeoutError:
            process.kill()
            said = "still running after 20 s"
        slowest = max(slowest, time.monotonic() - began)
        if not process.returncode or str(defect["file"]) not in said or not names(said, defect):
            wrong.append(f"{defect['file']}: exit {process.returncode}, {said[:300]}")
    for line in wrong:
        print(line)
    print(f"{len(defects)} bad files at a start: slowest exit {slowest:.1f} s")
    return [Bar("starts with a bad file that did not fail with file, line and kind", len(wrong), 0)], [
            Bar("slowest exit at a start, s", slowest, 5.0)]  # fmt: skip


async def everything(running: Gateway, ports: Sequence[int], where: Path, count: int, short: bool) -> int:
    editor, tally, bad = Editor(running, ports), Tally(), Tally()
    print(f"good reloads: {count}", flush=True)
    steady = await good_ones(editor, tally, count)
    counted, timed = steady[:1], steady[1:]
    if BAD.is_dir():
        defects = json.loads((BAD / "index.json").read_text())[:: 9 if short else 1]
        for found in (await bad_ones(editor, bad, defects), await starts(where, defects)):
            counted, timed = counted + found[0], timed + found[1]
    else:
        print("the bad files are not on this machine: not judged")
        counted.append(Bar("bad files not judged", 0 if short else 18, 0))
    print(f"{tally.total} requests during the good reloads, failed {dict(tally.failures)}; "
          f"{bad.total} during the bad, failed {dict(bad.failures)}")  # fmt: skip
    counted.append(Bar(f"failed of {tally.total + bad.total} requests", tally.failed + bad.failed, 0))
    return conclude(counted, timed, short)


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: object) -> None:
        parser.add_argument("--reloads", type=int, default=200)  # type: ignore[attr-defined]

    options = parse(__doc__ or "", argv, add)
    count = 8 if options.short else options.reloads
    with folder() as where, cheap_servers(6) as (_, ports):
        (where / "folder0").mkdir()
        (where / "live").symlink_to(where / "folder0")
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        with gateway(where / "headway", urls, "bench", where / "live" / "headway.yaml") as running:
            return uvloop.run(everything(running, ports, where, count, options.short))


if __name__ == "__main__":
    sys.exit(main())
