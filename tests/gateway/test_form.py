"""The model's field of a multipart form: found, replaced, and refused where it is not clear."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import BadRequest
from gateway.form import form_model, replace_form_model

KIND = b"multipart/form-data; boundary=XX"


def form(*parts: bytes, boundary: bytes = b"XX") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"


def field(name: bytes, value: bytes, more: bytes = b"") -> bytes:
    return b'Content-Disposition: form-data; name="' + name + b'"' + more + b"\r\n\r\n" + value


SOUND = field(b"file", b'\x00\xff name="model" \r\n\r\n--X', b'; filename="a.wav"\r\nContent-Type: audio/wav')


def test_the_field_is_read_and_replaced_and_the_rest_keeps_its_bytes() -> None:
    body = form(SOUND, field(b"model", b"whisper"), field(b"language", b"en"))
    assert form_model(KIND, body) == "whisper"
    assert form_model(b'Multipart/Form-Data; charset=x; Boundary="XX"; a=b', body) == "whisper"
    named = b"multipart/form-data; boundary=----WebKitFormBoundary7M"
    assert form_model(named, form(field(b"model", b"m"), boundary=b"----WebKitFormBoundary7M")) == "m"
    assert replace_form_model(KIND, body, "w-2") == form(SOUND, field(b"model", b"w-2"), field(b"language", b"en"))
    assert form_model(KIND, form(b"content-disposition: form-data; name=model\r\n\r\nm")) == "m"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"", form(field(b"model", b"m"))),
        (b"application/json", form(field(b"model", b"m"))),
        (b"multipart/form-data", form(field(b"model", b"m"))),
        (b"multipart/form-data; xboundary=XX; boundary=YY", form(field(b"model", b"m"))),
        (b"multipart/form-data; boundary=XX; boundary=YY", form(field(b"model", b"m"))),
        (b'multipart/form-data; a="; boundary=XX"; Boundary=YY', form(field(b"model", b"m"))),
        (KIND, b""),
        (KIND, form(SOUND)),
        (KIND, form(field(b"model", b"a"), field(b"model", b"b"))),
        (KIND, form(field(b"models", b"a"))),
        (KIND, form(field(b"xmodel", b"a"))),
        (KIND, form(field(b"model", b"m"), boundary=b"YY")),
        (KIND, b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\nm'),
    ],
)
def test_a_form_that_names_no_model_or_two_is_refused(kind: bytes, body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        form_model(kind, body)
    assert caught.value.status == 400


@given(st.binary(max_size=80), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(kind: bytes, body: bytes) -> None:
    for content_type in (kind, KIND, KIND + kind):
        with contextlib.suppress(BadRequest):
            form_model(content_type, body)
