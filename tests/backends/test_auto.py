"""Finding out which engine an endpoint is, by pages of real servers."""

import pytest

from backends import ENGINES, create, detect, telling_pages
from tests.backends.pages import recorded


@pytest.mark.parametrize(("page", "engine"), [
    ("vllm_under_load", "vllm"), ("vllm_data_parallel_2", "vllm"), ("llamacpp_under_load", "llamacpp"),
])  # fmt: skip
def test_an_engine_is_known_by_its_recorded_metrics(page, engine):
    assert detect({"/metrics": recorded(page)}) == engine


def test_triton_is_known_by_its_metrics_two_ports_above_or_by_its_server_page():
    assert detect({"+2/metrics": recorded("triton_under_load")}) == "triton"
    assert detect({"/v2": b'{"name":"triton","version":"2.51.0","extensions":[]}'}) == "triton"


@pytest.mark.parametrize(("line", "engine"), [
    (b"sglang:num_queue_reqs 0", "sglang"), (b"lmdeploy:num_requests_waiting 0", "lmdeploy"),
    (b"tgi_queue_size 0", "tgi"), (b"trtllm_num_requests_waiting 0", "trtllm"),
    (b"jetstream_prefill_backlog_size 0", "jetstream"),
])  # fmt: skip
def test_an_engine_is_known_by_the_prefix_of_its_names(line, engine):
    assert detect({"/metrics": b"# HELP x\n" + line + b"\n"}) == engine


def test_an_engine_without_metrics_is_known_by_the_owner_of_its_models():
    assert detect({"/v1/models": b'{"object":"list","data":[{"id":"m","owned_by":"vllm"}]}'}) == "vllm"
    assert detect({"/v1/models": b'{"object":"list","data":[{"id":"m","owned_by":"llamacpp"}]}'}) == "llamacpp"


@pytest.mark.parametrize("pages", [
    {}, {"/metrics": b""}, {"/metrics": b"<html>vllm: </html>"}, {"/metrics": b"# about vllm:\nup 1\n"},
    {"/v1/models": b'{"object":"list","data":[]}'}, {"/v1/models": b"not json"}, {"/v1/models": b"[]"},
    {"/v1/models": b'{"data":[{"owned_by":"acme"},5]}'}, {"/v2": b'{"name":"other"}'}, {"/v1/models": b"[" * 5000},
])  # fmt: skip
def test_pages_that_tell_nothing_leave_it_unknown(pages):
    assert detect(pages) is None


def test_the_pages_to_ask_for():
    pages = telling_pages("http://h:8000/base")
    assert pages["/metrics"] == "http://h:8000/base/metrics"
    assert pages["+2/metrics"] == "http://h:8002/metrics"


def test_until_it_is_known_an_endpoint_is_treated_as_plain_http():
    auto, http = create("auto"), create("http")
    assert (auto.metrics_path, auto.injects_usage, auto.orca_header) == (None, http.injects_usage, http.orca_header)


def test_whatever_is_found_has_an_adapter():
    assert {"vllm", "sglang", "llamacpp", "lmdeploy", "tgi", "trtllm", "triton", "jetstream"} < set(ENGINES)
