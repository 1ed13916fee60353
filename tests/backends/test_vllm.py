"""vLLM's page and errors, recorded from a real server, and the traps they hold."""

import math

import pytest

from backends import Meaning, create
from backends.samples import Samples, ScrapeError
from tests.backends.pages import load_of, recorded


def test_a_recorded_page_under_load_is_read():
    load = load_of("vllm", recorded("vllm_under_load"), 7.0)
    assert (load.at, load.waiting, load.running) == (7.0, 16.0, 4.0)
    assert load.kv_used == pytest.approx(0.4242, abs=1e-4)
    assert load.kv_capacity == 3200.0
    assert (load.prompt_tokens, load.cached_tokens) == (1476.0, 192.0)


def test_the_engines_of_a_data_parallel_server_are_summed():
    load = load_of("vllm", recorded("vllm_data_parallel_2"))
    assert (load.waiting, load.running) == (4.0, 8.0)
    assert load.kv_used == pytest.approx(0.5657, abs=1e-4)


def test_the_waiting_by_reason_are_not_added_to_the_waiting():
    page = b'vllm:num_requests_waiting_by_reason{reason="deferred"} 50\nvllm:num_requests_running 1\n'
    with pytest.raises(ScrapeError):
        load_of("vllm", page)
    assert load_of("vllm", page + b"vllm:num_requests_waiting 2\n").waiting == 2.0


def test_with_statistics_switched_off_the_page_has_no_series_and_the_scrape_fails():
    with pytest.raises(ScrapeError) as caught:
        load_of("vllm", b"# HELP python_info\npython_info 1\nprocess_cpu_seconds_total 7\n")
    assert caught.value.cause == "missing"


def test_the_time_a_counter_was_created_is_not_its_value():
    load = load_of("vllm", recorded("vllm_under_load"))
    assert load.prompt_tokens < 1e6 and load.cached_tokens < 1e6


def test_the_current_lora_line_is_the_newest_of_those_that_piled_up():
    samples = Samples(recorded("vllm_lora_under_load"), ["vllm:lora_requests_info"])
    assert samples.newest("vllm:lora_requests_info")["running_lora_adapters"] == "adapter-0,adapter-1"


def test_the_names_of_the_old_engine_are_read_and_its_swapped_requests_wait():
    load = load_of("vllm", (
        b'vllm:num_requests_waiting{model_name="m"} 3\nvllm:num_requests_running{model_name="m"} 8\n'
        b'vllm:num_requests_swapped{model_name="m"} 2\nvllm:gpu_cache_usage_perc{model_name="m"} 0.9\n'
        b'vllm:cache_config_info{block_size="16",num_gpu_blocks="1000"} 1\n'
    ))  # fmt: skip
    assert (load.waiting, load.running, load.kv_used, load.kv_capacity) == (5.0, 8.0, 0.9, 16_000.0)
    assert math.isnan(load.prompt_tokens) and math.isnan(load.cached_tokens)


def test_prefix_cache_counters_stand_in_where_cached_tokens_are_not_counted():
    page = b"vllm:num_requests_waiting 0\nvllm:num_requests_running 0\nvllm:prompt_tokens_total 900\n"
    load = load_of("vllm", page + b"vllm:prefix_cache_queries_total 800\nvllm:prefix_cache_hits_total 200\n")
    assert (load.prompt_tokens, load.cached_tokens) == (800.0, 200.0)


def test_capacity_is_the_sum_over_engines_and_unknown_if_one_does_not_tell():
    page = b"vllm:num_requests_waiting 0\nvllm:num_requests_running 0\n"
    two = b"".join(b'vllm:cache_config_info{engine="%d",kv_cache_size_tokens="3200"} 1\n' % e for e in (0, 1))
    assert load_of("vllm", page + two).kv_capacity == 6400.0
    silent = b'vllm:cache_config_info{engine="2",num_gpu_blocks="None",block_size="16"} 1\n'
    assert math.isnan(load_of("vllm", page + two + silent).kv_capacity)


@pytest.mark.parametrize(("status", "body", "meaning"), [
    (503, b'{"error":{"message":"The engine is currently busy and cannot accept new requests. Please try again later '
          b'or on a different instance.","type":"Service Unavailable","param":null,"code":503}}', Meaning.SATURATED),
    (500, b'{"error":{"message":"cannot schedule new futures after shutdown","type":"InternalServerError",'
          b'"param":null,"code":500}}', Meaning.LEAVING),
    (500, b'{"error":{"message":"EngineCore encountered an issue. See stack trace (above) for the root cause.",'
          b'"type":"InternalServerError","param":null,"code":500}}', Meaning.FAILED),
    (404, b'{"error":{"message":"The model `cannot schedule new futures after shutdown` does not exist."}}',
     Meaning.CLIENT),
    (500, b'{"error":{"message":"bad prompt: cannot schedule new futures after shutdown"}}', Meaning.FAILED),
    (401, b'{"error":"Unauthorized"}', Meaning.CLIENT),
])  # fmt: skip
def test_a_full_engine_is_saturated_a_draining_one_leaves_and_a_client_cannot_forge_either(status, body, meaning):
    assert create("vllm").meaning(status, body) is meaning


def test_the_error_event_of_a_killed_engine_is_a_failure():
    event = b'{"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}}'
    assert create("vllm").event_meaning(event) is Meaning.FAILED


def test_it_is_asked_for_usage_and_load_reports():
    backend = create("vllm")
    assert backend.injects_usage
    assert backend.orca_header == "JSON"
