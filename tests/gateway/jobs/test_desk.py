"""JSON bodies as structs, in OpenAI's words where they are none."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import BadRequest
from gateway.jobs.desk import parse_body


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    seconds: int


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    inner: Inner | None = None


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None), (b"{", "invalid_json", None), (b"[]", "invalid_value", None),
        (b'{"name": 1}', "invalid_value", "name"), (b"{}", "missing_required_parameter", "name"),
        (b'{"name": "a", "x": 1}', "unknown_parameter", "x"),
        (b'{"name": "a", "inner": {"seconds": "b"}}', "invalid_value", "inner.seconds"),
        (b'{"name": "a", "inner": {}}', "missing_required_parameter", "seconds"),
        (b'{"name": "a"} x', "invalid_json", None), (b'{"name": "\xff"}', "invalid_json", None),
        (b'{"inner":' * 3000, "unknown_parameter", "inner"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(body: bytes, code: str, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_body(body, Outer)
    assert (caught.value.code, caught.value.param) == (code, param)


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        assert isinstance(parse_body(body, Outer), Outer)
    except BadRequest as error:
        assert error.status == 400
