"""One value at a time: what is read, what is refused with which hint, and that writing and reading agree."""

import contextlib
import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.problems import Fault
from gateway.config.scalars import (
    LARGEST,
    LONGEST,
    format_duration,
    format_rate,
    format_share,
    format_size,
    parse_address,
    parse_bool,
    parse_callback,
    parse_decimal,
    parse_duration,
    parse_endpoint_url,
    parse_int,
    parse_network,
    parse_quota,
    parse_rate,
    parse_redis_url,
    parse_share,
    parse_size,
)

PARSERS = [parse_address, parse_bool, parse_decimal, parse_duration, parse_endpoint_url, parse_int, parse_network,
           parse_share, parse_size, parse_rate, parse_quota, parse_redis_url, parse_callback]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("2s", 2.0), ("5m", 300.0), ("24h", 86400.0), ("30d", 2592000.0), ("1.5s", 1.5)],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["5", "5 s", "5 parsecs", "-1s", "1e3s", "s", "", "5S", "1:30", "٣s", "1s\n", "05s"])
def test_what_is_no_duration_is_refused_and_shown_how(text: str) -> None:
    with pytest.raises(Fault, match="not a duration") as caught:
        parse_duration(text)
    assert caught.value.hint


def test_a_number_alone_is_told_its_unit() -> None:
    with pytest.raises(Fault) as caught:
        parse_duration("5")
    assert caught.value.hint == "with a unit: 5s"


@pytest.mark.parametrize("text", ["0s", "100000d", "999999999999999999h"])
def test_a_duration_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(Fault, match="out of range"):
        parse_duration(text)


def test_a_duration_may_be_zero_where_the_key_says_so() -> None:
    assert parse_duration("0s", zero=True) == 0.0


@given(st.floats(min_value=1e-6, max_value=LONGEST, allow_subnormal=False))
def test_a_duration_survives_writing_and_reading(seconds: float) -> None:
    assert parse_duration(format_duration(round(seconds, 9))) == round(seconds, 9)


@given(st.integers(min_value=1, max_value=LARGEST))
def test_a_size_survives_writing_and_reading(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(min_value=0, max_value=10_000))
def test_a_share_survives_writing_and_reading(hundredths: int) -> None:
    share = hundredths / 10_000
    assert parse_share(format_share(share)) == share


def test_what_is_written_is_what_a_person_would_write() -> None:
    assert [format_duration(s) for s in (0.25, 2.0, 300.0, 1800.0, 86400.0, 0.0, 90.0)] == \
        ["250ms", "2s", "5m", "30m", "24h", "0s", "90s"]  # fmt: skip
    assert [format_size(s) for s in (8 << 20, 1 << 30, 64 << 10, 1000)] == ["8MiB", "1GiB", "64KiB", "1000B"]
    assert [format_share(s) for s in (0.05, 0.5, 0.005, 1.0)] == ["5%", "50%", "0.5%", "100%"]


@pytest.mark.parametrize("text", ["8", "8MB", "8mib", "8 MiB", "0.3B", "-8MiB", "0MiB", "99999999999TiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(Fault, match="size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["0.05", "5", "101%", "-5%", "%", "5 %"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(Fault, match="share"):
        parse_share(text)


@pytest.mark.parametrize("text", ["010", "0x10", "1_000", "1e3", "1.0", "+5", "no", "", "1:30", "٣"])
def test_only_a_plain_decimal_is_an_integer(text: str) -> None:
    with pytest.raises(Fault, match="not a number"):
        parse_int(text)


@pytest.mark.parametrize("text", ["9" * 5000, "-1", "11"])
def test_an_integer_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(Fault, match="number out of range"):
        parse_int(text, 0, 10)


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "True", "1"])
def test_only_true_and_false_are_booleans(text: str) -> None:
    with pytest.raises(Fault, match="neither"):
        parse_bool(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:80", ("::1", 80)), ("LocalHost:0", ("localhost", 0))],
)
def test_an_address_is_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["8080", ":8080", "127.0.0.1", "::1:80", "1.2.3:80", "a b:80", "h:99999", "[x]:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(Fault):
        parse_address(text)


def test_a_network_with_host_bits_is_told_the_network() -> None:
    assert parse_network("10.0.0.0/8") == ipaddress.ip_network("10.0.0.0/8")
    with pytest.raises(Fault) as caught:
        parse_network("10.0.0.1/8")
    assert "10.0.0.0/8" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://10.0.0.1", "http://10.0.0.1:80"),
        ("https://Model.Example/", "https://model.example:443"),
        ("http://[::1]:8000/v1/", "http://[::1]:8000/v1"),
        ("HTTP://h:1", "http://h:1"),
    ],
)
def test_an_endpoints_url_has_one_spelling(text: str, url: str) -> None:
    assert parse_endpoint_url(text) == url
    assert parse_endpoint_url(url) == url


@pytest.mark.parametrize(
    "text",
    ["10.0.0.1:8000", "ftp://h", "http://", "http://u:p@h", "http://h/?q", "http://h#f", "http://h/a/../b", "http://h:0",
     "http://h:99999", "http://a b", "http://h\\x", "http://[::1", "http://h//x", "http://1.2.3", "http://hé"],
)  # fmt: skip
def test_what_is_no_endpoints_url_is_refused(text: str) -> None:
    with pytest.raises(Fault):
        parse_endpoint_url(text)


@given(st.sampled_from(PARSERS), st.text(max_size=40))
def test_a_parser_raises_nothing_but_a_fault(parse, text: str) -> None:  # type: ignore[no-untyped-def]
    with contextlib.suppress(Fault):
        parse(text)


@given(st.text(alphabet="htps:/[]@.%#?\\-_019a ", max_size=30))
def test_a_url_that_is_read_reads_as_itself(text: str) -> None:
    try:
        url = parse_endpoint_url("http://" + text)
    except Fault:
        return
    assert parse_endpoint_url(url) == url


@given(st.integers(min_value=1, max_value=10**14), st.sampled_from("smhd"))
def test_a_rate_survives_writing_and_reading(amount: int, unit: str) -> None:
    assert format_rate(*parse_rate(f"{amount}/{unit}")) == f"{amount}/{unit}"


@pytest.mark.parametrize(
    "text", ["100", "100/", "/s", "100/ms", "100 /s", "1e3/s", "-1/s", "010/s", "0.5/m", "1/s/s", "٣/s"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(Fault, match="not a rate"):
        parse_rate(text)


@pytest.mark.parametrize("parse", [parse_quota, parse_rate])
def test_a_limit_of_nothing_is_refused(parse: Callable[[str], object]) -> None:
    with pytest.raises(Fault, match="lets nothing through"):
        parse("0" if parse is parse_quota else "0/s")


@pytest.mark.parametrize(
    "text",
    ["redis:", "redis://", "redis:///0", "redis://h:0", "redis://h:70000", "redis://h/0/1", "redis://h/-1", "http://h",
     "redis://a b", "redis://h?x=1", "redis://h#x", "redis://[::1", "redis://1.2.3", "unix:///run/redis.sock", ""],
)  # fmt: skip
def test_what_is_no_redis_url_is_refused_with_the_right_spelling(text: str) -> None:
    with pytest.raises(Fault) as caught:
        parse_redis_url(text)
    assert caught.value.hint


def test_a_redis_url_is_refused_without_its_password() -> None:
    for text in ("redis://u:hunter2@h:x", "redis://:hunter2@/0", "rediss://hunter2@h/x", "redis://u:hunter2@1.2"):
        with pytest.raises(Fault) as caught:
            parse_redis_url(text)
        assert "hunter2" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("text", "host"),
    [("Hooks.Example.COM", "hooks.example.com"), ("*.example.com", "*.example.com"), ("10.0.0.1", "10.0.0.1"),
     ("localhost", "localhost"), ("a.example.", "a.example"), ("*.Example.org.", "*.example.org")],
)  # fmt: skip
def test_a_host_that_may_be_called_is_kept_in_one_spelling(text: str, host: str) -> None:
    assert parse_callback(text) == host


@pytest.mark.parametrize(
    "text",
    ["*", "*.*", "*.com", "**.a.b", "*a.b.c", "a.*.b", "http://a.b", "a.b/", "a.b:80", "a b", "", ".a.b", "a@b.c"],
)
def test_what_is_no_host_or_names_too_many_is_refused(text: str) -> None:
    with pytest.raises(Fault) as caught:
        parse_callback(text)
    assert caught.value.hint
