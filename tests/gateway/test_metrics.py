"""The metrics: the contract's names and labels, what is counted, what is absent, and how far it can grow."""

import math
import random

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.types import Load
from gateway.gauges import Gauges
from gateway.metric_table import RATIO, TABLE
from gateway.metrics import MAX_SETS, Metrics
from gateway.records import Forecast, RequestRecord
from tests.support.measured import FORECAST, NOW, RECORD, Predictor, make_fleet, read, value, watching

# The tables of the contract and of the operators' page, written out once more: what changes breaks a promise.
CONTRACT = {
    "headway_requests_total": ("model", "pool", "arm", "class", "code"),
    "headway_ttft_seconds": ("model", "pool", "class"),
    "headway_tpot_seconds": ("model", "pool", "class"),
    "headway_e2e_seconds": ("model", "pool", "class"),
    "headway_tokens_total": ("model", "tenant", "class", "kind"),
    "headway_queue_seconds": ("class",),
    "headway_queue_requests": ("class",),
    "headway_overhead_seconds": (),
    "headway_prediction_ratio": ("pool", "what"),
    "headway_prediction_error": ("pool", "what"),
    "headway_prediction_coverage": ("pool", "what"),
    "headway_prediction_calibrated": ("pool",),
    "headway_endpoint_waiting": ("pool", "endpoint"),
    "headway_endpoint_running": ("pool", "endpoint"),
    "headway_endpoint_kv_used": ("pool", "endpoint"),
    "headway_endpoint_inflight": ("pool", "endpoint"),
    "headway_endpoint_inflight_tokens": ("pool", "endpoint"),
    "headway_endpoint_age_seconds": ("pool", "endpoint"),
    "headway_endpoint_pace": ("pool", "endpoint"),
    "headway_endpoint_state": ("pool", "endpoint"),
    "headway_refused_total": ("class", "reason"),
    "headway_retries_total": ("pool", "reason"),
    "headway_client_gone_total": ("class",),
    "headway_upstream_failures_total": ("pool", "endpoint"),
    "headway_scrape_failures_total": ("pool", "endpoint", "cause"),
    "headway_loop_lag_seconds": (),
    "headway_connections": (),
    "headway_build_info": ("version",),
    "headway_config_info": ("digest",),
    "headway_config_reload_failures_total": (),
    "headway_jobs": ("class", "state"),
    "headway_jobs_ended_total": ("class", "how"),
    "headway_jobs_at_risk": ("class",),
    "headway_filler_inflight": ("pool",),
    "headway_filler_slowdown": ("pool", "what"),
}


def one_of_each() -> Metrics:
    fleet = make_fleet("a", "b")
    fleet.predictor = Predictor()  # type: ignore[assignment]
    fleet.observe(0, Load(NOW - 0.5, waiting=3.0, running=4.0, kv_used=0.25), 0.0)
    metrics = watching(fleet)
    metrics.finished(replace(RECORD, stream=True, ttft_there=0.28, predicted=FORECAST))
    metrics.refused("interactive", "no_endpoint")
    metrics.retried("gpu", "refused")
    metrics.client_gone("interactive")
    metrics.upstream_failed("gpu", "a")
    metrics.scrape_failed("gpu", "a", "timeout")
    metrics.job_run("async", "completed")
    metrics.reload_failed()
    metrics.config_info("abc")
    metrics.loop_lag(0.003)
    return metrics


def test_asynchronous_work_is_counted_by_class_whatever_its_model() -> None:
    metrics = one_of_each()
    assert value(metrics, "headway_jobs", class_="async", state="waiting") == 42.0
    assert value(metrics, "headway_jobs", class_="async", state="claimed") == 8.0
    assert value(metrics, "headway_jobs_at_risk", class_="async") == 5.0
    assert value(metrics, "headway_jobs_ended_total", class_="async", how="completed") == 1.0
    assert value(metrics, "headway_queue_requests", class_="interactive") == 2.0


BEYOND = {
    "headway_routed_total": ("model", "rule"), "headway_shadow_total": ("what", "name"),
    "headway_mirror_total": ("model", "pool", "outcome"), "headway_captures_total": ("outcome",),
    "headway_canary_share": ("model", "rule"), "headway_canary_phase": ("model", "rule"),
}  # fmt: skip
"""More than the contract's table."""


def test_the_declarations_are_the_contracts_table_and_the_count_of_dropped_log_lines() -> None:
    declared = {each.name: each.labels for each in TABLE}
    assert declared.pop("headway_log_dropped_total") == ()
    for name, labels in BEYOND.items():
        assert declared.pop(name) == labels
    assert declared == CONTRACT


def test_after_one_of_each_event_every_name_has_exactly_its_labels() -> None:
    names: dict[str, set[tuple[str, ...]]] = {}
    for family in text_string_to_metric_families(one_of_each().text().decode()):
        whole = family.name + "_total" if family.type == "counter" else family.name
        for sample in family.samples:
            names.setdefault(whole, set()).add(tuple(sorted(set(sample.labels) - {"le"})))
    for name, labels in CONTRACT.items():
        assert names.pop(name) == {tuple(sorted(labels))}, name


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_every_name_is_declared_with_help_and_type_before_anything_has_happened(name: str) -> None:
    text = Metrics().text().decode()
    assert f"# HELP {name} " in text
    assert f"# TYPE {name} " in text


def test_a_finished_request_is_counted_once_in_each_of_its_metrics() -> None:
    metrics = Metrics()
    metrics.finished(RECORD)
    where = {"model": "llama", "pool": "gpu", "class_": "interactive"}
    assert value(metrics, "headway_requests_total", arm="stable", code="200", **where) == 1.0
    assert value(metrics, "headway_ttft_seconds_sum", **where) == 0.3
    assert value(metrics, "headway_ttft_seconds_bucket", le="0.2", **where) == 0.0
    assert value(metrics, "headway_ttft_seconds_bucket", le="0.3", **where) == 1.0, "a bound belongs to its bucket"
    assert value(metrics, "headway_ttft_seconds_bucket", le="+Inf", **where) == 1.0
    assert value(metrics, "headway_tpot_seconds_count", **where) == 1.0
    assert value(metrics, "headway_e2e_seconds_sum", **where) == 1.5
    assert value(metrics, "headway_overhead_seconds_count") == 1.0
    assert value(metrics, "headway_queue_seconds_count", class_="interactive") == 1.0
    for kind, tokens in (("prompt", 100.0), ("cached", 40.0), ("completion", 60.0)):
        assert (
            value(metrics, "headway_tokens_total", model="llama", tenant="acme", class_="interactive", kind=kind)
            == tokens
        )


def test_who_waited_in_vain_counts_among_those_who_waited_and_who_did_not_wait_does_not() -> None:
    metrics = Metrics()
    for queued in (0.0, 12.0):
        metrics.finished(replace(RECORD, tries=0, queued=queued, status=429))
    assert value(metrics, "headway_queue_seconds_count", class_="interactive") == 1.0
    assert value(metrics, "headway_queue_seconds_sum", class_="interactive") == 12.0
    assert value(metrics, "headway_e2e_seconds_count", model="llama", pool="gpu", class_="interactive") is None


def test_what_is_not_known_or_makes_no_sense_is_not_counted() -> None:
    metrics = Metrics()
    for odd in (math.nan, math.inf, -1.0):
        metrics.finished(
            replace(RECORD, ttft=odd, tpot=odd, overhead=odd, duration=odd, prompt_tokens=odd, completion_tokens=odd)
        )
    metrics.finished(replace(RECORD, prompt_tokens=1e308))
    samples = read(metrics)
    assert all(math.isfinite(number) for number in samples.values())
    assert value(metrics, "headway_ttft_seconds_count", model="llama", pool="gpu", class_="interactive") == 1.0
    assert not [labels for name, labels in samples if name == "headway_tokens_total" and ("kind", "prompt") in labels]


def test_a_request_that_was_never_sent_counts_only_as_a_request() -> None:
    metrics = Metrics()
    metrics.finished(RequestRecord("r", 0.0, 404, "rejected", path="/nowhere"))
    assert (
        value(
            metrics, "headway_requests_total", model="none", pool="none", arm="none", class_="interactive", code="404"
        )
        == 1.0
    )
    assert value(metrics, "headway_e2e_seconds_count", model="none", pool="none", class_="interactive") is None


def test_5000_requests_with_invented_models_paths_and_ids_add_at_most_20_series_and_a_small_page() -> None:
    metrics = one_of_each()
    before = len(read(metrics))
    draw = random.Random(5)
    for number in range(5000):
        metrics.finished(
            RequestRecord(
                f"id-{draw.random()}",
                0.0,
                draw.choice((400, 401, 404, 405, 413)),
                "rejected",
                path=f"/{draw.random()}",
                code=f"code-{number}",
                reason=f"reason-{number}",
            )
        )
    assert len(read(metrics)) - before <= 20
    assert len(metrics.text()) <= 200_000


def test_a_status_outside_the_registry_is_not_a_label() -> None:
    metrics = Metrics()
    for status in range(600, 999):
        metrics.finished(replace(RECORD, status=status))
    codes = {dict(labels)["code"] for name, labels in read(metrics) if name == "headway_requests_total"}
    assert codes == {"other"}


def test_label_sets_are_bounded_and_the_rest_counts_as_other() -> None:
    metrics = Metrics()
    for number in range(MAX_SETS + 10):
        metrics.finished(replace(RECORD, tenant=f"t{number}", tries=0))
    others = {"model": "other", "pool": "other", "arm": "other", "class_": "other"}
    assert value(metrics, "headway_requests_total", code="200", **others) == 10.0


def test_predictions_are_compared_with_what_was_seen_from_the_dispatch_on() -> None:
    metrics = Metrics()
    metrics.finished(replace(RECORD, stream=True, ttft=0.5, ttft_there=0.3, tpot=0.018, predicted=FORECAST))
    ratio = "headway_prediction_ratio"
    assert value(metrics, f"{ratio}_sum", pool="gpu", what="ttft") == pytest.approx(1.5)
    assert value(metrics, f"{ratio}_bucket", pool="gpu", what="ttft", le="1.25") == 0.0
    assert value(metrics, f"{ratio}_bucket", pool="gpu", what="ttft", le="2.0") == 1.0
    assert value(metrics, f"{ratio}_sum", pool="gpu", what="tpot") == pytest.approx(0.9)
    assert RATIO[0] == 0.1 and RATIO[-1] == 10.0


def test_where_nothing_was_seen_or_predicted_nothing_is_compared() -> None:
    metrics = Metrics()
    metrics.finished(replace(RECORD, stream=True, ttft_there=0.3))
    metrics.finished(replace(RECORD, stream=False, ttft_there=0.3, tpot=math.nan, predicted=FORECAST))
    for odd in (math.nan, math.inf, 0.0, -1.0):
        forecast = Forecast(odd, 0.0, 1.0, odd, 0.0, 1.0)
        metrics.finished(replace(RECORD, stream=True, ttft_there=0.3, predicted=forecast))
        metrics.finished(replace(RECORD, stream=True, ttft_there=odd, tpot=odd, predicted=FORECAST))
    assert not [name for name, _ in read(metrics) if name.startswith("headway_prediction")]


def test_only_the_configuration_in_use_is_shown() -> None:
    metrics = Metrics()
    metrics.config_info("old")
    metrics.config_info("new")
    assert value(metrics, "headway_config_info", digest="new") == 1.0
    assert value(metrics, "headway_config_info", digest="old") is None


def test_dropped_log_lines_are_counted() -> None:
    metrics = Metrics()
    metrics.watch(Gauges(log_dropped=lambda: 12))
    assert value(metrics, "headway_log_dropped_total") == 12.0
    assert value(metrics, "headway_connections") is None


def test_a_label_with_quotes_and_line_breaks_does_not_break_the_page() -> None:
    metrics = Metrics()
    metrics.finished(replace(RECORD, model='a"b\\c\nheadway_fake 1'))
    assert value(
        metrics, "headway_requests_total", model='a"b\\c\nheadway_fake 1', pool="gpu", arm="stable",
        class_="interactive", code="200",
    ) == 1.0  # fmt: skip
    assert "\nheadway_fake" not in metrics.text().decode()


def test_the_pages_together_are_the_text_and_the_process_is_in_it() -> None:
    metrics = one_of_each()
    pages = list(metrics.pages())
    assert len(pages) > len(TABLE)
    assert b"process_resident_memory_bytes" in b"".join(pages)
