"""How each SDK is told of an error."""

import json

import pytest

from gateway.core.errors import BadRequest, HeadwayError, NoEndpoint, Refused, UpstreamError
from gateway.dialects import ANTHROPIC, OPENAI, RESPONSES, TRITON, Dialect

ERRORS = [
    (BadRequest("no", param="model"), "invalid_request_error", "invalid_request_error"),
    (BadRequest("no", status=401), "authentication_error", "authentication_error"),
    (BadRequest("no", status=403), "permission_error", "permission_error"),
    (BadRequest("no", status=404), "not_found_error", "not_found_error"),
    (HeadwayError("no", status=413), "invalid_request_error", "request_too_large"),
    (Refused("no", reason="queue_full"), "rate_limit_error", "rate_limit_error"),
    (NoEndpoint("no"), "server_error", "overloaded_error"),
    (UpstreamError("no", cause="x"), "server_error", "api_error"),
    (UpstreamError("no", cause="x", status=504), "server_error", "timeout_error"),
]


@pytest.mark.parametrize(("error", "openai", "anthropic"), ERRORS)
def test_each_status_has_the_type_its_sdk_knows(error: HeadwayError, openai: str, anthropic: str) -> None:
    said = json.loads(OPENAI.body(error))["error"]
    assert said == {"message": "no", "type": openai, "code": error.code, "param": error.param}
    assert json.loads(RESPONSES.body(error))["error"] == said
    assert json.loads(ANTHROPIC.body(error)) == {"type": "error", "error": {"type": anthropic, "message": "no"}}
    assert json.loads(TRITON.body(error)) == {"error": "no"}


@pytest.mark.parametrize(
    ("dialect", "name"), [(OPENAI, None), (ANTHROPIC, b"error"), (RESPONSES, b"error"), (TRITON, None)]
)
def test_an_event_is_one_event(dialect: Dialect, name: bytes | None) -> None:
    event = dialect.event(UpstreamError("line\nbreak", cause="x"))
    assert event.endswith(b"\n\n") and event.count(b"\n\n") == 1
    assert event.startswith(b"data: " if name is None else b"event: error\ndata: ")
    found = json.loads(event.split(b"data: ", 1)[1])
    assert "line\nbreak" in json.dumps(found, ensure_ascii=False).encode().decode("unicode_escape")
