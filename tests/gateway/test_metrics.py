"""The metrics: the contract's names and labels, what is counted, what is absent, and how far it can grow."""

import math
import random

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.fleet import Fleet
from gateway.core.health import Evidence, Rule
from gateway.core.prediction import PredictorReport
from gateway.core.types import Decision, Endpoint, Load, Request
from gateway.gauges import Filled, Gauges, Queued
from gateway.jobs.model import Queue, Stats
from gateway.metric_table import RATIO, TABLE
from gateway.metrics import MAX_SETS, Metrics
from gateway.records import Forecast, RequestRecord

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

RECORD = RequestRecord(
    "r1", 1_700_000_000.0, 200, "complete", model="llama", pool="gpu", arm="stable", tenant="acme", endpoint="a",
    tries=1, overhead=0.0001, ttft=0.3, tpot=0.02, duration=1.5, prompt_tokens=100.0, cached_tokens=40.0,
    completion_tokens=60.0,
)  # fmt: skip

FORECAST = Forecast(0.2, 0.15, 0.3, 0.02, 0.018, 0.023)
NOW = 10.0


def make_fleet(*names: str) -> Fleet:
    fleet = Fleet("gpu", Rule(), random.Random(1))
    fleet.update([Endpoint(name, f"http://{name}", "gpu", "vllm") for name in names], NOW, fresh=True)
    return fleet


def watching(fleet: Fleet) -> Metrics:
    metrics = Metrics()
    metrics.watch(Gauges(
        lambda: {"gpu": fleet}, lambda: {"gpu": {"interactive": Queued(2, 0.1, 900.0, 4)}},
        lambda: {"gpu": Filled(3, 1, 1.02, 1.01, 1.0, 0.8)},
        lambda: Stats((Queue("async", "llama", 40, 8, NOW), Queue("async", "qwen", 2, 0, NOW))),
        lambda: {"async": 5}, lambda: 7, clock=lambda: NOW,
    ))  # fmt: skip
    return metrics


def read(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of ours by name and labels, as Prometheus itself would read them."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
        if sample.name.startswith("headway_")
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return read(metrics).get((name, tuple(sorted((key.rstrip("_"), label) for key, label in labels.items()))))


class Predictor:
    """As much of a predictor as the metrics look at."""

    def __init__(self, **more: object):
        figures = {"ttft_error": 0.08, "ttft_coverage": 0.9, "tpot_error": 0.12, "tpot_coverage": 0.88,
                   "calibrated": True, "samples": 700, "paces": {0: 1.0, 1: 3.1}}  # fmt: skip
        self.figures = {**figures, **more}

    def report(self) -> PredictorReport:
        return PredictorReport(**self.figures)  # type: ignore[arg-type]

    def told(self, row: int, capacity: float) -> None:
        """A scrape; nothing here."""

    def see_others(self, others: object) -> None:
        """Nor this."""


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


def test_an_endpoints_gauges_are_read_from_the_fleet_when_they_are_asked_for() -> None:
    fleet = make_fleet("a")
    metrics = watching(fleet)
    at = {"pool": "gpu", "endpoint": "a"}
    assert value(metrics, "headway_endpoint_inflight", **at) == 0.0
    fleet.observe(0, Load(NOW - 2.0, waiting=3.0, running=4.0, kv_used=0.25), 0.0)
    request = Request("r", "m", NOW, prompt_tokens=100.0, output_tokens=50.0)
    fleet.reserve(Decision(0, ""), request, NOW)
    assert value(metrics, "headway_endpoint_waiting", **at) == 3.0
    assert value(metrics, "headway_endpoint_running", **at) == 4.0
    assert value(metrics, "headway_endpoint_kv_used", **at) == 0.25
    assert value(metrics, "headway_endpoint_inflight", **at) == 1.0
    assert value(metrics, "headway_endpoint_inflight_tokens", **at) == 150.0
    assert value(metrics, "headway_endpoint_age_seconds", **at) == 2.0
    assert value(metrics, "headway_endpoint_state", **at) == 0.0
    assert value(metrics, "headway_connections") == 7.0


def test_what_a_server_has_not_said_is_absent_and_not_zero() -> None:
    names = {name for name, _ in read(watching(make_fleet("a")))}
    for what in ("waiting", "running", "kv_used", "age_seconds"):
        assert f"headway_endpoint_{what}" not in names


def test_the_state_is_a_number_that_grows_with_the_trouble() -> None:
    fleet = make_fleet("a", "b", "c")
    metrics = watching(fleet)
    fleet.see(0, Evidence.FAILURE, NOW)
    fleet.see(1, Evidence.REFUSED, NOW)
    fleet.see(1, Evidence.REFUSED, NOW)
    assert value(metrics, "headway_endpoint_state", pool="gpu", endpoint="a") == 1.0
    assert value(metrics, "headway_endpoint_state", pool="gpu", endpoint="b") == 4.0
    fleet.reserve(Decision(2, ""), Request("r", "m", NOW), NOW)
    fleet.update([fleet.endpoint(0), fleet.endpoint(1)], NOW)
    assert value(metrics, "headway_endpoint_state", pool="gpu", endpoint="c") == 5.0


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


def test_how_good_a_predictor_is_and_how_the_endpoints_differ_is_read_when_asked_for() -> None:
    fleet = make_fleet("a", "b", "c")
    metrics = watching(fleet)
    assert not [name for name, _ in read(metrics) if "prediction" in name or "pace" in name]
    fleet.predictor = Predictor()  # type: ignore[assignment]
    samples = read(metrics)
    shown = {(name, *(label for _, label in labels)): value for (name, labels), value in samples.items()
             if "prediction" in name or "pace" in name}  # fmt: skip
    assert shown == {
        ("headway_prediction_error", "gpu", "ttft"): 0.08, ("headway_prediction_error", "gpu", "tpot"): 0.12,
        ("headway_prediction_coverage", "gpu", "ttft"): 0.9, ("headway_prediction_coverage", "gpu", "tpot"): 0.88,
        ("headway_prediction_calibrated", "gpu"): 1.0,
        ("headway_endpoint_pace", "a", "gpu"): 1.0, ("headway_endpoint_pace", "b", "gpu"): 3.1,
    }  # fmt: skip
    fleet.predictor = Predictor(calibrated=False, ttft_error=math.nan, ttft_coverage=math.nan, paces={})  # type: ignore[assignment]
    assert value(metrics, "headway_prediction_calibrated", pool="gpu") == 0.0
    assert value(metrics, "headway_prediction_error", pool="gpu", what="ttft") is None
    assert value(metrics, "headway_endpoint_pace", pool="gpu", endpoint="a") is None


def test_an_endpoint_that_left_has_no_gauges_and_loses_its_counters_one_scrape_later() -> None:
    fleet = make_fleet("a", "b")
    metrics = watching(fleet)
    metrics.upstream_failed("gpu", "b")
    metrics.scrape_failed("gpu", "b", "timeout")
    metrics.text()
    fleet.update([fleet.endpoint(0)], NOW)
    last = {name for name, labels in read(metrics) if ("endpoint", "b") in labels}
    assert last == {"headway_upstream_failures_total", "headway_scrape_failures_total"}
    assert not [name for name, labels in read(metrics) if ("endpoint", "b") in labels]


def test_a_thousand_endpoints_come_and_go_without_leaving_series_behind() -> None:
    fleet = make_fleet("first")
    metrics = watching(fleet)
    metrics.text()
    before = len(read(metrics))
    for number in range(1000):
        name = f"e{number}"
        fleet.update([fleet.endpoint(0), Endpoint(name, f"http://{name}", "gpu", "vllm")], NOW)
        metrics.upstream_failed("gpu", name)
    fleet.update([fleet.endpoint(0)], NOW)
    metrics.text()
    assert len(read(metrics)) == before


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
