"""Engines known by their documentation only (not tried on real servers): TensorRT-LLM, TGI, LMDeploy, JetStream."""

import math

import pytest

from backends import Meaning, create
from gateway.core.types import Endpoint
from tests.backends.pages import load_of


def endpoint(**labels: str) -> Endpoint:
    return Endpoint(id="e", url="http://h:8000", pool="p", engine="x", labels=labels)


def test_tensorrt_llm_is_read_and_its_capacity_is_blocks_times_their_size():
    page = (
        b'trtllm_num_requests_waiting{model_name="m"} 2\ntrtllm_num_requests_running{model_name="m"} 7\n'
        b"trtllm_kv_cache_utilization 0.5\ntrtllm_kv_cache_tokens_per_block 32\ntrtllm_kv_cache_max_blocks 100\n"
    )
    load = load_of("trtllm", page)
    assert (load.waiting, load.running, load.kv_used, load.kv_capacity) == (2.0, 7.0, 0.5, 3200.0)


def test_tensorrt_llms_metrics_are_not_at_its_json_page():
    assert create("trtllm").metrics_url(endpoint()) == "http://h:8000/prometheus/metrics"


def test_tgi_tells_its_queue_and_its_batch_and_nothing_of_its_cache():
    load = load_of("tgi", b"tgi_queue_size 4\ntgi_batch_current_size 16\ntgi_batch_current_max_tokens 9000\n")
    assert (load.waiting, load.running) == (4.0, 16.0)
    assert math.isnan(load.kv_used)


@pytest.mark.parametrize(("status", "body", "meaning"), [
    (429, b'{"error":"Model is overloaded","error_type":"overloaded"}', Meaning.SATURATED),
    (424, b'{"error":"Request failed during generation: CUDA error","error_type":"generation"}', Meaning.FAILED),
    (422, b'{"error":"Input validation error","error_type":"validation"}', Meaning.CLIENT),
    (429, b'{"error":"Too many requests for this key"}', Meaning.CLIENT),
])  # fmt: skip
def test_tgi_refuses_with_429_and_fails_with_424(status, body, meaning):
    assert create("tgi").meaning(status, body) is meaning


def test_lmdeploy_is_read_and_its_engines_are_summed():
    page = b"".join(
        b'lmdeploy:num_requests_waiting{engine="%d"} 1\nlmdeploy:num_requests_running{engine="%d"} 3\n'
        b'lmdeploy:gpu_cache_usage_perc{engine="%d"} 0.%d\n' % (rank, rank, rank, rank + 1)
        for rank in (0, 1)
    )
    load = load_of("lmdeploy", page)
    assert (load.waiting, load.running, load.kv_used) == (2.0, 6.0, 0.2)


def test_lmdeploys_token_counter_that_counts_twice_is_not_used():
    assert not [name for name in create("lmdeploy").wanted if "token" in name]


def test_jetstream_tells_its_backlog_and_its_slots_and_how_many_run_is_unknown():
    page = (
        b'jetstream_prefill_backlog_size{id="h"} 6\njetstream_slots_used_percentage{id="h",idx="0"} 0.5\n'
        b'jetstream_slots_used_percentage{id="h",idx="1"} 1.0\n'
    )
    load = load_of("jetstream", page)
    assert (load.waiting, load.kv_used) == (6.0, 0.75)
    assert math.isnan(load.running)


def test_jetstreams_metrics_have_a_port_of_their_own():
    jetstream = create("jetstream")
    assert jetstream.metrics_url(endpoint()) == "http://h:9100/"
    assert jetstream.metrics_url(endpoint(metrics_port="9999")) == "http://h:9999/"


def test_a_plain_server_has_no_metrics_and_its_errors_are_taken_at_face_value():
    http = create("http")
    assert http.metrics_url(endpoint()) is None
    assert http.meaning(503, b"busy") is Meaning.FAILED
    assert http.meaning(429, b"slow down") is Meaning.CLIENT
