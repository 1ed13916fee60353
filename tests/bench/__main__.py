"""`make bench`: CPU, added latency and memory of Headway, a bare aiohttp proxy, and nginx and Envoy where installed.

    python -m tests.bench [--rounds N] [--only NAME ...] [--endpoints N] [--write FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from tests.bench.client import Client, Load, percentile
from tests.bench.decision_cost import decision_table
from tests.bench.machine import cpu_seconds, machine, resident_mib
from tests.bench.rounds import Bar, Cell, Results, failures, interleave, median, table, verdict
from tests.bench.subjects import RECORDS, Running, installed, subject, upstreams

KIB = 1024
PLAIN = {
    "1 KB": Load(rate=1500, seconds=2.0, size=KIB),
    "16 KB": Load(rate=500, seconds=2.0, size=16 * KIB),
    "220 KB": Load(rate=80, seconds=2.0, size=220 * KIB),
}
STREAMED = {
    f"{size}, streamed": Load(rate=rate, seconds=1.6, size=load.size, tokens=60, token_rate=50)
    for (size, load), rate in zip(PLAIN.items(), (100, 100, 40), strict=True)
}
CASES = PLAIN | STREAMED
DIRECT = "direct"
CPU_PER_REQUEST = 0.45
CPU_PER_CHUNK = 0.60


def cpu_per_unit(cell: Cell, load: Load, idle: float = 0.0) -> float:
    """Microseconds of CPU an answered request, or a chunk of a streamed one (its request's share is in it).

    `idle`: the share of a core the subject spends without requests, to be taken out; by default it is in.
    """
    return (cell.cpu - idle * cell.wall) * 1e6 / (cell.answered * (load.tokens or 1))


def latency(cell: Cell, load: Load, share: float) -> float:
    """Seconds to the first token of a streamed answer, to the last byte of a plain one."""
    return percentile(cell.measured.first if load.tokens else cell.measured.total, share)


def median_cpu(cells: Sequence[Cell], load: Load, idle: float = 0.0) -> float:
    return median(cells, lambda cell: cpu_per_unit(cell, load, idle))


def median_latency(cells: Sequence[Cell], load: Load, share: float) -> float:
    return median(cells, lambda cell: latency(cell, load, share))


def cpu_table(results: Results, names: Sequence[str], idle: dict[str, float]) -> str:
    compared = {"headway", "aiohttp"} <= set(names)
    rows = []
    for case, load in CASES.items():
        values = {name: median_cpu(results[case, name], load) for name in names}
        row = [f"{case} (µs a {'chunk' if load.tokens else 'request'})", *(f"{values[name]:.1f}" for name in names)]
        if compared:
            alone = median_cpu(results[case, "headway"], load, idle["headway"])
            row += [f"{values['headway'] / values['aiohttp']:.2f}", f"{alone:.1f}"]
        rows.append(row)
    return table(["CPU", *names, *(["headway / aiohttp", "headway, requests alone"] if compared else [])], rows)


def latency_table(results: Results, names: Sequence[str]) -> str:
    rows = []
    for case, load in CASES.items():
        cells = [case + (" (first token)" if load.tokens else "")]
        for share in (50, 99):
            direct = median_latency(results[case, DIRECT], load, share)
            cells.append(f"{direct * 1e3:.2f}")
            for name in names:
                through = median_latency(results[case, name], load, share)
                cells.append(f"{(through - direct) * 1e3:+.2f}")
        rows.append(cells)
    head = [f"{name} p{share}" for share in (50, 99) for name in (DIRECT, *names)]
    return table(["latency, ms", *head], rows)


def memory_table(memory: dict[str, tuple[float, float]], idle: dict[str, float], names: Sequence[str]) -> str:
    rows = [
        ["resident before, MiB", *(f"{memory[name][0]:.0f}" for name in names)],
        ["resident after, MiB", *(f"{memory[name][1]:.0f}" for name in names)],
        ["CPU without requests, share of a core", *(f"{idle[name]:.1%}" for name in names)],
    ]
    return table(["beside the requests", *names], rows)


def bars(results: Results, names: Sequence[str]) -> list[Bar]:
    def ratio(case: str) -> float:
        return median_cpu(results[case, "headway"], CASES[case]) / median_cpu(results[case, "aiohttp"], CASES[case])

    kept = [failures(results)]
    if {"headway", "aiohttp"} <= set(names):
        kept.append(Bar("CPU per request, 1 KB, of bare aiohttp's", ratio("1 KB"), CPU_PER_REQUEST))
        kept.append(Bar("CPU per streamed chunk, of bare aiohttp's", ratio("1 KB, streamed"), CPU_PER_CHUNK))
    return kept


async def idle_shares(subjects: dict[str, Running], seconds: float = 3.0) -> dict[str, float]:
    """What each subject spends while nobody asks it anything: scrapes, probes, timers. Shares of a core."""
    before = {name: cpu_seconds(running.pids()) for name, running in subjects.items()}
    await asyncio.sleep(seconds)
    return {name: (cpu_seconds(subjects[name].pids()) - before[name]) / seconds for name in subjects}


async def bench(rounds: int, names: Sequence[str], endpoints: int, where: Path) -> tuple[str, list[Bar]]:
    with contextlib.ExitStack() as stack:
        upstream, ports = stack.enter_context(upstreams(endpoints))
        running = {name: stack.enter_context(subject(name, ports, where)) for name in names}
        clients = {DIRECT: Client(ports[0])} | {name: Client(one.port) for name, one in running.items()}
        for name, client in clients.items():
            warm = await client.run(Load(rate=400, seconds=1.0), seed=99, patience=5.0)
            if warm.failed > warm.sent / 2:
                log = where / name / "log"
                shown = log.read_text()[-2000:] if log.exists() else ""
                raise SystemExit(f"{name} does not answer: {warm.causes}\n{shown}")
        idle = await idle_shares(running)
        before = {name: resident_mib(one.pids()) for name, one in running.items()}
        results = await interleave(rounds, CASES, clients, {DIRECT: None, **running}, [upstream], say)
        memory = {name: (before[name], resident_mib(one.pids())) for name, one in running.items()}
        for client in clients.values():
            client.close()
    tables = [cpu_table(results, names, idle), latency_table(results, names), memory_table(memory, idle, names)]
    return "\n\n".join([*tables, spread(results)]), bars(results, names)


def spread(results: Results) -> str:
    """How far the rounds lie apart, and how many did not count: how much to believe of the rest."""
    lost = sum(cell.spoilt() is not None for cells in results.values() for cell in cells)
    number = sum(len(cells) for cells in results.values())
    apart = []
    for (case, _), cells in results.items():
        values = [cpu_per_unit(cell, CASES[case]) for cell in cells if cell.cpu and cell.spoilt() is None]
        if len(values) > 1:
            apart.append((max(values) - min(values)) / statistics.median(values))
    lag = max(cell.lag for cells in results.values() for cell in cells) * 1e3
    busiest = max(cell.busiest for cells in results.values() for cell in cells)
    return (
        f"{number - lost} of {number} runs count; rounds differ by {statistics.median(apart) if apart else 0:.0%} "
        f"(max - min, median over the cells); worst start lag p99 {lag:.1f} ms; busiest process {busiest:.0%}."
    )


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def page(text: str, kept: Sequence[Bar], options: argparse.Namespace, names: Sequence[str], took: float) -> str:
    return f"""# What it costs

Printed by `make bench` on {machine()}, {time.strftime("%Y-%m-%d")}, in {took:.0f} s: {options.rounds} interleaved
rounds, medians. One proxy process each, the same {options.endpoints} upstream ports (one cheap process), an open-loop
client. Compared: {", ".join(names)}.
Headway runs with keys, `least_tokens`, a scrape a second and a probe every two seconds of every endpoint, a log line a
request in a file and the last 10,000 decision records in memory{" and a file" if os.environ.get(RECORDS) else ""}; its
CPU holds all of that. The others have no logic but round robin and write no log.

{text}

Latency runs from the write of the request to the last byte, or to the first token of a stream (60 tokens, 50 a second);
the direct columns are absolute, the others what the proxy adds. CPU a chunk holds the stream's share of its request;
"requests alone" is Headway's CPU less what it spends on scrapes and probes when nobody asks anything.
A run counts only if no process used over 80 % of a core and the client's start lag p99 was under 10 ms. A decision is
look, pick and reserve in one process, no I/O (`python -m tests.bench.decision_cost`).

```
{chr(10).join(map(str, kept))}
```
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--endpoints", type=int, default=64)
    parser.add_argument("--only", nargs="+", choices=installed(), default=installed())
    parser.add_argument("--write", type=Path, help="write the page here too")
    options = parser.parse_args()
    print(f"machine: {machine()}\n", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as where:
        text, kept = uvloop.run(bench(options.rounds, options.only, options.endpoints, Path(where)))
    text += "\n\n" + decision_table(2000)
    print(text + "\n")
    if options.write:
        options.write.parent.mkdir(exist_ok=True)
        options.write.write_text(page(text, kept, options, options.only, time.monotonic() - began), encoding="utf-8")
    return verdict(kept)


if __name__ == "__main__":
    sys.exit(main())
