"""Locust for any OpenAI-compatible URL: streams, measured token by token.

    locust -f loadtest/locustfile.py --headless -H http://127.0.0.1:8080 --rate 20 -t 2m --html load.html
    locust -f loadtest/locustfile.py --headless -H http://127.0.0.1:8080 -u 50 -r 5 -t 2m --processes 4
    locust -f loadtest/locustfile.py --headless -H http://127.0.0.1:8080 --rate 5 --shape day --batches 2 -t 5m

With `--rate` the load is open loop: requests start at their times whatever became of the ones before, `--shape` moves
the rate, and with several processes each takes its share of one common schedule. Without it, `-u` users each send one
request after another and the shape moves their number. Either way latency counts from when the request should
have started, and an answer that is not whole is a failure.

Rows: `POST` is the whole answer; `stream` rows are TTFT, TPOT, gaps between tokens and output tokens/s; `SLO` counts
every request, and as failed those that missed it, so its rate of successes is the goodput; `generator` is how late
the generator itself was. All but `POST` are written to locust's statistics as entries of their own, so they do not
count in `Aggregated`, which stays what it says: requests. (Times are in ms; locust rounds them.) With `--batches` as
many users send batches beside them (`batch_user`), in rows of kind `batch`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import gevent  # type: ignore[import-untyped]  # ships no types
from locust import LoadTestShape, User, events, task
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

_HERE = Path(__file__).resolve().parent
if str(_HERE.parent) not in sys.path:  # locust puts only this folder on the path
    sys.path.insert(0, str(_HERE.parent))

from loadtest import replay  # noqa: E402
from loadtest.batch_user import BatchUser  # noqa: E402
from loadtest.blocking import BlockingClient  # noqa: E402
from loadtest.client import Exchange, Target  # noqa: E402
from loadtest.measure import LAG_LIMIT, Record, Slo  # noqa: E402
from loadtest.models import first_model  # noqa: E402
from loadtest.open_loop import to_record  # noqa: E402
from loadtest.prompts import PromptMaker  # noqa: E402
from loadtest.workload import SHAPES, Item, WorkloadError, read_trace, shape  # noqa: E402

log = logging.getLogger("loadtest")
DEFAULT_SECONDS = 60.0  # without -t
LEAD = 0.3  # s before the first start of a schedule, so that it is not late
DRAIN = 60.0  # s that answers under way get at the end, unless --stop-timeout says otherwise
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
    group.add_argument("--model", default="", help="model name to ask for (the first of /v1/models)")
    group.add_argument("--path", default="/v1/chat/completions", help="path to post to")
    parser.add_argument(
        "--api-key", default="", env_var="LOADTEST_API_KEY", is_secret=True, help="sent as bearer token"
    )
    group.add_argument("--slo-ttft", type=replay.parse_duration, default=1.0, help="goodput: first token within")
    group.add_argument("--slo-tpot", type=replay.parse_duration, default=0.1, help="goodput: per further token within")
    group.add_argument("--think", type=replay.parse_duration, default=0.0, help="closed loop: pause of a user")
    group.add_argument("--batches", type=int, default=0, help="users that send one batch after another, beside")
    group.add_argument("--batch-lines", type=int, default=500, help="requests in each batch")
    group.add_argument("--batch-tokens", default="500,100", help="PROMPT,OUTPUT of each of them")
    group.add_argument("--seed", type=int, default=0, help="of the arrivals")


def build_items(options: argparse.Namespace) -> list[Item]:
    """The whole schedule (open loop), or the lengths to draw from (closed loop). Raises WorkloadError."""
    if options.rate > 0:
        asked = argparse.Namespace(**vars(options))
        asked.speedup, asked.start, asked.limit = None, 0.0, replay.MAX_REQUESTS
        items = replay.build(asked)
    else:
        items = read_trace(options.trace)
    if not options.tokens:
        return items
    prompt, output = lengths_of("--tokens", options.tokens)
    return [replace(item, prompt_tokens=prompt, output_tokens=output, blocks=(), block_size=0) for item in items]


def lengths_of(option: str, value: str) -> tuple[int, int]:
    """PROMPT,OUTPUT in tokens. Raises WorkloadError."""
    prompt, _, output = value.partition(",")
    if not (prompt.isdigit() and output.isdigit() and int(prompt) and int(output)):
        raise WorkloadError(f"{option} {value!r} is not PROMPT,OUTPUT such as 500,100")
    return int(prompt), int(output)


@dataclass(frozen=True, slots=True)
class Workload:
    """What the users of one process send. `numbers` makes the prompts of a closed loop differ."""

    items: list[Item]
    prompts: PromptMaker
    numbers: count[int]


def headers_of(options: argparse.Namespace) -> dict[str, str]:
    """The headers every request carries."""
    return {"authorization": f"Bearer {options.api_key}"} if options.api_key else {}


def slo_of(options: argparse.Namespace) -> Slo:
    """The limits of goodput."""
    return Slo(options.slo_ttft, options.slo_tpot)


def slo_row(slo: Slo) -> tuple[str, str]:
    """Name and kind of the row that counts goodput."""
    return f"TTFT<={(slo.ttft or 0) * 1e3:.0f}ms TPOT<={(slo.tpot or 0) * 1e3:.0f}ms", "SLO"


def on_init(environment: Environment, **_: Any) -> None:
    """Check the options before anything starts."""
    options: Any = environment.parsed_options
    options.workers = 1
    options.seconds = float(options.run_time or DEFAULT_SECONDS)
    options.prompt_seed = time.time_ns() % 1_000_000_007  # texts never sent before: no prefix cache helps by accident
    environment.stop_timeout = environment.stop_timeout or DRAIN
    try:
        build_items(options)
        lengths_of("--batch-tokens", options.batch_tokens)
        if options.batches < 0 or not 1 <= options.batch_lines <= 50_000:
            raise WorkloadError("--batches is 0 or more, --batch-lines from 1 to 50,000")
    except WorkloadError as error:
        log.error("%s", error)
        sys.exit(2)
    BatchUser.fixed_count = options.batches
    if not options.batches:
        environment.user_classes.remove(BatchUser)


def on_test_start(environment: Environment, **_: Any) -> None:
    """A master notes how many share the schedule; who sends makes the workload, once a process."""
    options: Any = environment.parsed_options
    if not isinstance(environment.runner, WorkerRunner):
        options.seconds = float(options.run_time or DEFAULT_SECONDS)  # the web page may have changed it
        options.model = options.model or first_model(environment.host or "", headers_of(options))
    if isinstance(environment.runner, MasterRunner):
        options.workers = environment.runner.worker_count  # locust hands a master's options on to its workers
    else:
        StreamUser.workload = Workload(build_items(options), PromptMaker(options.prompt_seed), count())


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
        100 * kept / row.num_requests, row.num_requests, row.name, kept / options.seconds,
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
        """Users wanted now and users per second to get there; None ends the test."""
        assert self.runner is not None
        options: Any = self.runner.environment.parsed_options
        now = time.perf_counter() - self.start_time
        if now >= options.seconds:  # no new starts; answers under way may finish, and only then is the test over
            over = now > options.seconds + 1 and (
                not self.runner.user_count or now > options.seconds + self.runner.environment.stop_timeout
            )
            return None if over else (0, 100.0)
        if options.rate > 0:
            drivers = self.runner.worker_count if isinstance(self.runner, MasterRunner) else 1
            return drivers + options.batches, 100.0
        most = options.num_users or 1
        users = max(1, round(shape(options.shape, most, options.seconds)(now))) + options.batches
        return users, float(options.spawn_rate or most)


class StreamUser(User):
    """Sends prompts of exact length, reads the streams, and reports what it measured."""

    workload: ClassVar[Workload]  # set when the test starts; reading a trace once per user would stall the others

    def on_start(self) -> None:
        options: Any = self.environment.parsed_options
        self.options = options
        self.slo = slo_of(options)
        self.connections = BlockingClient(
            Target.parse(self.host or "", options.path, headers_of(options)), time.monotonic
        )
        runner = self.environment.runner
        self.index = runner.worker_index if isinstance(runner, WorkerRunner) else 0
        self.zero = time.monotonic()
        self.over = False

    @task
    def load(self) -> None:
        """One request (closed loop), or this process's share of the schedule, once (open loop)."""
        if self.options.rate <= 0:
            self._one_after_another()
        elif self.over:
            gevent.sleep(0.2)
        else:
            self._on_schedule()
            self.over = True

    def _one_after_another(self) -> None:
        due = time.monotonic() - self.zero + self.options.think
        items = self.workload.items
        number = next(self.workload.numbers) * self.options.workers + self.index
        exchange = self._prepare(replace(items[number % len(items)], at=due), number)
        gevent.sleep(max(0.0, self.zero + due - time.monotonic()))
        self.connections.send(exchange)

    def _on_schedule(self) -> None:
        running: set[gevent.Greenlet[..., None]] = set()
        self.zero = time.monotonic() + LEAD
        for number, item in self._share():
            exchange = self._prepare(item, number)
            wait = self.zero + item.at - time.monotonic()
            if wait > 0:
                gevent.sleep(wait)
            greenlet = gevent.spawn(self.connections.send, exchange)
            running.add(greenlet)
            greenlet.link(running.discard)
        gevent.joinall(list(running))

    def _share(self) -> list[tuple[int, Item]]:
        workers = self.options.workers
        return list(enumerate(self.workload.items))[self.index % workers :: workers]

    def _prepare(self, item: Item, number: int) -> Exchange:
        body = self.workload.prompts.body(item, number, self.options.model, self.options.path)
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
