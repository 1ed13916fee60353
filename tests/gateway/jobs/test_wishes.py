"""What a client may wish for work done later; above all, whom it may have called."""

from __future__ import annotations

import dataclasses

import pytest

from gateway.config.types import Key
from gateway.core.errors import BadRequest
from gateway.jobs.wishes import callback, host_of, idempotency_key, is_listed, job_class, wants_async
from gateway.wire.head import RequestHead
from tests.support.jobs_api import settings


def head(*fields: tuple[bytes, bytes]) -> RequestHead:
    return RequestHead.made(b"/v1/chat/completions", fields)


@pytest.mark.parametrize(
    ("prefer", "wanted"),
    [
        (b"respond-async", True), (b"Respond-Async", True), (b"wait=10, respond-async", True),
        (b"respond-async;x=1 , wait=5", True), (b"handling=lenient,respond-async", True), (b'respond-async=""', True),
        (b"", False), (b"wait=10", False), (b"no-respond-async", False), (b"respond-asynchronously", False),
        (b'x="respond-async"', False),
    ],
)  # fmt: skip
def test_a_preference_is_read_as_its_rfc_has_it(prefer: bytes, wanted: bool) -> None:
    assert wants_async(head((b"prefer", prefer))) is wanted
    assert wants_async(RequestHead.made(b"/", ((b"prefer", b"wait=3"), (b"prefer", prefer)))) is wanted
    assert wants_async(head()) is False


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://hooks.example.com/a?b=c", "hooks.example.com"),
        ("http://Hooks.Example.com:8080", "hooks.example.com"),
        ("https://[::1]/x", "::1"), ("HTTPS://a/", None), ("ftp://a/", None), ("https:///x", None), ("https://", None),
        ("https://user@a/", None), ("https://a@b/", None), ("https://a#b", None), ("https://a\\@b/", None),
        ("https://a/ b", None), ("https://a/\r\nx: y", None), ("https://a:0/", None), ("https://a:99999/", None),
        ("https://a:x/", None), ("//a/", None), ("https://ä/", None), ("https://a/" + "x" * 2040, None),
        ("https://[::1", None), ("https://a/?q={x}", None),
        ("https://evil.org%00.a.org/", None), ("https://evil.org%2f.a.org/", None), ("https://%61.a.org/", None),
        ("https://evil.org;.a.org/", None), ("https://evil.org&.a.org/", None), ("https://x..a.org/", None),
        ("https://[fe80::1%25eth0]/", None), ("https://a_b-c.a.org./", "a_b-c.a.org."),
    ],
)  # fmt: skip
def test_only_a_plain_url_has_a_host(url: str, host: str | None) -> None:
    assert host_of(url) == host


@pytest.mark.parametrize(
    ("host", "listed", "may"),
    [
        ("a.example.com", ("a.example.com",), True), ("b.example.com", ("a.example.com",), False),
        ("a.example.com", ("*.example.com",), True), ("a.b.example.com", ("*.example.com",), True),
        ("example.com", ("*.example.com",), False), ("xexample.com", ("*.example.com",), False),
        (".example.com", ("*.example.com",), False), ("a.example.com.", ("a.example.com",), False),
        ("10.0.0.1", (), False), ("10.0.0.1", ("10.0.0.1",), True), ("10.0.0.1", ("*.0.0.1",), False),
        ("127.1", ("*.1",), False), ("0x7f.0x1", ("*.0x1",), False), ("::1", ("::1",), True), ("::1", (), False),
        ("localhost", (), False), ("localhost", ("localhost",), True),
    ],
)  # fmt: skip
def test_a_host_is_called_only_where_it_is_listed(host: str, listed: tuple[str, ...], may: bool) -> None:
    assert is_listed(host, listed) is may


def test_a_callback_is_refused_with_what_is_wrong() -> None:
    assert callback(head(), ("a",)) is None
    assert callback(head((b"x-headway-callback", b"https://a/x")), ("a",)) == "https://a/x"
    for url, hosts, status, code in (
        (b"https://b/x", ("a",), 403, "callback_not_allowed"),
        (b"https://a/x", (), 403, "callback_not_allowed"),
        (b"a/x", ("a",), 400, "invalid_value"),
        (b"https://a/\xe4", ("a",), 400, "invalid_value"),
    ):
        with pytest.raises(BadRequest) as caught:
            callback(head((b"x-headway-callback", url)), hosts)
        assert (caught.value.status, caught.value.code, caught.value.param) == (status, code, "x-headway-callback")


def test_an_idempotency_key_is_short_and_printable() -> None:
    assert idempotency_key(head()) is None
    assert idempotency_key(head((b"idempotency-key", b"a-1"))) == "a-1"
    for said in (b"", b"a b", b"x" * 256, b"\xff"):
        with pytest.raises(BadRequest):
            idempotency_key(head((b"idempotency-key", said)))


def test_the_class_is_the_one_asked_for_or_the_operators() -> None:
    config = settings()
    anyone = Key(b"", "t")
    poor = dataclasses.replace(anyone, classes=frozenset(("interactive",)))
    assert job_class(config, anyone, head()) == "async"
    assert job_class(config, poor, head((b"x-headway-class", b"interactive"))) == "interactive"
    for key, fields, status in ((poor, (), 403), (anyone, ((b"x-headway-class", b"none"),), 400)):
        with pytest.raises(BadRequest) as caught:
            job_class(config, key, head(*fields))
        assert caught.value.status == status
