"""Two real vLLM servers behind Headway: how good its predictions are, and whether picking by them pays.

Live from the servers' own `/metrics`, mixed prompt and answer lengths, Poisson arrivals at a share of what the two were
seen to carry. First what is predicted: after a warm-up of 100 requests, mean TTFT error at most 30 %, 80 to 95 % of the
observations in the 90 % interval. Then the same replays (texts, lengths, times) with every baseline policy in turn, in
interleaved rounds: the p95 of TTFT with `predicted_latency` is no worse than with any of them (the geometric mean of
the rounds' paired ratios is at most 1; the interval is shown with it).

    python -m tests.real.predict [--rigs DIR | --urls URL URL] [--model NAME] [--rounds N] [--share S] [--only HALF]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvloop

from loadtest.client import Target
from loadtest.lab.statistics import Interval, paired_ratio
from loadtest.measure import Record, Slo
from loadtest.open_loop import Asking
from loadtest.prompts import PromptMaker
from loadtest.replay import run_load
from loadtest.workload import Item, arrivals, constant, with_arrivals
from tests.bench.machine import machine
from tests.bench.rounds import table
from tests.evidence.forecasts import Accuracy, hindsight, read_records, tpot_accuracy, trusted, ttft_accuracy
from tests.real.ask import ask
from tests.real.rigs import DEFAULT, Headway, Report, Script, end_on_sigterm, headway, processes

OURS = "predicted_latency"
PREDICTING = (OURS, "predicted_ttft", "llmd_predicted")
BASELINES = ("round_robin", "least_inflight", "power_of_two", "least_tokens", "lmetric", "sglang_cache_aware",
             "dynamo_kv", "sticky_until_saturated", "predicted_ttft", "llmd_predicted")  # fmt: skip
PATH = "/v1/chat/completions"
PROMPT, OUTPUT = (150.0, 0.75, 30, 600), (22.0, 0.5, 8, 64)  # tokens: median, sigma of the log, least, most
WARM_UP = 100  # requests before predictions are judged
SETTLE = 15  # requests of a replay until the servers are as busy as they will be: not in its figures
NICE = "10"  # the client and the gateway come first, as if they had cores of their own: else they are what is measured
MAPE, COVERED = 0.30, (0.80, 0.95)


def lengths(count: int, seed: int, per_word: float) -> list[Item]:
    """Log-normal prompts and answers. The generator counts words, of which each is `per_word` of the model's tokens."""
    random = np.random.default_rng(seed)

    def draw(median: float, sigma: float, least: int, most: int) -> np.ndarray:
        return np.clip(np.exp(random.normal(np.log(median), sigma, count)), least, most)

    prompts, outputs = draw(*PROMPT), draw(*OUTPUT)
    return [Item(0.0, max(1, round(p / per_word)), round(o)) for p, o in zip(prompts, outputs, strict=True)]


def replay(count: int, rate: float, seed: int, per_word: float) -> list[Item]:
    """Poisson arrivals at `rate` per second."""
    times = list(arrivals(constant(rate), 2.0 * count / rate + 60.0, seed))[:count]
    return list(with_arrivals(lengths(count, seed, per_word), times))


# --- the servers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Servers:
    """The model servers under test, and what their tokenizer makes of a word of ours."""

    urls: Sequence[str]
    model: str
    per_word: float

    @staticmethod
    def at(urls: Sequence[str], model: str) -> Servers:
        text = PromptMaker(0).text(Item(0.0, 400, 1), 0)
        tokens = asyncio.run(ask(urls[0], "/tokenize", {"model": model, "prompt": text})).json["count"]
        return Servers(urls, model, tokens / 400)

    def forget(self) -> None:
        """Empty their prefix caches: the texts of a replay come again with each policy."""
        for url in self.urls:
            with urllib.request.urlopen(urllib.request.Request(f"{url}/reset_prefix_cache", b""), timeout=30):
                pass

    def cached(self) -> float:
        """Tokens of prompts that were found in a prefix cache so far."""
        total = 0.0
        for url in self.urls:
            with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
                lines = answer.read().decode().splitlines()
            total += sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:prefix_cache_hits_total{"))
        return total


# --- a gateway for each policy ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Subject:
    """A gateway that picks by one policy. Between its turns it stands still and costs nothing, but forgets nothing."""

    policy: str
    gateway: Headway
    pid: int
    where: Path
    p95: list[float] = field(default_factory=list)  # of TTFT, one for each round

    @contextmanager
    def turn(self) -> Iterator[None]:
        os.kill(self.pid, signal.SIGCONT)
        time.sleep(2.5)  # news of both servers
        try:
            yield
        finally:
            time.sleep(0.5)  # its records are written in batches
            os.kill(self.pid, signal.SIGSTOP)

    def records(self) -> list[dict[str, object]]:
        file = self.where / "records.jsonl"
        return read_records(file) if file.exists() else []  # it comes with the first of them


@contextmanager
def subject(policy: str, servers: Servers, where: Path, slots: int) -> Iterator[Subject]:
    pool = {"engine": "vllm", "endpoints": list(servers.urls), "pick": policy, "usage": "auto",
            "scrape": {"every": "500ms", "timeout": "400ms"}}  # fmt: skip
    where.mkdir(parents=True)
    config = {"pools": {"main": pool}, "models": {servers.model: {"to": "main"}},
              "decisions": {"keep": 1000, "file": str(where / "records.jsonl")}}  # fmt: skip
    with headway(where, config) as gateway:
        pid = processes(int(gateway.url.rpartition(":")[2]))[0]
        os.kill(pid, signal.SIGSTOP)
        try:
            yield Subject(policy, gateway, pid, where)
        finally:
            os.kill(pid, signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class Seen:
    """One replay, as its client saw it. Seconds; `ttfts` are of what is judged."""

    records: list[Record]
    lag: float
    ttfts: np.ndarray
    failed: int


def send(one: Subject, servers: Servers, items: Sequence[Item], seed: int, skip: int = 0) -> Seen:
    """Replay it through this gateway; the first `skip` requests are not in the figures."""
    servers.forget()
    before = servers.cached()
    with one.turn():
        target, asking = Target.parse(one.gateway.url, PATH, {}), Asking(servers.model, PATH, seed=seed)
        summary, records = uvloop.run(run_load(target, items, asking, Slo(), 120.0, 60.0))
    if (hits := servers.cached() - before) > 0:
        print(f"   {one.policy}: {hits:.0f} tokens came out of a prefix cache", flush=True)
    judged = sorted(records, key=lambda record: record.intended)[skip:]
    ttfts = np.array([record.ttft for record in judged if record.ok and record.ttft is not None])
    return Seen(records, summary["latency"]["start_lag"]["p99"], ttfts, sum(not r.ok for r in records))


# --- the two halves --------------------------------------------------------------------------------------------------


def capacity(one: Subject, servers: Servers, count: int) -> float:
    """Requests per second that the two carry: so many at once, until the last is answered."""
    seen = send(one, servers, [*lengths(count, 1, servers.per_word)], seed=90_001)
    ended = sorted(record.ended for record in seen.records)
    whole = 0.9 * count / ended[int(0.9 * count) - 1]  # without the end, when one server is idle already
    print(f"{count} requests at once: {whole:.2f} a second, {seen.failed} failed")
    return whole


def predictions(report: Report, one: Subject, servers: Servers, rate: float, count: int) -> None:
    """What was predicted against what came, after the warm-up."""
    seen = send(one, servers, replay(WARM_UP + count, rate, 7, servers.per_word), seed=90_007)
    records = one.records()
    print(f"{one.policy}: {len(seen.records)} requests, load average {os.getloadavg()[0]:.1f}")
    early, late = ttft_accuracy(records[:WARM_UP]), ttft_accuracy(records[WARM_UP:])
    print(f"   TTFT, the first {WARM_UP}: {early}")
    print(f"   TPOT after them: {tpot_accuracy(records[WARM_UP:])}")
    print(f"   four numbers fitted to these in hindsight: mean error {hindsight(records[WARM_UP:]).mape:.1%}")
    print(f"   picks by predictions, after them: {trusted(records[WARM_UP:]):.0%}")
    report.check("every request answered", seen.failed == 0, f"{seen.failed} failed")
    judge(report, "after the warm-up", late)


def judge(report: Report, when: str, found: Accuracy) -> None:
    report.check(f"TTFT, {when}: mean error at most {MAPE:.0%}", found.mape <= MAPE, found)
    low, high = COVERED
    report.check(f"TTFT, {when}: {low:.0%} to {high:.0%} in the 90 % interval", low <= found.coverage <= high,
                 f"{found.coverage:.1%}")  # fmt: skip


def play(subjects: Sequence[Subject], servers: Servers, rate: float, rounds: int, count: int) -> int:
    """Every policy on the same replay, a round at a time; the next round begins with another one. Returns failures."""
    send(subjects[-1], servers, replay(SETTLE, rate, 8, servers.per_word), seed=90_008)  # the first finds warm servers
    for one in subjects:
        if one.policy in PREDICTING and not one.records():
            send(one, servers, replay(WARM_UP, rate, 7, servers.per_word), seed=90_007)
    failed = 0
    for number in range(rounds):
        items = replay(count, rate, 100 + number, servers.per_word)
        start = number * 3 % len(subjects)
        for one in (*subjects[start:], *subjects[:start]):
            seen = send(one, servers, items, seed=91_000 + number, skip=SETTLE)
            failed += seen.failed
            one.p95.append(float(np.percentile(seen.ttfts, 95)))
            print(f"   round {number + 1}, {one.policy}: TTFT p50 {np.median(seen.ttfts):.3f} s, "
                  f"p95 {one.p95[-1]:.3f} s, start lag p99 {seen.lag * 1e3:.1f} ms, "
                  f"load average {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip
    return failed


def compare(report: Report, subjects: Sequence[Subject], failed: int) -> None:
    """The table and the bars of the rounds played."""
    ours = next(one for one in subjects if one.policy == OURS)
    ratios = {one.policy: paired_ratio(ours.p95, one.p95) for one in subjects if one is not ours}
    rows = [[one.policy, f"{statistics.median(one.p95):.3f}", " ".join(f"{p95:.2f}" for p95 in one.p95),
             *([""] * 2 if one is ours else _ratio(ratios[one.policy]))] for one in subjects]  # fmt: skip
    print(table(["policy", "TTFT p95, median, s", "of each round", "ours / its", "95 %"], rows), flush=True)
    report.check("every request of the rounds answered", failed == 0, f"{failed} failed")
    for name, ratio in ratios.items():
        report.check(f"p95 of TTFT no worse than with {name}", ratio.value <= 1.0, ", ".join(_ratio(ratio)))
    later = ttft_accuracy(ours.records()[WARM_UP:])
    print(f"all that {OURS} predicted after its warm-up: {later}; picks by it {trusted(ours.records()[WARM_UP:]):.0%}")


def _ratio(found: Interval) -> list[str]:
    return [f"{found.value:.2f} x", f"{found.low:.2f} to {found.high:.2f}"]


# --- the command -----------------------------------------------------------------------------------------------------


def everything(report: Report, servers: Servers, where: Path, options: argparse.Namespace) -> None:
    names = (OURS,) if options.only == "predictions" else (OURS, *(options.against or BASELINES))
    with ExitStack() as stack:
        subjects = [stack.enter_context(subject(name, servers, where / name, options.slots)) for name in names]
        rate = options.rate
        if not rate:
            probe = stack.enter_context(subject("least_inflight", servers, where / "probe", options.slots))
            rate = options.share * capacity(probe, servers, 60)
        print(f"rate: {rate:.2f} requests a second; {servers.per_word:.2f} tokens to a word", flush=True)
        if options.only != "comparison":
            predictions(report, subjects[0], servers, rate, options.count)
        if options.only != "predictions":
            compare(report, subjects, play(subjects, servers, rate, options.rounds, options.each))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.real.predict", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rigs", type=Path, default=DEFAULT, help="folder of the start scripts")
    parser.add_argument("--urls", nargs=2, metavar="URL", help="two servers that run already")
    parser.add_argument("--model", default="small-llama")
    parser.add_argument("--ports", nargs=2, type=int, default=[18251, 18252])
    parser.add_argument("--slots", type=int, default=64, help="sequences a server runs at once (%(default)s)")
    parser.add_argument("--share", type=float, default=0.65, help="of what they carry (%(default)s)")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second, instead of a share")
    parser.add_argument("--count", type=int, default=200, help="requests after the warm-up (%(default)s)")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--each", type=int, default=120, help="requests of a replay in a round (%(default)s)")
    parser.add_argument("--keep", metavar="DIR", help="leave the gateways' logs and records there")
    parser.add_argument("--only", choices=["predictions", "comparison"], help="one half")
    parser.add_argument("--against", nargs="+", metavar="POLICY", help="only these baselines")
    return parser.parse_args()


def main() -> int:
    options = parse()
    end_on_sigterm()
    print(f"machine: {machine()}; load average {os.getloadavg()[0]:.1f} at the start", flush=True)
    report = Report()
    with ExitStack() as stack:
        folder = options.keep or stack.enter_context(tempfile.TemporaryDirectory(prefix="real-"))
        if options.urls:
            everything(report, Servers.at(options.urls, options.model), Path(folder), options)
            return report.verdict()
        script = Script(options.rigs, "vllm_cpu.sh", {"MODEL_SIZE": "small", "MAX_SEQS": str(options.slots),
                        "KV_BLOCKS": "1000", "SERVED": options.model, "RIGS_NICE": NICE})  # fmt: skip
        if reason := script.missing():
            print(f"skipped: {reason}")
            return 0
        try:
            urls = [script.start(port) for port in options.ports]
            everything(report, Servers.at(urls, options.model), Path(folder), options)
        finally:
            for port in options.ports:
                script.stop(port)
    return report.verdict()


if __name__ == "__main__":
    sys.exit(main())
