"""The socket of the engines, and the contract every one of them keeps."""

import math

import pytest

from backends import ENGINES, Backend, Meaning, create
from backends.base import error_message
from backends.samples import Samples, ScrapeError
from gateway.core.types import Endpoint


def at(url: str, **labels: str) -> Endpoint:
    return Endpoint(id="e", url=url, pool="p", engine="vllm", labels=labels)


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_is_made_by_its_name(name):
    assert create(name).name == name


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("body", [b"", b"# nothing\n", b"up 1\n", b"process_cpu_seconds_total 1\n"])
def test_for_every_engine_a_page_without_its_series_is_a_failed_scrape(name, body):
    backend = create(name)
    with pytest.raises(ScrapeError):
        backend.load(Samples(body, backend.wanted), 0.0)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(("status", "meaning"), [
    (200, Meaning.OK), (204, Meaning.OK), (302, Meaning.FAILED), (400, Meaning.CLIENT), (404, Meaning.CLIENT),
    (401, Meaning.CLIENT), (500, Meaning.FAILED), (502, Meaning.FAILED), (504, Meaning.FAILED),
])  # fmt: skip
def test_every_engine_keeps_to_the_general_rule_for_what_it_says_nothing_about(name, status, meaning):
    assert create(name).meaning(status, b"{}") is meaning


@pytest.mark.parametrize("name", ENGINES)
def test_a_503_of_somebody_in_between_is_a_failure(name):
    assert create(name).meaning(503, b"<html>no healthy upstream</html>") is Meaning.FAILED


def test_an_adapter_from_elsewhere_is_loaded_by_module_and_class():
    assert create("backends.vllm:VLLM").name == "vllm"


@pytest.mark.parametrize(("name", "words"), [
    ("vlm", "known: vllm"), ("nowhere:Thing", "cannot be loaded"), ("backends.vllm:Nothing", "cannot be loaded"),
    ("backends.samples:Samples", "not a subclass"),
])  # fmt: skip
def test_an_engine_that_cannot_be_made_says_why(name, words):
    with pytest.raises(ValueError, match=words):
        create(name)


def test_metrics_are_on_the_endpoints_own_port_below_its_path():
    assert create("vllm").metrics_url(at("http://h:8000/base")) == "http://h:8000/base/metrics"


def test_labels_say_where_metrics_are_if_not_where_they_usually_are():
    vllm = create("vllm")
    assert vllm.metrics_url(at("http://h:8000", metrics_url="http://other:1/m")) == "http://other:1/m"
    assert vllm.metrics_url(at("http://[::1]:8000", metrics_port="9000")) == "http://[::1]:9000/metrics"


def test_an_engine_without_metrics_has_no_metrics_url():
    assert create("http").metrics_url(at("http://h:8000")) is None
    assert create("auto").metrics_url(at("http://h:8000")) is None


@pytest.mark.parametrize(("body", "message"), [
    (b'{"error":{"message":"a","code":5}}', "a"), (b'{"error":"Unauthorized"}', "Unauthorized"),
    (b'{"detail":"Not Found"}', "Not Found"), (b'{"message":"m","code":404}', "m"), (b"plain", "plain"),
    (b'{"error":{"message":5}}', '{"error":{"message":5}}'), (b"[1]", "[1]"), (b"\xff", "\ufffd"), (b"", ""),
    (b"[" * 20_000, "[" * 16384),
])  # fmt: skip
def test_the_message_of_an_error_is_found_in_every_shape(body, message):
    assert error_message(body) == message


@pytest.mark.parametrize(("payload", "meaning"), [
    (b'{"error":{"message":"The request queue is full.","code":503}}', Meaning.SATURATED),
    (b'{"error":{"message":"bad","code":400}}', Meaning.CLIENT),
    (b'{"error":{"message":"broken","code":500}}', Meaning.FAILED),
    (b'{"error":{"message":"broken","code":"invalid"}}', Meaning.FAILED), (b'{"error":"x"}', Meaning.FAILED),
    (b"not json", Meaning.FAILED), (b'{"error":{"code":true}}', Meaning.FAILED),
    (b'{"error":{"code":200}}', Meaning.FAILED),
])  # fmt: skip
def test_an_error_event_means_what_its_code_says(payload, meaning):
    assert create("sglang").event_meaning(payload) is meaning


def test_a_bare_adapter_shows_no_load_and_reads_no_report():
    class Bare(Backend):
        name = "bare"

    with pytest.raises(ScrapeError):
        Bare().load(Samples(b"", ()), 0.0)
    assert Bare().in_body_error(b'{"error":"x"}') is False


def test_a_figure_outside_its_range_is_not_believed():
    backend = create("vllm")
    page = b"vllm:num_requests_waiting 1\nvllm:num_requests_running 1\nvllm:kv_cache_usage_perc 55\n"
    samples = Samples(page, backend.wanted)
    assert math.isnan(backend.load(samples, 0.0).kv_used)
    assert samples.bad == 1
    with pytest.raises(ScrapeError, match="requests"):
        backend.load(Samples(page.replace(b"waiting 1", b"waiting 1e9"), backend.wanted), 0.0)


@pytest.mark.parametrize(("engine", "people", "filler"), [("vllm", 0, 10), ("sglang", 10, 0), ("http", None, None)])
def test_a_priority_is_said_in_the_engine_s_own_direction(engine, people, filler):
    backend = create(engine)
    assert (backend.priority(10, 10), backend.priority(0, 10)) == (people, filler)
    assert backend.unsaid_priority is None or backend.unsaid_priority == people
