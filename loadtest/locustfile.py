"""Locust for any OpenAI-compatible URL: streams, measured token by token.

    locust -f loadtest/locustfile.py --headless -H http://127.0.0.1:8080 --rate 20 -t 2m --html load.html
    locust -f loadtest/locustfile.py --headless -H http://127.0.0.1:8080 -u 50 -r 5 -t 2m --processes 4

With `--rate` the load is open loop: requests start at their times whatever became of the ones before, `--shape` moves
the rate, and with several processes each takes its share of one common schedule. Without it, `-u` users each send one
request after another and the shape moves their number. Either way latency counts from when the request should
have started, and an answer that is not whole is a failure.

Rows: `POST` is the whole answer; `stream` rows are TTFT, TPOT, gaps between tokens and output tokens/s; `SLO` counts
every request, and as failed those that missed it, so its rate of successes is the goodput; `generator` is how late
the generator itself was. All but `POST` are written to locust's statistics as entries of their own, so they do not
count in `Aggregated`, which stays what it says: requests. (Times are in ms; locust rounds them.)
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import gevent  # type: ignore[import-untyped]  # ships no types
from locust import LoadTestShape, User, events, task
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

_HERE = Path(__file__).resolve().parent
if str(_HERE.parent) not in sys.path:  # locust puts only this folder on the path
    sys.path.insert(0, str(_HERE.parent))

from loadtest import replay  # noqa: E402
from loadtest.blocking import BlockingClient  # noqa: E402
from loadtest.client import Exchange, Target  # noqa: E402
from loadtest.measure import LAG_LIMIT, Record, Slo  # noqa: E402
from loadtest.open_loop import to_record  # noqa: E402
from loadtest.prompts import PromptMaker  # noqa: E402
from loadtest.workload import SHAPES, Item, WorkloadError, read_trace, shape  # noqa: E402

log = logging.getLogger("loadtest")
DEFAULT_SECONDS = 60.0  # without -t
SHARE_MESSAGE = "loadtest_share"
_LAG = ("start lag", "generator")


def add_options(parser: Any, **_: Any) -> None:
    """The options this file adds to locust's own."""
    group = parser.add_argument_group("LLM load")
    default_trace = str(_HERE / "traces" / "azure_conv_2023.jsonl.gz")
    group.add_argument("--rate", type=float, default=0.0, help="open loop at this many requests per second (its peak)")
    group.add_argument("--shape", choices=SHAPES, default="constant", help="how rate or users move over the run time")
    group.add_argument("--arrivals", default="poisson", help="open loop: poisson, even, gamma:CV or trace")
    group.add_argument("--trace", default=default_trace, help="lengths (and with --arrivals trace, times) come from it")
    group.add_argument("--tokens", default="", help="PROMPT,OUTPUT: lengths for every request, instead of the trace's")
    group.add_argument("--model", default="llama-3.1-8b", help="model name to ask for")
    group.add_argument("--path", default="/v1/chat/completions", help="path to post to")
    parser.add_argument(
        "--api-key", default="", env_var="LOADTEST_API_KEY", is_secret=True, help="sent as bearer token"
    )
    group.add_argument("--slo-ttft", type=replay.parse_duration, default=1.0, help="goodput: first token within")
    group.add_argument("--slo-tpot", type=replay.parse_duration, default=0.1, help="goodput: per further token within")
    group.add_argument("--think", type=replay.parse_duration, default=0.0, help="closed loop: pause of a user")
    group.add_argument("--seed", type=int, default=0, help="of the arrivals")


def build_items(options: argparse.Namespace) -> list[Item]:
    """The whole schedule (open loop), or the lengths to draw from (closed loop). Raises WorkloadError."""
    if options.rate > 0:
        asked = argparse.Namespace(**vars(options))
        asked.seconds = seconds(options)
        asked.speedup, asked.start, asked.limit = None, 0.0, replay.MAX_REQUESTS
        items = replay.build(asked)
    else:
        items = read_trace(options.trace)
    if not options.tokens:
        return items
    prompt, _, output = options.tokens.partition(",")
    if not (prompt.isdigit() and output.isdigit() and int(prompt) and int(output)):
        raise WorkloadError(f"--tokens {options.tokens!r} is not PROMPT,OUTPUT such as 500,100")
    return [
        replace(item, prompt_tokens=int(prompt), output_tokens=int(output), blocks=(), block_size=0) for item in items
    ]


def seconds(options: argparse.Namespace) -> float:
    """How long requests are started for."""
    return float(options.run_time or DEFAULT_SECONDS)


def slo_of(options: argparse.Namespace) -> Slo:
    return Slo(options.slo_ttft, options.slo_tpot)


def slo_row(slo: Slo) -> tuple[str, str]:
    return f"TTFT<={(slo.ttft or 0) * 1e3:.0f}ms TPOT<={(slo.tpot or 0) * 1e3:.0f}ms", "SLO"


def on_init(environment: Environment, **_: Any) -> None:
    """Check the options before anything starts, and let a worker learn its share of the schedule."""
    options: Any = environment.parsed_options
    options.share = (0, 1)
    options.prompt_seed = time.time_ns() % 1_000_000_007  # texts never sent before: no prefix cache helps by accident
    environment.stop_timeout = environment.stop_timeout or 30.0  # answers under way may finish
    try:
        build_items(options)
    except WorkloadError as error:
        log.error("%s", error)
        sys.exit(2)
    if isinstance(environment.runner, WorkerRunner):

        def take_share(environment: Environment, msg: Any, **_: Any) -> None:
            options.share = (msg.data["index"], msg.data["count"])

        environment.runner.register_message(SHARE_MESSAGE, take_share)


def on_test_start(environment: Environment, **_: Any) -> None:
    """The master tells each worker which part of the schedule is its own."""
    if isinstance(environment.runner, MasterRunner):
        workers = list(environment.runner.clients.ready)
        for index, worker in enumerate(workers):
            environment.runner.send_message(SHARE_MESSAGE, {"index": index, "count": len(workers)}, worker.id)


def on_quitting(environment: Environment, **_: Any) -> None:
    """Say the goodput, and whether the generator was good enough to believe the rest."""
    if isinstance(environment.runner, WorkerRunner):
        return
    options: Any = environment.parsed_options
    row = environment.stats.get(*slo_row(slo_of(options)))
    if not row.num_requests:
        return
    kept = row.num_requests - row.num_failures
    log.info(
        "goodput: %.1f%% of %d requests kept %s, %.2f per s",
        100 * kept / row.num_requests, row.num_requests, row.name, kept / seconds(options),
    )  # fmt: skip
    lag = environment.stats.get(*_LAG).get_response_time_percentile(0.99) or 0
    if lag > LAG_LIMIT * 1e3:
        log.warning(
            "the generator started requests late: start lag p99 %d ms (limit %d ms); its delays are in the "
            "figures: use more --processes or a lower rate",
            lag, LAG_LIMIT * 1e3,
        )  # fmt: skip


class Shape(LoadTestShape):
    """Open loop: one driver per process for the run time. Closed loop: `-u` users, moved by `--shape`."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        assert self.runner is not None
        options: Any = self.runner.environment.parsed_options
        length, now = seconds(options), time.perf_counter() - self.start_time
        if now >= length:
            return None
        if options.rate > 0:
            drivers = self.runner.worker_count if isinstance(self.runner, MasterRunner) else 1
            return drivers, float(drivers)
        most = options.num_users or 1
        users = max(1, round(shape(options.shape, most, length)(now)))
        return users, float(options.spawn_rate or most)


class StreamUser(User):
    """Sends prompts of exact length, reads the streams, and reports what it measured."""

    def on_start(self) -> None:
        options: Any = self.environment.parsed_options
        headers = {"authorization": f"Bearer {options.api_key}"} if options.api_key else {}
        self.options = options
        self.slo = slo_of(options)
        self.items = build_items(options)
        self.prompts = PromptMaker(options.prompt_seed)
        self.connections = BlockingClient(Target.parse(self.host or "", options.path, headers), time.monotonic)
        self.numbers = count(id(self) & 0xFFFFFF, 1 << 24)  # prompts of different users differ
        self.zero = time.monotonic()
        self.over = False

    @task
    def load(self) -> None:
        if self.options.rate <= 0:
            self._one_after_another()
        elif self.over:
            gevent.sleep(0.2)
        else:
            self._on_schedule()
            self.over = True

    def _one_after_another(self) -> None:
        due = time.monotonic() - self.zero + self.options.think
        number = next(self.numbers)
        item = replace(self.items[hash((number, self.options.seed)) % len(self.items)], at=due)
        exchange = self._prepare(item, number)
        gevent.sleep(max(0.0, self.zero + due - time.monotonic()))
        self.connections.send(exchange)

    def _on_schedule(self) -> None:
        index, share = self.options.share
        running: set[gevent.Greenlet[..., None]] = set()
        self.zero = time.monotonic() + 0.1
        for number, item in list(enumerate(self.items))[index::share]:
            exchange = self._prepare(item, number)
            wait = self.zero + item.at - time.monotonic()
            if wait > 0:
                gevent.sleep(wait)
            greenlet = gevent.spawn(self.connections.send, exchange)
            running.add(greenlet)
            greenlet.link(running.discard)
        gevent.joinall(list(running))

    def _prepare(self, item: Item, number: int) -> Exchange:
        body = self.prompts.body(item, number, self.options.model, self.options.path)
        return Exchange(body, lambda exchange: self._report(to_record(item, exchange, self.zero)))

    def _report(self, record: Record) -> None:
        self.environment.events.request.fire(
            request_type="POST",
            name=self.options.path,
            response_time=record.e2e * 1e3,
            response_length=record.tokens,
            exception=None if record.ok else RuntimeError(record.failure),
            context={},
        )
        self._row(*_LAG, record.lag * 1e3)
        name, kind = slo_row(self.slo)
        self._row(name, kind, record.e2e * 1e3, record.tokens)
        if not self.slo.met(record):
            self.environment.stats.get(name, kind).log_error("missed")
        if not record.ok:
            return
        if record.ttft is not None:
            self._row("TTFT", "stream", record.ttft * 1e3)
        if record.tpot is not None:
            self._row("TPOT", "stream", record.tpot * 1e3)
            if record.tpot > 0:
                self._row("output tokens/s (not ms)", "stream", 1 / record.tpot)
        for gap in record.gaps:
            self._row("gap between tokens", "stream", gap * 1e3)

    def _row(self, name: str, kind: str, value: float, length: int = 0) -> None:
        # Straight into the entry: events.request would also count it in `Aggregated`, as if it were a request.
        self.environment.stats.get(name, kind).log(value, length)


_hooks: Any = events  # locust's hooks carry no types
_hooks.init_command_line_parser.add_listener(add_options)
_hooks.init.add_listener(on_init)
_hooks.test_start.add_listener(on_test_start)
_hooks.quitting.add_listener(on_quitting)
