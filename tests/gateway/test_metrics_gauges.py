"""What metrics read from a fleet when they are asked: its endpoints, its predictor, and who has left."""

import math

from gateway.core.health import Evidence
from gateway.core.types import Decision, Endpoint, Load, Request
from tests.support.measured import NOW, Predictor, make_fleet, read, value, watching


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
