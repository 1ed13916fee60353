"""Load reports in response headers, as vLLM writes them, and what else may come."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import create
from backends.orca import parse_orca

JSON = 'JSON {"named_metrics": {"num_requests_waiting": 2.0, "kv_cache_usage_perc": 0.25}}'
TEXT = "TEXT named_metrics.num_requests_waiting=2.0, named_metrics.kv_cache_usage_perc=0.25"


@pytest.mark.parametrize("value", [JSON, TEXT, JSON.replace("JSON", "json")])
def test_both_forms_say_the_same(value):
    load = create("vllm").orca(value, 7.0)
    assert load is not None
    assert (load.at, load.waiting, load.kv_used) == (7.0, 2.0, 0.25)
    assert math.isnan(load.running)


@pytest.mark.parametrize("value", [
    "", "JSON", "JSON {", "JSON []", 'JSON {"named_metrics": 5}', 'JSON {"named_metrics": {"other": 1}}',
    "BIN CgoKBA==", "TEXT", "TEXT =,=", "TEXT named_metrics.kv_cache_usage_perc=nan", "x" * 10_000,
    'JSON {"named_metrics": {"kv_cache_usage_perc": 1e400}}', 'JSON {"named_metrics": {"kv_cache_usage_perc": true}}',
    'JSON {"named_metrics": {"num_requests_waiting": -1}}', "JSON " + "[" * 3000,
])  # fmt: skip
def test_what_says_nothing_of_use_is_no_report(value):
    assert create("vllm").orca(value, 0.0) is None


def test_tritons_names_are_known():
    said = '{"kv_cache_utilization": 0.5, "max_token_capacity": 4096}'
    load = create("triton").orca(f'JSON {{"named_metrics": {said}}}', 0.0)
    assert load is not None
    assert (load.kv_used, load.kv_capacity) == (0.5, 4096.0)


@given(st.text(max_size=200), st.sampled_from(["", "JSON ", "TEXT "]))
def test_no_header_value_raises(text, form):
    parse_orca(form + text)
