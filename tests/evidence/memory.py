"""Memory stays flat: over 200,000 requests, a tenth of them faults, and for 1 GB streamed to a slow reader.

Bars: resident memory after 200,000 requests at most 10 MiB above that after 20,000, open files back where they were;
and during the big stream at most 16 MiB above what it was before. The reader first reads nothing, then 64 KiB every
few milliseconds, then as fast as it can.

    python -m tests.evidence.memory [--short] [--requests N] [--bytes N]
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from random import Random

import uvloop

from tests.bench.rounds import Bar
from tests.evidence.closed_loop import Ask, Tally, Worker, make_ask
from tests.evidence.support import Gateway, cheap_servers, conclude, folder, gateway, open_files, parse, rss_mib

CLIENTS = 24
PATIENCE = 150.0  # seconds that the big stream may take


def mixture(seed: int) -> Iterator[Ask]:
    """Nine good requests of ten, one of them a stream; and one fault: the server's, the client's, or one who leaves."""
    draw = Random(seed)
    good, stream = make_ask(size=1000), make_ask(tokens=4, rate=2000.0)
    faults = [make_ask(fault="error", may_fail=True), make_ask(fault="reset", may_fail=True),
              make_ask(fault="cut", may_fail=True), make_ask(tokens=200, leave=True),
              make_ask(body=b'{"model":', may_fail=True),
              make_ask(body=b'{"model":"bench","model":"x"}', may_fail=True)]  # fmt: skip
    while True:
        number = draw.random()
        if number < 0.8:
            yield good
        elif number < 0.9:
            yield stream
        elif number < 0.98:
            yield draw.choice(faults)
        else:
            yield make_ask(model=f"unknown-{draw.randrange(1 << 30)}", may_fail=True)


async def drive(running: Gateway, tally: Tally, until: int, seed: int, rest: float) -> tuple[float, int]:
    """Go on to `until` requests in all, rest for a moment; memory (MiB) and open files then."""
    asks = [mixture(seed * 100 + number) for number in range(CLIENTS)]
    workers = [Worker(running.port, lambda ask=ask: next(ask), tally) for ask in asks]  # type: ignore[misc]
    await asyncio.gather(*(worker.run(lambda: tally.total < until) for worker in workers))
    await asyncio.sleep(rest)  # idle connections to the servers close meanwhile
    files = []
    for _ in range(5):  # a health check may be under way: the least counts
        files.append(open_files(running.pid))
        await asyncio.sleep(0.1)
    return rss_mib(running.pid), min(files)


def read_slowly(running: Gateway, size: int) -> tuple[float, float, bool, float]:
    """Memory before and at most (MiB), whether the stream came whole, and the seconds it took."""
    before, began = rss_mib(running.pid), time.monotonic()
    peak, got, tail, sampled = before, 0, b"", 0.0
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 << 10)
        reader.settimeout(30.0)
        reader.connect(("127.0.0.1", running.port))
        body = b'{"model":"bench","stream":true,"messages":[{"role":"user","content":"go"}]}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\nx-fault: flood %d\r\ncontent-length: %d\r\n\r\n"
        reader.sendall(head % (size, len(body)) + body)
        while time.monotonic() - began < PATIENCE:
            now = time.monotonic()
            if now - sampled > 0.1:
                sampled, peak = now, max(peak, rss_mib(running.pid))
            if now - began < 5.0 and size > 100 << 20:
                time.sleep(0.1)  # reads nothing
                continue
            data = reader.recv(64 << 10)
            got, tail = got + len(data), (tail + data)[-64:]
            if not data or tail.endswith(b"0\r\n\r\n"):
                break
            if got < size // 4:
                time.sleep(0.004)
    whole = got >= 0.99 * size and b"[DONE]" in tail  # the gateway's chunks are larger: less framing
    return before, max(peak, rss_mib(running.pid)), whole, time.monotonic() - began


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: object) -> None:
        parser.add_argument("--requests", type=int, default=200_000)  # type: ignore[attr-defined]
        parser.add_argument("--bytes", type=int, default=1_000_000_000)  # type: ignore[attr-defined]

    options = parse(__doc__ or "", argv, add)
    requests, size, rest = (2_000, 20_000_000, 0.5) if options.short else (options.requests, options.bytes, 6.0)
    tally = Tally()
    with folder() as where, cheap_servers(4) as (_, ports):
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        with gateway(where / "headway", urls, "bench") as running:
            early, files_early = uvloop.run(drive(running, tally, requests // 10, 1, rest))
            print(f"after {tally.total} requests: {early:.1f} MiB, {files_early} open files", flush=True)
            began = time.monotonic()
            late, files_late = uvloop.run(drive(running, tally, requests, 2, rest))
            print(f"after {tally.total} requests: {late:.1f} MiB, {files_late} open files, "
                  f"{time.monotonic() - began:.0f} s later")  # fmt: skip
            print(f"{tally.left} clients left early, statuses {dict(tally.statuses)}", flush=True)
            read_slowly(running, 1_000_000)
            before, peak, whole, took = read_slowly(running, size)
    print(f"{size / 1e9:g} GB to a slow reader in {took:.0f} s: {before:.1f} MiB before, {peak:.1f} MiB at most")
    counted = [Bar(f"good requests that failed {dict(tally.failures)}", tally.failed, 0),
               Bar("requests missing", max(0, requests - tally.total), 0),
               Bar("big streams not whole", int(not whole), 0),
               Bar("memory of the big stream, MiB", peak - before, 16.0)]  # fmt: skip
    timed = [Bar(f"memory after {tally.total} requests above that after a tenth, MiB", late - early, 10.0),
             Bar("open files more", files_late - files_early, 1)]  # fmt: skip
    return conclude(counted, timed, options.short)


if __name__ == "__main__":
    sys.exit(main())
