"""A request head: what is read from a good one, and that anything doubtful is refused with the right status."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.wire.head import RequestHead, WireError, parse_head

COUNT, TARGET = 128, 8192


def parse(raw: bytes) -> RequestHead:
    return parse_head(raw, COUNT, TARGET)


def head(*lines: str, first: str = "POST /v1/x HTTP/1.1", host: str = "Host: a") -> bytes:
    return "".join(f"{line}\r\n" for line in (first, *([host] if host else []), *lines)).encode("latin-1") + b"\r\n"


def test_fields_keep_order_and_value_and_lose_case_and_space() -> None:
    found = parse(head("X-One:  a b \t", "x-TWO:", "Content-Length: 12", first="POST /v1/x?a=b/c?d HTTP/1.1"))
    assert list(found.fields) == [(b"host", b"a"), (b"x-one", b"a b"), (b"x-two", b""), (b"content-length", b"12")]
    assert (found.method, found.path, found.query, found.minor) == (b"POST", b"/v1/x", b"?a=b/c?d", 1)
    assert (found.length, found.chunked, found.keep_alive, found.expects) == (12, False, True, False)


def test_an_absolute_target_is_read_as_its_path() -> None:
    assert parse(head(first="GET http://other:80/v1/models?x HTTP/1.1")).target == b"/v1/models?x"


@pytest.mark.parametrize(
    ("first", "connection", "stays"),
    [
        ("GET / HTTP/1.1", None, True),
        ("GET / HTTP/1.1", "close", False),
        ("GET / HTTP/1.1", "x, Close", False),
        ("GET / HTTP/1.0", None, False),
        ("GET / HTTP/1.0", "Keep-Alive", True),
        ("GET / HTTP/1.0", "keep-alive", True),
        ("GET / HTTP/1.0", "keep-alive, close", False),
    ],
)
def test_whether_a_connection_stays_is_read_from_version_and_connection(
    first: str, connection: str | None, stays: bool
) -> None:
    assert parse(head(*([f"Connection: {connection}"] if connection else []), first=first)).keep_alive is stays


def test_a_repeated_connection_header_counts_as_one_list() -> None:
    found = parse(
        head("Connection: close, x-a", "Connection: keep-alive, x-b", "X-Forwarded-For: 1", "X-Forwarded-For: 2")
    )
    assert found.keep_alive is False
    assert {word.strip() for word in found.named[b"connection"].split(b",")} == {
        b"close",
        b"x-a",
        b"keep-alive",
        b"x-b",
    }
    assert found.named[b"x-forwarded-for"] == b"1, 2"


def test_an_expectation_is_for_http_1_1_only() -> None:
    assert parse(head("Expect: 100-Continue")).expects is True
    assert parse(head("Expect: 100-continue", first="POST / HTTP/1.0")).expects is False


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (head("Content-Length: 1", "Transfer-Encoding: chunked"), 400),
        (head("Content-Length: 1", "Content-Length: 1"), 400),
        (head("Content-Length: +1"), 400),
        (head("Content-Length: -1"), 400),
        (head("Content-Length: 1, 1"), 400),
        (head("Content-Length: 0x1"), 400),
        (head("Content-Length: 1_0"), 400),
        (head("Content-Length: \xb2"), 400),
        (head("Content-Length: 1234567890123456"), 400),
        (head("Content-Length:"), 400),
        (head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400),
        (head("Transfer-Encoding: gzip, chunked"), 501),
        (head("Transfer-Encoding: xchunked"), 501),
        (head("Transfer-Encoding: chunked", first="POST / HTTP/1.0"), 400),
        (head("X : a"), 400),
        (head(" X: a"), 400),
        (head("X: a\r\n folded"), 400),
        (head("X: a\nY: b"), 400),
        (head("X: a\rY: b"), 400),
        (head("X: a\0b"), 400),
        (head("X: a\x7fb"), 400),
        (head("X\xe4: a"), 400),
        (head(": a"), 400),
        (head("no colon"), 400),
        (head(host=""), 400),
        (head("Host: b"), 400),
        (head(host="Host: a b"), 400),
        (head(host="Host: a/b"), 400),
        (head(host="Host: user@a"), 400),
        (head("Authorization: Bearer a", "Authorization: Bearer b"), 400),
        (head("X-Request-Id: a", "X-Request-Id: b"), 400),
        (head(first="POST  / HTTP/1.1"), 400),
        (head(first="POST / HTTP/1.1 "), 400),
        (head(first="POST\t/ HTTP/1.1"), 400),
        (head(first="P(ST / HTTP/1.1"), 400),
        (head(first="POST * HTTP/1.1"), 400),
        (head(first="CONNECT a:1 HTTP/1.1"), 400),
        (head(first="POST /a#b HTTP/1.1"), 400),
        (head(first="POST http://a?x HTTP/1.1"), 400),
        (head(first="POST ftp://a/ HTTP/1.1"), 400),
        (head(first="POST /\xe4 HTTP/1.1"), 400),
        (head(first="POST /"), 400),
        (head(first="POST / http/1.1"), 400),
        (head(first="POST / HTTP/2.0"), 505),
        (head(first="POST / HTTP/1.2"), 505),
        (head(first="POST / HTTP/01.1"), 505),
        (head(first="PRI * HTTP/2.0", host=""), 505),
        (head("Expect: more"), 417),
        (head(first="POST /" + "a" * TARGET + " HTTP/1.1"), 414),
        (head(*["X: a"] * COUNT), 431),
    ],
)  # fmt: skip
def test_what_two_parsers_could_read_differently_is_refused(raw: bytes, status: int) -> None:
    with pytest.raises(WireError) as caught:
        parse(raw)
    assert caught.value.status == status and caught.value.message and caught.value.code


@pytest.mark.parametrize("host", ["a:80", "[::1]:80", "[::1]", "a.b_c-d", "1.2.3.4:1", ""])
def test_any_host_that_is_one_is_taken(host: str) -> None:
    assert parse(head(host=f"Host: {host}")).named[b"host"] == host.encode()


@given(st.binary(max_size=200))
@example(b"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n")
@example(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: \xff\r\n")
def test_any_bytes_are_parsed_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        parse(data + b"\r\n\r\n")
    except WireError as error:
        assert 400 <= error.status < 600


_LINES = st.lists(
    st.sampled_from([b"Host: a", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"X: y", b"Connection: close",
                     b"Content-Length : 3", b"\x0b: a", b" x", b"Expect: 100-continue", b"Transfer-Encoding:\tchunked",
                     b"Host:\xa0a", b"", b"\r", b"Content-Length: 3\x00"]), max_size=6)  # fmt: skip


@given(_LINES, st.sampled_from([b"\r\n", b"\n", b"\r", b"\r\n\r\n"]))
def test_what_is_accepted_has_one_framing_and_one_host(lines: list[bytes], between: bytes) -> None:
    raw = b"POST / HTTP/1.1" + between + between.join(lines) + b"\r\n\r\n"
    try:
        found = parse(raw)
    except WireError:
        return
    names = [name for name, _ in found.fields]
    assert names.count(b"host") == 1
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
    assert raw.count(b"\n") == raw.count(b"\r\n") == raw.count(b"\r")
