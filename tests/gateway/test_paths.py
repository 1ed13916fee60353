"""The allow-list of paths: what is served, and that nothing is reached by another spelling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.types import ModelFrom, PathRule
from gateway.paths import Paths, is_asynchronous

PATHS = Paths([
    PathRule("/predict", ModelFrom("default", "mine")),
    PathRule("/by-header", ModelFrom("header", "X-Model")),
    PathRule("/models/{model}/predict", ModelFrom("path")),
    PathRule("/v1/classify"),
])  # fmt: skip
SERVED = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/messages",
          "/v1/messages/count_tokens", "/v1/score", "/v1/rerank", "/tokenize", "/detokenize",
          "/v1/audio/transcriptions", "/v1/audio/translations", "/predict", "/by-header", "/v1/classify"]  # fmt: skip


@pytest.mark.parametrize("path", SERVED)
def test_every_path_of_the_contract_is_served(path: str) -> None:
    found = PATHS.find(path.encode())
    assert found is not None and found[1] is None


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v2/models/resnet/infer", "resnet"), ("/v2/models/a.b-c_1/generate", "a.b-c_1"),
        ("/v2/models/a%2Fb/generate_stream", "a%2Fb"), ("/models/x/predict", "x"),
    ],
)  # fmt: skip
def test_a_model_is_read_from_the_path(path: str, model: str) -> None:
    found = PATHS.find(path.encode())
    assert found is not None and found[1] == model


@pytest.mark.parametrize(
    "path",
    [
        "/sleep", "/wake_up", "/flush_cache", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/collective_rpc",
        "/reset_prefix_cache", "/start_profile", "/metrics", "/health", "/version", "/v2/repository/index", "/docs",
        "/v2/models/x/unload", "/v2/repository/models/x/load", "/v1/chat/completions/", "//v1/chat/completions",
        "/V1/chat/completions", "/v1/chat/completions/../../../sleep", "/v1/../sleep", "/v1/%2e%2e/sleep",
        "/v2/models/../sleep", "/v2/models/../infer", "/v2/models/./infer", "/v2/models/%2E%2e/infer",
        "/v2/models/..%2f..%2fsleep/infer", "/v2/models/a%5C..%5cb/infer", "/models/../predict",
        "/v2/models/a/b/infer", "/v2/models//infer", "/v1/chat%2fcompletions",
        "/v1\\completions",
        "/v2/models/x/infer/../../unload", "/predict;x", "/api/config", "", "/",
    ],
)  # fmt: skip
def test_nothing_else_exists_however_it_is_spelt(path: str) -> None:
    assert PATHS.find(path.encode()) is None


def test_an_error_is_worded_as_the_paths_sdk_expects() -> None:
    said = {path: PATHS.dialect(path.encode()).name for path in (
        "/v1/messages", "/v1/messages/count_tokens", "/v1/responses", "/v2/models/x/infer", "/nowhere")}  # fmt: skip
    assert list(said.values()) == ["anthropic", "anthropic", "responses", "triton", "openai"]


@given(st.binary(max_size=60))
def test_any_bytes_are_a_known_path_or_none(raw: bytes) -> None:
    found = PATHS.find(raw)
    assert found is None or raw.decode("ascii") in SERVED or found[1]


@pytest.mark.parametrize(
    ("path", "upstream", "becomes"),
    [
        ("/v2/models/m/infer", "other", "/v2/models/other/infer"),
        ("/v2/models/v2/infer", "other", "/v2/models/other/infer"),
        ("/v2/models/infer/infer", "other", "/v2/models/other/infer"),
        ("/v2/models/m/infer", "org/name v1?", "/v2/models/org%2Fname%20v1%3F/infer"),
        ("/models/models/predict", "x", "/models/x/predict"),
    ],
)
def test_a_model_in_the_path_is_renamed_where_it_stands(path: str, upstream: str, becomes: str) -> None:
    assert PATHS.renamed(path.encode(), upstream) == becomes.encode()


LATER = [b"/v1/files", b"/v1/files/file-1/content", b"/v1/batches", b"/v1/batches/b/cancel", b"/v1/jobs/j"]


@pytest.mark.parametrize("raw", LATER)
def test_asynchronous_work_is_asynchronous(raw: bytes) -> None:
    assert is_asynchronous(raw)


@pytest.mark.parametrize("raw", [b"/v1/filesystem", b"/v1/models", b"/v1/chat/completions", b"/files"])
def test_other_paths_are_not(raw: bytes) -> None:
    assert not is_asynchronous(raw)
