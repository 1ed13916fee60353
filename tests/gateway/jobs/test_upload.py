"""The upload form: the same from any split, strict, and bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import BadRequest
from gateway.jobs.upload import Form

KNOWN = frozenset(("purpose", "expires_after[anchor]", "expires_after[seconds]"))
TYPE = b"multipart/form-data; boundary=b0"


def part(name: str, value: bytes, *more: bytes, filename: str | None = None) -> bytes:
    named = f'; filename="{filename}"' if filename is not None else ""
    head = f'Content-Disposition: form-data; name="{name}"{named}\r\n'.encode()
    return b"--b0\r\n" + head + b"".join(line + b"\r\n" for line in more) + b"\r\n" + value + b"\r\n"


def form(*parts: bytes, end: bytes = b"--b0--\r\n") -> bytes:
    return b"".join(parts) + end


def read(raw: bytes, step: int | None = None, limit: int = 1 << 20, kind: bytes = TYPE) -> tuple[Form, bytes]:
    """The form, and the file that came out; fed whole, or `step` bytes at a time."""
    made = Form(kind, KNOWN, limit)
    content = b"".join(made.feed(raw[at : at + (step or len(raw))]) for at in range(0, len(raw), step or len(raw)))
    made.close()
    return made, content


# Bytes in which beginnings of the delimiter abound.
NEARLY = st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--", b"b", b"0", b"\r\n--b", b"\r\n--", b"x", b"\r\n"]))
CONTENT = st.one_of(st.binary(max_size=200), NEARLY.map(b"".join)).filter(
    lambda data: b"\r\n--b0" not in b"\r\n" + data
)


@given(CONTENT, st.permutations(range(4)), st.lists(st.integers(1, 40), max_size=40))
def test_any_split_and_any_order_of_the_fields_give_the_same(content: bytes, order: list[int], cuts: list[int]) -> None:
    parts = [
        part("file", content, b"Content-Type: application/jsonl", filename="in put.jsonl"),
        part("purpose", b"batch"),
        part("expires_after[anchor]", b"created_at"),
        part("expires_after[seconds]", b"3600"),
    ]
    raw = form(*(parts[at] for at in order))
    made = Form(TYPE, KNOWN, 1 << 20)
    out, at = b"", 0
    for size in cuts:
        out += made.feed(raw[at : at + size])
        at += size
    out += made.feed(raw[at:])
    made.close()
    assert (out, made.filename, made.size) == (content, "in put.jsonl", len(content))
    assert made.values == {
        "purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"
    }  # fmt: skip


@given(CONTENT, st.binary(max_size=30), st.integers(0, 400), st.integers(1, 9))
def test_a_form_with_any_bytes_inserted_is_judged_the_same_from_any_split(
    content: bytes, inserted: bytes, at: int, step: int
) -> None:
    raw = form(part("purpose", b"batch"), part("file", content, filename="f"))
    raw = raw[:at] + inserted + raw[at:]

    def judged(step: int | None) -> object:
        try:
            made, out = read(raw, step)
        except BadRequest as error:
            return error.code
        return out, made.values, made.filename

    assert judged(None) == judged(step)


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        (b'form-data; name="file"; filename="a.jsonl"', "a.jsonl"),
        (b"form-data; name=file; filename=a.jsonl", "a.jsonl"),
        (b'form-data;name="file";filename="a\\"b\\\\.jsonl"', 'a"b\\.jsonl'),
        (b'form-data; name="file"; filename="a%22b"', 'a"b'),
        ('form-data; name="file"; filename="äö.jsonl"'.encode(), "äö.jsonl"),
        (b'Form-Data; Name="file"; FileName=""', "upload"),
        (b'form-data; name="file"', "upload"),
        (b'form-data; name="file"; filename="a"; filename*=UTF-8\'\'b', "a"),
    ],
)
def test_a_file_is_named_as_its_client_says(disposition: bytes, filename: str) -> None:
    raw = b"--b0\r\ncontent-disposition: " + disposition + b"\r\n\r\nx\r\n--b0--\r\n"
    made, content = read(raw)
    assert (made.filename, content) == (filename, b"x")


@pytest.mark.parametrize(
    "kind",
    [
        b"multipart/form-data; boundary=b0",
        b'Multipart/Form-Data;boundary="b0"',
        b"multipart/form-data; boundary=b0; charset=utf-8",
    ],
)
def test_a_boundary_is_read_in_its_usual_spellings(kind: bytes) -> None:
    assert read(form(part("file", b"x")), kind=kind)[1] == b"x"


@pytest.mark.parametrize(
    "kind",
    [
        b"",
        b"application/json",
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b"multipart/form-data; boundary=a; boundary=b",
        b"multipart/form-data; boundary=" + b"a" * 71,
        b"multipart/mixed; boundary=b0",
        b'multipart/form-data; boundary="b0',
        b"multipart/form-data; boundary*=b0",
        b'multipart/form-data; boundary="b0 "',
    ],
)
def test_a_content_type_without_one_plain_boundary_is_refused(kind: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        Form(kind, KNOWN, 10)
    assert caught.value.code == "invalid_form"


FILE = part("file", b"x", filename="f")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"--",
        b"--b1--\r\n",
        b"preamble\r\n" + form(FILE),
        b"\r\n" + form(FILE),
        form(FILE, end=b""),
        form(FILE, end=b"--b0"),
        form(FILE, end=b"--b0-"),
        form(FILE, end=b"--b0 \r\n"),
        form(FILE, end=b"--b0--\r\nx"),
        form(FILE, end=b"--b0--" + b"\r\n" * 40),
        form(FILE, FILE),
        form(part("purpose", b"batch"), part("purpose", b"batch"), FILE),
        form(part("file", b"x", b"Content-Transfer-Encoding: base64")),
        form(part("purpose", b"\xff"), FILE),
        form(part("purpose", b"a\nb"), FILE),
        form(part("purpose", b"a" * 1025), FILE),
        form(part("file", b"x", filename="a" * 1025)),
        form(part("file", b"x", b"X: " + b"a" * 9000)),
        b"--b0\r\n\r\nx\r\n--b0--\r\n",
        form(part("file", b"x", b" folded")),
        form(part("file", b"x", b"X : y")),
        form(part("file", b"x", b'Content-Disposition: form-data; name="purpose"')),
        b"--b0\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b0--\r\n",
        b"--b0\r\nContent-Type: a/b\r\n\r\nx\r\n--b0--\r\n",
        b'--b0\r\nContent-Disposition: form-data; name="file"; name="purpose"\r\n\r\nx\r\n--b0--\r\n',
        b'--b0\r\nContent-Disposition: attachment; name="file"\r\n\r\nx\r\n--b0--\r\n',
        b'--b0\r\nContent-Disposition: form-data; name="file"; other="x"\r\n\r\nx\r\n--b0--\r\n',
        b'--b0\r\nContent-Disposition: form-data; name="file"\nX: y\r\n\r\nx\r\n--b0--\r\n',
    ],
)
def test_a_malformed_form_is_refused_from_any_split(raw: bytes) -> None:
    for step in (None, 1, 2, 7):
        with pytest.raises(BadRequest) as caught:
            read(raw, step if raw else 1)
        assert caught.value.code == "invalid_form"


def test_a_form_without_a_file_an_unknown_field_and_a_file_over_the_limit_each_have_their_error() -> None:
    for raw, status, code, param in (
        (form(part("purpose", b"batch")), 400, "missing_required_parameter", "file"),
        (form(part("colour", b"red"), FILE), 400, "unknown_parameter", "colour"),
        (form(part("file", b"x" * 11)), 413, "file_too_large", "file"),
        (part("file", b"x" * 100), 413, "file_too_large", "file"),
    ):
        for step in (None, 1):
            with pytest.raises(BadRequest) as caught:
                read(raw, step, limit=10)
            assert (caught.value.status, caught.value.code, caught.value.param) == (status, code, param)


def test_of_a_long_file_only_what_may_begin_a_delimiter_is_held() -> None:
    made = Form(TYPE, KNOWN, 1 << 30)
    made.feed(b"--b0\r\nContent-Disposition: form-data; name=file\r\n\r\n")
    out = sum(len(made.feed(b"\r\n--b" * 10_000)) for _ in range(20))
    assert 20 * 50_000 - out < len(b"\r\n--b0")
