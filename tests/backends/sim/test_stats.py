"""The metrics page against a recorded one, and against what really happened."""

import re
from pathlib import Path
from random import Random

from prometheus_client.parser import text_string_to_metric_families

from backends.sim.engine import Engine, EngineOptions
from backends.sim.generation import SimRequest
from backends.sim.profiles import profile
from backends.sim.stats import Gauges, Histogram, Stats

CAPTURE = Path(__file__).parents[2] / "data" / "sim" / "vllm_metrics.txt"


def served(count: int = 5, output: int = 20) -> tuple[Engine, Stats]:
    engine = Engine(profile("h100_llama-3.1-8b_bf16_tp1"), EngineOptions(), Random(0))
    stats = Stats("small-llama", 1.75e9)
    for i in range(count):
        engine.submit(SimRequest(str(i), 64, output, [("p", k) for k in range(4)]), 1.0)
    while engine.in_flight:
        step = engine.step(engine.next_event_at())
        stats.observe(step, engine)
        for g in step.finished:
            stats.finished(g, "length", output, 1)
    return engine, stats


def series(page: str) -> dict[str, set[str]]:
    """Label names by series name."""
    found: dict[str, set[str]] = {}
    for line in page.splitlines():
        match = re.match(r"(vllm:\w+)(?:\{(.*)\})? \S+$", line)
        if match:
            found.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2] or ""))
    return found


def bounds(page: str) -> dict[str, list[str]]:
    """Bucket bounds by histogram."""
    found: dict[str, list[str]] = {}
    for name, bound in re.findall(r'(vllm:\w+)_bucket\{[^}]*le="([^"]+)"', page):
        found.setdefault(name, []).append(bound)
    return found


def test_names_labels_and_buckets_are_those_of_a_recorded_vllm() -> None:
    recorded = CAPTURE.read_text()
    page = Stats("small-llama", 1.75e9).text(served()[0]).decode()
    real, ours = series(recorded), series(page)
    for name, labels in ours.items():
        assert name in real
        if name != "vllm:cache_config_info":
            assert labels == real[name], name
    assert bounds(page).items() <= bounds(recorded).items()
    for needed in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "cache_config_info"):
        assert f"vllm:{needed}" in ours


def test_the_page_is_valid_prometheus_text() -> None:
    engine, stats = served()
    page = stats.text(engine).decode()
    assert len(list(text_string_to_metric_families(page))) > 20


def value(page: bytes, start: str) -> float:
    return next(float(line.split(" ")[1]) for line in page.decode().splitlines() if line.startswith(start))


def test_counters_are_what_happened() -> None:
    engine, stats = served(count=5, output=20)
    page = stats.text(engine)
    assert value(page, "vllm:prompt_tokens_total") == 5 * 64
    assert value(page, "vllm:generation_tokens_total") == 5 * 20
    assert value(page, "vllm:prefix_cache_queries_total") == 5 * 64
    assert value(page, "vllm:prefix_cache_hits_total") == 4 * 48
    assert value(page, 'vllm:request_success_total{engine="0",finished_reason="length"') == 5
    assert value(page, "vllm:time_to_first_token_seconds_count") == 5
    assert value(page, "vllm:inter_token_latency_seconds_count") == 5 * 19
    assert value(page, "vllm:e2e_request_latency_seconds_count") == 5


def test_gauges_lag_by_an_iteration_and_a_frozen_engine_reads_as_idle() -> None:
    engine = Engine(profile("h100_llama-3.1-8b_bf16_tp1"), EngineOptions(max_seqs=1), Random(0))
    stats = Stats("m", 1.75e9)
    pages: list[tuple[float, float]] = []
    for name, count in (("a", 1), ("b", 0), ("c", 0)):
        for i in range(3 * count):
            engine.submit(SimRequest(f"{name}{i}", 64, 20), 1.0)
        stats.observe(engine.step(engine.next_event_at()), engine)
        page = stats.text(engine)
        pages.append((value(page, "vllm:num_requests_running"), value(page, "vllm:num_requests_waiting{")))
    assert pages == [(0, 0), (1, 2), (1, 2)]
    assert value(stats.text(engine), "vllm:kv_cache_usage_perc") > 0
    frozen = stats.text(engine, idle=True)
    assert value(frozen, "vllm:num_requests_running") == value(frozen, "vllm:kv_cache_usage_perc") == 0


def test_when_the_last_one_leaves_the_gauges_say_so() -> None:
    engine = Engine(profile("h100_llama-3.1-8b_bf16_tp1"), EngineOptions(max_seqs=1), Random(0))
    stats = Stats("m", 1.75e9)
    for name in "ab":
        engine.submit(SimRequest(name, 64, 20), 1.0)
    for _ in range(3):
        stats.observe(engine.step(engine.next_event_at()), engine)
    assert (stats.gauges.running, stats.gauges.waiting) == (1, 1)
    engine.abort("a", 1.0)
    engine.abort("b", 1.0)
    stats.observe(engine.step(engine.next_event_at()), engine)
    assert stats.gauges == Gauges(0, 0, 0.0)


def test_a_value_on_a_bound_belongs_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for v in (1.0, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(v)
    assert histogram.counts == [2, 2, 1]
    assert histogram.total == 8.0
