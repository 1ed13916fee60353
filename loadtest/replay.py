"""Replay a trace against an OpenAI-compatible URL, open loop, and say what it got.

    python -m loadtest.replay --url http://127.0.0.1:8080 --trace loadtest/traces/azure_conv_2023.jsonl.gz --rate 20

The trace's own arrivals are scaled in time (`--rate`, `--speedup`), or arrivals are drawn (`--arrivals poisson`,
`gamma:CV`, under a `--shape`) and only its lengths are used. Each request streams exactly the answer
length of the trace. Latency counts from the intended start. Exit code 0 if every request was answered
whole, 1 if any failed, 2 for bad usage. How to send is
`loadtest.open_loop`; the table and report are `loadtest.report`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import re
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from loadtest import report
from loadtest.client import Client, Target
from loadtest.measure import Record, Slo, summarize, warnings
from loadtest.models import first_model
from loadtest.open_loop import Asking, CpuWatch, OpenLoop
from loadtest.workload import (
    SHAPES,
    Item,
    WorkloadError,
    arrivals,
    at_rate,
    at_speed,
    mean_rate,
    read_trace,
    shape,
    with_arrivals,
)

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)?\Z")
_UNITS = {"ms": 1e-3, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0}
MAX_REQUESTS = 200_000
PROGRESS = 10.0  # s between lines about a run under way


def parse_duration(text: str) -> float:
    """`250ms`, `2s`, `5m`, or a bare number of seconds. Raises argparse.ArgumentTypeError."""
    match = _DURATION.match(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 250ms, 2s or 5m")
    return float(match[1]) * _UNITS[match[2]]


def parse_positive(text: str) -> float:
    """A number above 0. Raises argparse.ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def parse_header(text: str) -> tuple[str, str]:
    """`Name: value`. Raises argparse.ArgumentTypeError."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME: VALUE")
    return name.strip().lower(), value.strip()


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """What every program here asks: where to, what to ask for, and what counts as good."""
    parser.add_argument("--url", required=True, help="base URL, e.g. http://127.0.0.1:8080")
    parser.add_argument("--path", default="/v1/chat/completions", help="appended to the URL (%(default)s)")
    parser.add_argument("--model", default="", help="model name to ask for (the first of /v1/models)")
    parser.add_argument("--api-key", default="", help="sent as a bearer token")
    parser.add_argument("--header", action="append", default=[], type=parse_header, metavar="NAME: VALUE")
    parser.add_argument("--trace", required=True, help="trace file (.jsonl or .jsonl.gz)")
    parser.add_argument("--slo-ttft", type=parse_duration, default=1.0, help="good: first token within (1s)")
    parser.add_argument(
        "--slo-tpot", type=parse_duration, default=0.1, help="good: mean time per further token within (100ms)"
    )
    parser.add_argument("--timeout", type=parse_duration, default=600.0, help="per request (10m)")
    parser.add_argument("--max-open", type=int, default=10_000, help="connections at most (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the arrivals (%(default)s)")
    parser.add_argument("--prompt-seed", type=int, help="of the prompt texts (new ones each run, so no cache helps)")
    parser.add_argument("--allow-remote", action="store_true", help="allow a URL that is not on this machine")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON")


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m loadtest.replay`."""
    made = argparse.ArgumentParser(prog="python -m loadtest.replay", description=(__doc__ or "").split("\n")[0])
    add_target_options(made)
    speed = made.add_mutually_exclusive_group()
    speed.add_argument("--rate", type=parse_positive, help="mean requests per second to scale the trace to")
    speed.add_argument("--speedup", type=parse_positive, help="run the trace's time this many times as fast")
    made.add_argument("--arrivals", default="trace", help="trace (default), or drawn: poisson, even, gamma:CV")
    made.add_argument("--shape", default="constant", choices=SHAPES, help="how the rate moves, with drawn arrivals")
    made.add_argument("--start", type=parse_duration, default=0.0, help="skip this much of the trace's time (0s)")
    made.add_argument("--limit", type=int, default=MAX_REQUESTS, help="requests at most (%(default)s)")
    made.add_argument("--seconds", type=parse_duration, default=3600.0, help="of starts at most (1h)")
    made.add_argument("--grace", type=parse_duration, default=120.0, help="wait for answers after the last start (2m)")
    made.add_argument("--no-stream", action="store_true", help="plain answers; TTFT is then the first body byte")
    made.add_argument("--out", metavar="FILE", help="write an HTML report")
    made.add_argument("--title", default="Replay", help="of the report")
    return made


def parse_arrivals(text: str) -> float | None:
    """The CV of the gaps to draw, None for the trace's own. Raises WorkloadError."""
    named = {"trace": None, "poisson": 1.0, "even": 0.0}
    if text in named:
        return named[text]
    kind, _, cv = text.partition(":")
    try:
        value = float(cv)
    except ValueError:
        value = -1.0
    if kind != "gamma" or not 0 <= value <= 100:
        raise WorkloadError(f"--arrivals {text!r}: use trace, poisson, even or gamma:CV (such as gamma:2)")
    return value


def build(options: argparse.Namespace) -> list[Item]:
    """The workload the options describe. Raises WorkloadError."""
    items = [item for item in read_trace(options.trace) if item.at >= options.start]
    if not items:
        raise WorkloadError(f"{options.trace} ends before --start")
    cv = parse_arrivals(options.arrivals)
    if cv is None:
        if options.shape != "constant":
            raise WorkloadError("--shape needs drawn arrivals, such as --arrivals poisson --rate 10")
        timed = at_speed(items, options.speedup or 1.0) if options.rate is None else at_rate(items, options.rate)
        chosen: Iterable[Item] = timed
    else:
        rate = options.rate or mean_rate(items) * (options.speedup or 1.0)
        times = arrivals(shape(options.shape, rate, options.seconds), options.seconds, options.seed, cv)
        chosen = with_arrivals(items, times)
    return list(_bounded(chosen, min(options.limit, MAX_REQUESTS), options.seconds))


def _bounded(items: Iterable[Item], limit: int, seconds: float) -> Iterator[Item]:
    for count, item in enumerate(items):
        if count >= limit or item.at > seconds:
            return
        yield item


def _headers(options: argparse.Namespace) -> dict[str, str]:
    key = {"authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    return {**key, **dict(options.header)}


def make_asking(options: argparse.Namespace, stream: bool = True) -> Asking:
    """How items become requests. Raises ValueError if the server has to be asked for its model and names none."""
    model = options.model or first_model(options.url, _headers(options))
    return Asking(model, options.path, stream, prompt_seed(options))


def make_target(options: argparse.Namespace) -> Target:
    """Where to send. Raises ValueError, also for a remote host that was not allowed."""
    target = Target.parse(options.url, options.path, _headers(options))
    if not target.is_loopback and not options.allow_remote:
        raise ValueError(f"{target.host} is not this machine; add --allow-remote if its owner agrees to the load")
    return target


def prompt_seed(options: argparse.Namespace) -> int:
    """The one asked for, else a new one: texts sent before may lie in a prefix cache and answer too soon."""
    chosen: int | None = options.prompt_seed
    return time.time_ns() % 1_000_000_007 if chosen is None else chosen


def raise_file_limit(wanted: int) -> None:
    """Let this process open as many sockets as it may, up to `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    aim = wanted + 64 if hard == resource.RLIM_INFINITY else min(hard, wanted + 64)
    if soft != resource.RLIM_INFINITY and soft < aim:
        resource.setrlimit(resource.RLIMIT_NOFILE, (aim, hard))


async def run_load(
    target: Target,
    items: Sequence[Item],
    asking: Asking,
    slo: Slo,
    timeout: float,
    grace: float,
    max_open: int = 10_000,
    progress: float | None = None,
) -> tuple[dict[str, Any], list[Record]]:
    """Send the items and summarize; what was measured until then if it is cancelled by Ctrl-C.

    With `progress`, a line about the run goes to stderr every so many seconds.
    """
    raise_file_limit(max_open)
    client = Client(target, time.monotonic, max_open)
    loop = OpenLoop(client, asking, timeout=timeout)
    gc.collect()
    gc.freeze()  # the workload is not garbage: keep the collector from walking it while we measure
    async with CpuWatch() as watch:
        telling = asyncio.create_task(_tell(loop, progress)) if progress else None
        try:
            await loop.run(items, grace)
        except asyncio.CancelledError:
            if not loop.records:
                raise
        finally:
            if telling is not None:
                telling.cancel()
        generator = watch.result(client.opened)
    gc.unfreeze()
    return summarize(loop.records, slo, generator), loop.records


async def _tell(loop: OpenLoop, every: float) -> None:
    while True:
        await asyncio.sleep(every)
        failed = sum(not record.ok for record in loop.records)
        print(
            f"{loop.elapsed:7.0f} s  {loop.started} started, {len(loop.records)} over, {failed} failed, "
            f"{loop.in_flight} in flight",
            file=sys.stderr,
            flush=True,
        )


def run_in_loop(coroutine: Any) -> Any:
    """Run the coroutine on uvloop where it is installed, on asyncio's own loop otherwise."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(coroutine)
    return uvloop.run(coroutine)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = parser()
    options = arguments.parse_args(argv)
    try:
        target, items = make_target(options), build(options)
        if not items:
            raise WorkloadError("the workload is empty: raise --limit or --seconds")
        asking = make_asking(options, not options.no_stream)
    except (ValueError, OSError) as error:
        arguments.error(str(error))
    slo = Slo(options.slo_ttft, options.slo_tpot)
    print(f"{len(items)} requests in {items[-1].at:.1f} s to {options.url}{options.path}", file=sys.stderr)
    summary, records = run_in_loop(
        run_load(target, items, asking, slo, options.timeout, options.grace, options.max_open, PROGRESS)
    )
    print(report.table(summary))
    for warning in warnings(summary):
        print(f"WARNING: {warning}", file=sys.stderr)
    facts = {"url": options.url + options.path, "model": asking.model, "trace": Path(options.trace).name,
             "arrivals": options.arrivals, "shape": options.shape, "seed": options.seed}  # fmt: skip
    if options.json:
        Path(options.json).write_text(json.dumps({"run": facts, **summary}, indent=1) + "\n")
    if options.out:
        Path(options.out).write_text(report.page(options.title, facts, summary, records))
        print(f"report: {options.out}", file=sys.stderr)
    return 0 if summary["requests"] == summary["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
