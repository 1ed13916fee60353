"""Header fields: whose request it is, what goes upstream, and what is stopped."""

import math
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import BadRequest
from gateway.fields import (
    NO_SLOS,
    SLO_FIELDS,
    Forwarder,
    asked_slos,
    digest,
    own_request_id,
    presented_key,
    request_ids,
    tighter,
)
from gateway.wire.head import RequestHead, parse_head


def head(*lines: str) -> RequestHead:
    raw = "".join(f"{line}\r\n" for line in ("POST / HTTP/1.1", "Host: a", *lines)).encode("latin-1") + b"\r\n"
    return parse_head(raw, 128, 8192)


def forwarded(*lines: str, peer: str = "1.2.3.4", trusted: tuple[str, ...] = ()) -> dict[str, str]:
    made = Forwarder([ip_network(net) for net in trusted]).lines(head(*lines), peer, "id-1").decode("latin-1")
    assert made.endswith("\r\n")
    pairs = [line.split(": ", 1) for line in made[:-2].split("\r\n")]
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


OWN = {"x-request-id": "id-1", "x-forwarded-for": "1.2.3.4"}
STOPPED = [
    "Authorization: Bearer k",
    "X-Api-Key: k",
    "Api-Key: k",
    "Cookie: a=b",
    "Accept-Encoding: gzip",
    "X-Headway-Class: a",
    "X-Headway-Endpoint: http://x",
    "X-Gateway-Inference-Objective: a",
    "X-Llm-D-Anything: 1",
    "Forwarded: for=x",
    "X-Real-IP: 6.6.6.6",
    "X-Original-URL: /sleep",
    "Content-Length: 0",
    "Connection: keep-alive",
    "Keep-Alive: 5",
    "TE: trailers",
    "Trailer: x",
    "Upgrade: h2c",
    "Proxy-Authorization: x",
    "Proxy-Connection: x",
    "X-Request-Id: bad id!",
    "Expect: 100-continue",
    "X-Forwarded-For: 6.6.6.6",
    "X-Forwarded-Host: x",
    "X-Forwarded-Proto: https",
]


@pytest.mark.parametrize("line", STOPPED)
def test_a_stopped_field_does_not_go_upstream(line: str) -> None:
    assert forwarded(line) == OWN


def test_other_fields_pass_with_their_values() -> None:
    passing = {
        "accept": "text/event-stream",
        "content-type": "application/json",
        "traceparent": "00-a-b-01",
        "x-session-id": "s",
        "openai-organization": "o",
        "anthropic-version": "2023-06-01",
        "user-agent": "u/1",
    }
    assert forwarded(*(f"{name.title()}: {value}" for name, value in passing.items())) == {**passing, **OWN}


def test_what_connection_names_is_stopped_in_every_spelling() -> None:
    assert forwarded("Connection: close, X-Secret", "X-Secret: 1", "X-Kept: 2") == {"x-kept": "2", **OWN}
    assert forwarded("Connection: X-A", "Connection: x-b ,close", "X-A: 1", "X-B: 2") == OWN


def test_the_peer_is_appended_only_behind_a_trusted_proxy() -> None:
    said = "X-Forwarded-For: 9.9.9.9, 10.0.0.7"
    trusted = ("10.0.0.0/8", "fd00::/8")
    assert forwarded(said, peer="10.1.2.3", trusted=trusted)["x-forwarded-for"] == "9.9.9.9, 10.0.0.7, 10.1.2.3"
    assert forwarded(said, peer="fd00::1", trusted=trusted)["x-forwarded-for"] == "9.9.9.9, 10.0.0.7, fd00::1"
    assert forwarded(said, peer="11.1.2.3", trusted=trusted)["x-forwarded-for"] == "11.1.2.3"
    assert "x-forwarded-for" not in forwarded(said, peer="", trusted=trusted)
    both = ("X-Forwarded-For: 9.9.9.9", "X-Forwarded-For: 8.8.8.8")
    assert forwarded(*both, peer="10.1.2.3", trusted=trusted)["x-forwarded-for"] == "9.9.9.9, 8.8.8.8, 10.1.2.3"


@pytest.mark.parametrize("good", ["a", "A.b_c-9", "x" * 128])
def test_a_good_request_id_is_kept(good: str) -> None:
    assert own_request_id(head(f"X-Request-Id: {good}")) == good


@pytest.mark.parametrize("bad", ["", "a b", "a/b", "ä", "x" * 129, "a;b", "a\x7f"[:1] + '"'])
def test_any_other_request_id_is_not(bad: str) -> None:
    assert own_request_id(head(f"X-Request-Id: {bad}")) is None


def test_made_request_ids_are_good_and_differ() -> None:
    one, other = request_ids(), request_ids()
    made = [one(), one(), other(), other()]
    assert len(set(made)) == 4
    assert all(own_request_id(head(f"X-Request-Id: {name}")) == name for name in made)


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        (["Authorization: Bearer  k "], b"k"), (["authorization: bearer k"], b"k"), (["X-Api-Key: k"], b"k"),
        (["Api-Key: k"], b"k"), ([], None), (["Authorization: Basic k"], None),
        (["Authorization: Basic x", "Api-Key: k"], b"k"), (["Authorization: Bearer a", "X-Api-Key: b"], b"a"),
    ],
)  # fmt: skip
def test_the_key_is_read_from_any_of_three_headers(lines: list[str], key: bytes | None) -> None:
    assert presented_key(head(*lines)) == key


def test_only_a_hash_is_compared() -> None:
    assert digest(b"k") != b"k" and len(digest(b"k")) == 32


@given(st.dictionaries(st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}", fullmatch=True),
                       st.from_regex(rb"[\t\x20-\x7e\x80-\xff]{0,20}", fullmatch=True), max_size=8))  # fmt: skip
def test_forwarded_lines_are_always_well_formed(fields: dict[bytes, bytes]) -> None:
    from gateway.wire.head import WireError

    block = b"".join(b"%b:%b\r\n" % pair for pair in fields.items() if pair[0].lower() != b"host")
    try:
        found = parse_head(b"POST / HTTP/1.1\r\nHost: a\r\n" + block + b"\r\n", 128, 8192)
    except WireError:
        return
    made = Forwarder([]).lines(found, "1.2.3.4", "id-1")
    assert made.count(b"\n") == made.count(b"\r\n") == made.count(b"\r") and b"\r\n\r\n" not in made
    again = parse_head(b"POST / HTTP/1.1\r\nhost: a\r\n" + made + b"\r\n", 300, 8192)
    assert b"content-length" not in again.named and b"transfer-encoding" not in again.named


def test_what_nobody_asks_is_not_known_and_costs_nothing() -> None:
    assert asked_slos(head("X-Other: 1")) is NO_SLOS
    ttft, tpot = asked_slos(head("X-Slo-Ttft-Ms: 250"))
    assert ttft == 0.25 and math.isnan(tpot)


@given(st.one_of(st.none(), st.floats(1e-3, 1e3)), st.one_of(st.just(math.nan), st.floats(1e-3, 1e3)))
def test_what_holds_is_never_looser_than_what_is_promised(promised: float | None, asked: float) -> None:
    holds = tighter(promised, asked)
    known = [each for each in (promised, asked) if each is not None and not math.isnan(each)]
    assert holds == min(known) if known else math.isnan(holds)


@given(st.sampled_from(sorted(SLO_FIELDS)), st.from_regex(rb"[\x21-\x7e\x80-\xff]{0,20}", fullmatch=True))
def test_any_value_is_a_time_or_a_400(name: bytes, value: bytes) -> None:
    try:
        slos = asked_slos(parse_head(b"POST / HTTP/1.1\r\nHost: a\r\n%b: %b\r\n\r\n" % (name, value), 128, 8192))
    except BadRequest as error:
        assert error.status == 400 and name.decode() in error.message
    else:
        assert any(0.0 < each < math.inf for each in slos)
