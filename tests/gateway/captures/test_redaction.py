"""Redaction: secrets and personal data go, whatever stands around them; what is neither stays as it is."""

import itertools
import random
import re
import string
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.captures.redaction import _JWT, OVER, PIECE, _all, _luhn, find, redact

TOKEN = "q7Zk2mX9wL4pT8vB3nR6"
PRIVATE = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc+/=\n-----END RSA PRIVATE KEY-----"
SECRETS = [
    f"sk-{TOKEN}", f"sk-proj-{TOKEN}-{TOKEN}", f"sk-ant-api03-{TOKEN}", f"hw-{TOKEN}{TOKEN}",
    f"ghp_{TOKEN}{TOKEN}", f"github_pat_{TOKEN}{TOKEN}", f"glpat-{TOKEN}", f"hf_{TOKEN}{TOKEN}",
    f"xoxb-{TOKEN}", "AKIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE", f"AIzaSy{TOKEN}{TOKEN}",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N", f"rk_live_{TOKEN}",
    f"npm_{TOKEN}{TOKEN}",
    PRIVATE, PRIVATE.replace("RSA ", ""), PRIVATE.replace("RSA", "EC"),
]  # fmt: skip
BESIDE = [  # (text, what must not stay)
    (f"Authorization: Bearer {TOKEN}", TOKEN), (f"bearer  {TOKEN}==", TOKEN),
    ("Authorization: Basic dXNlcjpwYXNzd29yZDE=", "dXNlcjpwYXNzd29yZDE"),
    (f'{{"api_key": "{TOKEN}"}}', TOKEN), (f"OPENAI_API_KEY={TOKEN}", TOKEN),
    ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalrXUtnFEMI"),
    (f"token=x auth-token: {TOKEN}", TOKEN),
    ("AccountKey=q7Zk2mX9wL4pT8vB3nR6==", "q7Zk2m"), ('"session-token" : "abc123def"', "abc123"),
    ("AKIAIOSFODNN7EXAMPLE / wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "wJal"),
    ("password=hunter2!", "hunter2"), ("my passwd: 's3cret-word'", "s3cret"), ("DB_PASSWORD=pa55w0rd;", "pa55w0rd"),
    ("postgres://admin:p4ss:word@db.example.com/x", "p4ss"), ("see https://bob:secretword@host/path", "secretword"),
    ("redis://:letmein@cache:6379/0", "letmein"),
    (r'{"body": "{\"password\": \"hunter2x9\"}"}', "hunter2x9"), (r'"{\\\"pwd\\\":\\\"abcdef!\\\"}"', "abcdef"),
    (r"https:\/\/bob:secretword@host\/", "secretword"), ("PRIVATE_KEY=abc123def", "abc123"),
]  # fmt: skip
PERSONAL = [
    "ada.lovelace@example.com", "o'neil+tag@mail.example.co.uk", "müller@bücher.example", "a_b@x-y.io",
    "+49 30 1234567", "+4930123456789", "+1 (415) 555-2671", "+44 20 7946 0958", "+33 1 23 45 67 89",
    "(415) 555-2671", "415-555-2671", "415.555.2671", "0171 2345678", "030/1234567", "020 7946 0958", "0049 30 123456",
    "01 23 45 67 89",
    "4111111111111111", "4111 1111 1111 1111", "4111-1111-1111-1111", "5500 0000 0000 0004", "378282246310005",
    "3782 822463 10005", "6011111111111117", "30569309025904", "2223003122003222",
    "DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "GB82 WEST 1234 5698 7654 32",
    "FR1420041010050500013M02606",
    "NO9386011117947", "CH93 0076 2011 6238 5295 7",
    "192.168.178.20", "8.8.8.8", "2001:db8:85a3::8a2e:370:7334", "fe80::1ff:fe23:4567:890a",
    "2001:0db8:0000:0000:0000:0000:1428:57ab", "::ffff:10.0.0.1"[7:],
]  # fmt: skip
HARMLESS = [
    "On 2024-01-15 at 10:20:30.123Z, version 1.2.3 of foo-2.0.1 came out; 3.14159 x 10^6 = 3,141,590.",
    "550e8400-e29b-41d4-a716-446655440000 12345678-1234-1234-1234-123456789012",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "chatcmpl-0123456789abcdef0123456789abcdef at 1700000000 or 1700000000000", "call_9aFz and resp_68f0",
    "run-20241231-235959",
    "@app.route('/') def f(self) -> list[int]: return x[1:2] @ y", "std::vector<int>::iterator a::b cafe::babe",
    "aa:bb:cc:dd:ee:ff is a MAC, 12:34:56 a time, 127.0.0.1 and ::1 and 0.0.0.0 are me",
    "http://localhost:8080/v1?x=1#y",
    "https://example.com:443/a@b", "git@github.com:o/r.git", "react@18.2.0", "4111 1111 1111 1112 is no card",
    "0123456789",
    "task-management-and-risk-assessment", "a password: please choose one", "password: yes, token: no",
    "the bearer of this letter",
    "max_tokens=128 prompt_tokens: 100 monkey=bananas", '{"token": " Hello", "logprob": -0.123456789}',
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b", "sk-learn",
    "hw-accelerated-things",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20", "10000000000000000", "0.30000000000000004", "(100) 200",
    "00:00:00",
    "DE is Germany, AT12 is a class, GB2312 a charset", "ISBN 978-3-16-148410-0",
    "$1,234,567.89 or 1.234.567,89 EUR", "x = 5 * 10**12",
]  # fmt: skip


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_neither_secret_nor_personal_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("secret", [*SECRETS, *PERSONAL])
def test_a_secret_goes_whole_whatever_stands_around_it(secret: str) -> None:
    for before, after in (("", ""), ("see ", " there"), ("«", "»"), ("(", ")"), ('"', '"'), ("x: ", ", y"), ("\n",
        "\n"),
                          ("it is ", "."), ("=", ";")):  # fmt: skip
        said = redact(f"{before}{secret}{after}")
        opening = re.escape(before) + ("?" if before == "(" else "")  # which may be a part of a phone number
        assert re.fullmatch(opening + r"\[\w+\]" + re.escape(after), said), said


@pytest.mark.parametrize(("text", "secret"), BESIDE)
def test_a_secret_is_known_by_what_stands_beside_it(text: str, secret: str) -> None:
    said = redact(text)
    assert secret not in said and "[secret]" in said
    assert text.startswith(said.partition("[secret]")[0]) and text.endswith(said.rpartition("[secret]")[2])


def test_backslashes_before_quotes_stay_with_them() -> None:
    assert redact(r"{\"password\": \"hunter2x9\"}") == r"{\"password\": \"[secret]\"}"
    assert redact(r"password=a1\b\c1\d;") == "password=[secret];"


def test_what_is_replaced_says_what_it_was() -> None:
    text = "Mail ada@example.com or +49 30 1234567, pay DE89370400440532013000 or 4111 1111 1111 1111 from 10.1.2.3."
    assert redact(text) == "Mail [email] or [phone], pay [iban] or [card] from [ip]."
    assert redact("postgres://admin:pw@db:5432/x") == "postgres://admin:[secret]@db:5432/x"
    assert redact("4111 1111 1111 1111 12 and 23 4111 1111 1111 1111") == "[card] 12 and 23 [card]"


words = st.text(string.ascii_letters + "äöüßéñ文字", min_size=1, max_size=12)
numbers = st.one_of(
    st.integers(0, 10**7).map(str), st.floats(0, 1000, allow_nan=False).map(lambda value: f"{value:.4f}"),
    st.dates(date(1900, 1, 1)).map(str), st.times().map(str), st.uuids().map(str),
    st.tuples(*[st.integers(0, 99)] * 3).map(lambda part: ".".join(map(str, part))),
    st.binary(min_size=8, max_size=32).map(lambda data: "h" + data.hex()),
)  # fmt: skip
prose = st.lists(st.one_of(words, numbers, st.sampled_from(["if (x == 1) {", "a->b;", "{}", "\\n", "- item", "#1",
    "50%"])),
                 max_size=40).map(" ; ".join)  # fmt: skip


@settings(deadline=None)
@given(prose)
def test_prose_code_numbers_dates_and_ids_stay(text: str) -> None:
    assert redact(text) == text


@settings(deadline=None)
@given(prose, st.sampled_from([*SECRETS, *PERSONAL]), prose)
def test_a_secret_inside_a_text_goes_and_the_text_stays(before: str, secret: str, after: str) -> None:
    said = redact(f"{before} ; {secret} ; {after}")
    assert secret not in said
    assert said.startswith(f"{before} ; ") and said.endswith(f" ; {after}")


@settings(deadline=None, max_examples=60)
@given(st.integers(0, PIECE * 2 + 50), st.sampled_from([*SECRETS, *PERSONAL]))
def test_a_secret_across_the_ends_of_pieces_goes_too(at: int, secret: str) -> None:
    said = redact(" " * at + secret + " " * (PIECE * 3 - at) + "end")
    assert re.fullmatch(r" *\[\w+\] +end", said), said.strip()


@pytest.mark.parametrize("size", [PIECE - 10, PIECE - 10 - OVER, OVER * 2, PIECE * 2])
def test_a_secret_longer_than_what_pieces_share_goes_to_its_end(size: int) -> None:
    text = "x " * ((PIECE - 100) // 2) + "sk-1" + "a" * size + " end"
    assert redact(text) == "x " * ((PIECE - 100) // 2) + "[secret] end"


@settings(deadline=None)
@given(st.text(st.sampled_from("a1 .@:-+/=_(){}\"'sk4xeyJBEGIN\n"), max_size=200))
def test_any_text_is_read_and_what_was_found_is_in_order_and_apart(text: str) -> None:
    spans = find(text)
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert all(one.end <= other.start for one, other in itertools.pairwise(spans))


def test_random_numbers_are_cards_as_seldom_as_luhn_says() -> None:
    draw = random.Random(1)
    numbers = ["4" + "".join(draw.choices(string.digits, k=15)) for _ in range(2000)]
    assert sum(redact(number) != number for number in numbers) == sum(map(_luhn, numbers)) < 250


ENDLESS = ["a", "1", "4 4 ", "a@", "a:", ":", "1.", "-----BEGIN PRIVATE KEY-----", "://", "a://b:", "a_", "api_key=",
    "bearer ",
           "eyJ", "eyJaaaaaaaaaa.", "-eyJ", "-eyJaaaaaaaaaa",
           "sk-1aaaaaaaaaaaaaa", "pwd:\\\\", ":\\/\\/a:", "sk-a-",
           "+1 ", "DE12 ", "sk-", "-", "x@a.", "pwd: ", "0", "(000) ", "4444 ", "44-",
           "\\"]  # fmt: skip


@pytest.mark.parametrize("text", ENDLESS)
def test_no_text_takes_more_than_its_share_of_steps(text: str) -> None:
    """A backtracking pattern would not end within the time any test has."""
    find(text * (100_000 // len(text)))


def test_a_run_that_is_no_token_is_read_once() -> None:
    """From each of its beginnings to its end takes minutes."""
    text = "-eyJ" * 300_000
    assert not any(True for _ in _all(_JWT, 1)(text, 0, len(text)))
    assert redact("-eyJ-eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0.abc") == "-[secret]"
    assert redact("eyJaaaaaaaaaaaa-sk-q7Zk2mX9wL4pT8vB3nR6") == "eyJaaaaaaaaaaaa-[secret]"


def test_a_run_longer_than_many_pieces_goes_whole() -> None:
    """Looking for its end from each of them takes minutes."""
    assert redact("x sk-1" + "a-sk-1" * 500_000 + " end") == "x [secret] end"
