"""llama.cpp's page and errors, recorded from a real server."""

import math

import pytest

from backends import Meaning, create
from tests.backends.pages import load_of, recorded


def test_a_recorded_page_without_any_label_is_read():
    load = load_of("llamacpp", recorded("llamacpp_under_load"))
    assert (load.waiting, load.running) == (8.0, 4.0)


def test_the_kv_usage_that_recent_builds_leave_out_is_unknown_and_not_zero():
    assert math.isnan(load_of("llamacpp", recorded("llamacpp_under_load")).kv_used)


def test_the_kv_usage_of_older_builds_is_read():
    page = b"llamacpp:requests_deferred 0\nllamacpp:requests_processing 1\nllamacpp:kv_cache_usage_ratio 0.5\n"
    assert load_of("llamacpp", page).kv_used == 0.5


def test_prompt_tokens_include_the_cached_ones_though_its_own_counter_does_not():
    load = load_of("llamacpp", recorded("llamacpp_under_load"))
    assert (load.prompt_tokens, load.cached_tokens) == (53.0 + 49.0, 49.0)


@pytest.mark.parametrize(("status", "body", "meaning"), [
    (503, b'{"error":{"code":503,"message":"no slot available","type":"unavailable_error"}}', Meaning.SATURATED),
    (503, b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}', Meaning.FAILED),
    (400, b'{"error":{"code":400,"message":"request (6001 tokens) exceeds the available context size (1024 tokens), '
          b'try increasing it","type":"exceed_context_size_error"}}', Meaning.CLIENT),
])  # fmt: skip
def test_no_free_slot_is_saturation_and_a_loading_model_is_not(status, body, meaning):
    assert create("llamacpp").meaning(status, body) is meaning
