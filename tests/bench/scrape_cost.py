"""What watching 100 endpoints costs: the share of a core that scrapes and health checks take, and one page's parsing.

    python -m tests.bench.scrape_cost [--endpoints 100] [--seconds 10] [--page-kb 70]

The servers are one process of their own that answers every scrape with the same vLLM-like page; only the CPU time of
the process with the prober is counted, on the loop that the gateway uses. Nothing is asserted: it prints.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import multiprocessing.connection
import random
import resource
import time
from collections.abc import AsyncIterator
from pathlib import Path

import uvloop

from backends import create
from backends.samples import Samples
from gateway.config.types import HealthCheck, Pool, Scrape
from gateway.core.fleet import Fleet
from gateway.core.health import Rule
from gateway.core.types import Endpoint
from gateway.prober import Prober

RECORDED = Path(__file__).resolve().parent.parent / "data" / "engines" / "vllm_under_load.txt"


def make_page(size: int) -> bytes:
    """The recorded page with histogram lines added as a busy server has them, or less of it, to about `size` bytes."""
    recorded = RECORDED.read_bytes()
    if len(recorded) > size:
        wanted = tuple(name.encode() for name in create("vllm").wanted)
        recorded = b"".join(line for line in recorded.splitlines(keepends=True) if line.startswith(wanted))
    lines = [recorded]
    missing = size - len(recorded)
    for number in range(max(0, missing) // 90):
        lines.append(b'vllm:e2e_request_latency_seconds_bucket{engine="0",le="%06d.0",model_name="small-llama"} 41.0\n'
                     % number)  # fmt: skip
    return b"".join(lines)


def serve(page: bytes, pipe: multiprocessing.connection.Connection) -> None:
    """Answer `/metrics` with the page and everything else with an empty 200, on a port told through `pipe`."""
    answers = {
        True: b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(page) + page,
        False: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    }

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(answers[head.startswith(b"GET /metrics")])
                await writer.drain()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


async def watch(port: int, count: int, seconds: float, every: float) -> tuple[float, int]:
    """CPU seconds and scrapes that a prober with `count` endpoints used in about `seconds`."""
    pool = Pool(name="p", engine="vllm", scrape=Scrape(every, 0.5 * every), health=HealthCheck(None, 2.0 * every))
    fleet, done = Fleet("p", Rule(), random.Random(1), size=count), 0

    class Endpoints:
        async def watch(self) -> AsyncIterator[list[Endpoint]]:
            url = f"http://127.0.0.1:{port}"
            yield [Endpoint(id=str(i), url=url, pool="p", engine="vllm") for i in range(count)]

    observe = fleet.observe

    def counted(row: int, load: object, ours: float) -> None:
        nonlocal done
        done += 1
        observe(row, load, ours)  # type: ignore[arg-type]

    fleet.observe = counted  # type: ignore[method-assign, assignment]
    prober = Prober(pool, fleet, create("vllm"), Endpoints(), time.monotonic, lambda *_: None, lambda *_, **__: None)
    task = asyncio.create_task(prober.run())
    await asyncio.sleep(2.0 * every)
    before, before_done, started = cpu(), done, time.monotonic()
    await asyncio.sleep(seconds)
    used, scrapes, took = cpu() - before, done - before_done, time.monotonic() - started
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return used / took, scrapes


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def parse_cost(page: bytes) -> float:
    """Seconds of one page, without the network."""
    backend = create("vllm")
    started = time.process_time()
    for _ in range(200):
        backend.load(Samples(page, backend.wanted), 0.0)
    return (time.process_time() - started) / 200


def main() -> None:
    parser = argparse.ArgumentParser(description="What it costs to watch endpoints.")
    parser.add_argument("--endpoints", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two scrapes of one endpoint")
    parser.add_argument("--page-kb", type=int, default=70)
    options = parser.parse_args()
    page = make_page(options.page_kb * 1000)
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(page, theirs), daemon=True)
    server.start()
    try:
        share, scrapes = uvloop.run(watch(ours.recv(), options.endpoints, options.seconds, options.every))
    finally:
        server.terminate()
        server.join()
    print(f"one page of {len(page) / 1000:.0f} kB: {parse_cost(page) * 1e6:.0f} µs to read")
    print(f"{options.endpoints} endpoints scraped every {options.every:g} s and checked every {2 * options.every:g} s: "
          f"{share:.1%} of a core ({scrapes} scrapes in {options.seconds:g} s)")  # fmt: skip


if __name__ == "__main__":
    main()
