"""Triton's page and errors, recorded from a real server; the TensorRT-LLM names from its documentation."""

import math

import pytest

from backends import Meaning, create
from gateway.core.types import Endpoint
from tests.backends.pages import load_of, recorded

TRT = (
    b'nv_trt_llm_request_metrics{model="t",request_type="waiting",version="1"} 3\n'
    b'nv_trt_llm_request_metrics{model="t",request_type="scheduled",version="1"} 5\n'
    b'nv_trt_llm_request_metrics{model="t",request_type="max",version="1"} 512\n'
    b'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="t",version="1"} 64\n'
    b'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="t",version="1"} 25\n'
    b'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="t",version="1"} 100\n'
    b'nv_inference_pending_request_count{model="t",version="1"} 9\n'
)


def endpoint(url: str) -> Endpoint:
    return Endpoint(id="e", url=url, pool="p", engine="triton")


def test_only_the_pending_count_is_live_and_how_many_run_is_unknown():
    load = load_of("triton", recorded("triton_under_load"))
    assert load.waiting == 39.0
    assert math.isnan(load.running) and math.isnan(load.kv_used)


def test_where_tensorrt_llm_tells_more_it_is_believed():
    load = load_of("triton", TRT)
    assert (load.waiting, load.running, load.kv_used, load.kv_capacity) == (3.0, 5.0, 0.25, 6400.0)


def test_the_fraction_is_preferred_to_used_over_all():
    fraction = b'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="t",version="1"} 0.5\n'
    assert load_of("triton", TRT + fraction).kv_used == 0.5


@pytest.mark.parametrize(("url", "metrics"), [
    ("http://h:8000", "http://h:8002/metrics"), ("http://h:18300/base", "http://h:18302/metrics"),
    ("http://h", "http://h:82/metrics"), ("https://h", "https://h:445/metrics"),
    ("http://[::1]:8000", "http://[::1]:8002/metrics"),
])  # fmt: skip
def test_its_metrics_are_two_ports_above(url, metrics):
    assert create("triton").metrics_url(endpoint(url)) == metrics


@pytest.mark.parametrize(("status", "body", "meaning"), [
    (503, b'{"error":"[request id: r1] Exceeds maximum queue size"}', Meaning.SATURATED),
    (500, b'{"error":"failed to parse the request JSON buffer: Invalid value. at 11"}', Meaning.CLIENT),
    (500, b'{"error":"Unable to parse \'data\': Shape does not match true shape of \'data\' field"}', Meaning.CLIENT),
    (500, b'{"error":"failed to load \'nope\', failed to poll from model repository"}', Meaning.FAILED),
    (500, b'{"error":"generate expects model to produce exactly 1 response, use generate stream"}', Meaning.CLIENT),
    (404, b'{"error":"Request for unknown model: \'x\' is not found"}', Meaning.CLIENT),
    (503, b'{"error":"[request id: Exceeds maximum queue size] something else"}', Meaning.FAILED),
])  # fmt: skip
def test_a_full_queue_is_saturation_and_a_malformed_request_is_the_clients_fault_though_it_is_a_500(
    status, body, meaning
):
    assert create("triton").meaning(status, body) is meaning


def test_a_200_can_be_an_error():
    triton = create("triton")
    assert triton.errs_in_ok_body
    assert triton.in_body_error(b'{"error":"generate expects model to produce exactly 1 response"}')
    assert triton.in_body_error(b'\n {"error":"x"}')
    assert not triton.in_body_error(b'{"model_name":"m","text_output":"{\\"error\\":"}')
    assert not triton.in_body_error(b"")


def test_it_knows_no_usage_on_streams():
    assert not create("triton").injects_usage
