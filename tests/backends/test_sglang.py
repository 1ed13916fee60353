"""SGLang by the names of its documentation (not tried on the real server), and the traps known of them."""

import math

import pytest

from backends import Meaning, create
from backends.samples import ScrapeError
from tests.backends.pages import load_of

PAGE = (
    b'sglang:num_queue_reqs{model_name="m"} 3\nsglang:num_running_reqs{model_name="m"} 5\n'
    b'sglang:token_usage{model_name="m"} 0.28\n'
)


def test_a_page_is_read():
    load = load_of("sglang", PAGE + (
        b'sglang:max_total_num_tokens{model_name="m"} 65536\nsglang:prompt_tokens_total{model_name="m"} 1000\n'
        b'sglang:cached_tokens_total{cache_source="device",model_name="m"} 300\n'
        b'sglang:cached_tokens_total{cache_source="host",model_name="m"} 100\n'
    ))  # fmt: skip
    assert (load.waiting, load.running, load.kv_used, load.kv_capacity) == (3.0, 5.0, 0.28, 65536.0)
    assert (load.prompt_tokens, load.cached_tokens) == (1000.0, 400.0)


def test_all_queues_count_as_waiting():
    page = PAGE + b"sglang:num_grammar_queue_reqs 2\nsglang:num_decode_prealloc_queue_reqs 4\n"
    assert load_of("sglang", page).waiting == 9.0


def test_data_parallel_ranks_are_summed_and_the_ranks_of_one_replica_are_counted_once():
    page = b"".join(
        b'sglang:%s{dp_rank="%d",pp_rank="0",tp_rank="%d"} 4\n' % (name, dp, tp)
        for name in (b"num_queue_reqs", b"num_running_reqs") for dp in (0, 1) for tp in (0, 1)
    )  # fmt: skip
    load = load_of("sglang", page)
    assert (load.waiting, load.running) == (8.0, 8.0)


def test_the_full_token_usage_is_the_better_one():
    assert load_of("sglang", PAGE + b"sglang:full_token_usage 0.75\n").kv_used == 0.75


def test_a_usage_of_minus_one_is_unknown():
    assert math.isnan(load_of("sglang", PAGE.replace(b"0.28", b"-1.0")).kv_used)


def test_the_cache_hit_rate_that_is_reset_at_each_report_is_not_used():
    load = load_of("sglang", PAGE + b"sglang:cache_hit_rate 0.9\n")
    assert math.isnan(load.cached_tokens)


def test_before_its_first_forward_pass_a_server_is_not_ready_rather_than_idle():
    with pytest.raises(ScrapeError) as caught:
        load_of("sglang", PAGE + b"sglang:max_total_num_tokens 0\n")
    assert caught.value.cause == "not_ready"


def test_an_absurd_queue_is_a_failed_scrape():
    with pytest.raises(ScrapeError):
        load_of("sglang", PAGE.replace(b"} 3\n", b"} 3e9\n"))


def test_a_full_queue_is_saturation():
    body = b'{"object":"error","message":"The request queue is full.","type":"Service Unavailable","code":503}'
    assert create("sglang").meaning(503, body) is Meaning.SATURATED
