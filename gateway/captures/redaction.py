"""Finds secrets and personal data in a text and replaces them by what they were: `[secret]`, `[email]`, `[phone]`, …

The idea: shapes that hardly anything else has. Secrets: keys by the beginnings their makers gave them (so that scanners
can find them), JSON web tokens, what follows `Bearer` or stands beside a name such as `api_key=`, private key blocks,
passwords in URLs. Personal data: e-mail addresses, phone numbers as people write them, payment cards (an issuer's
beginning and length, and Luhn's check digit), IBANs (the country's length, and ISO 7064's remainder), IP addresses
other than a machine's own. What looks like none of these stays as it is: a redactor that eats dates and versions is
switched off by those who need the text. A name, a street or a password in a sentence has no shape, and stays too.

Every pattern takes time linear in the text, whatever it is: runs are taken from their beginning alone, and whole also
where they are nothing, so that no other try begins inside of them; repetition is bounded. A text is read in pieces of
`PIECE` characters (and `OVER` more, for what lies across an end), each by those finders alone whose marks are in it;
between two pieces whoever else wants the interpreter may have it.

Left to others: where the texts are (`redacted`).
Sources: ISO/IEC 7812-1 (Luhn), ISO 13616 (lengths of IBANs), RFC 7519, RFC 7468, ITU-T E.164 (15 digits).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

PIECE, OVER = 4096, 256  # characters
WORK, REST = 0.0003, 0.001  # seconds


class Turns:
    """Lets an event loop in another thread have the interpreter: after `WORK` seconds of work, `pause` sleeps `REST`.

    Without it the loop waits for 5 ms, the interpreter's own interval, each time that it has something to do. It also
    bounds the share of a processor that all this takes.
    """

    def __init__(self) -> None:
        self._until = time.perf_counter() + WORK

    def pause(self) -> None:
        """Called often, in between."""
        if time.perf_counter() >= self._until:
            time.sleep(REST)
            self._until = time.perf_counter() + WORK


def no_pause() -> None:
    """For whoever works alone."""


Pause = Callable[[], None]


class Span(NamedTuple):
    """A part of a text, and what it is replaced by."""

    start: int
    end: int
    mask: str


Spans = Iterator[tuple[int, int]]
Finder = Callable[[str, int, int], Spans]
"""What there is in a text from one place to another."""

_MARKS = ("sk-", "hw-", "_live_", "_test_", "ghp_", "gho_", "ghr_", "ghs_", "ghu_", "github_pat_", "glpat-", "xox",
          "AIza", "hf_", "npm_", "pypi-", "ya29.", "AKIA", "ASIA", "ABIA", "ACCA")  # fmt: skip
_KEYS = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:sk|hw)-(?=[A-Za-z_-]{0,99}\d)[\w-]{16,}|[prs]k_(?:live|test)_[A-Za-z0-9]{16,}|gh[oprsu]_[A-Za-z0-9]{30,}"
    r"|github_pat_\w{22,}|glpat-[\w-]{20,}|xox[abeoprs]-[A-Za-z0-9-]{10,}|AIza[\w-]{30,}|hf_[A-Za-z0-9]{20,}"
    r"|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{50,}|ya29\.[\w-]{20,}|A(?:KI|SI|BI|CC)A[A-Z0-9]{16}(?![A-Za-z0-9]))"
)
# A run that is no token is taken whole too, without the group: its end would be sought from each `-eyJ` in it.
_JWT = re.compile(r"(?<![A-Za-z0-9])(?:(eyJ[\w-]{10,}+\.[\w-]{10,}+(?:\.[\w-]*+)?)|eyJ[\w-]*+)")
_BESIDE_AWS = re.compile(  # the secret that goes with an AWS key's id has no mark of its own
    r"(?<![A-Za-z0-9/+=])(?=[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=]))"
    r"(?=[^A-Z]{0,39}[A-Z])(?=[^a-z]{0,39}[a-z])(?=\D{0,39}\d).{40}"
)
_BEARER = re.compile(r"(?i:bearer)\s{1,4}((?=[A-Za-z._~+/-]{0,99}\d)[\w.~+/-]{16,}=*)")
_NAMES = ("ey", "EY", "oken", "OKEN", "ecret", "ECRET", "assw", "ASSW", "pwd", "PWD", "assphrase", "ASSPHRASE",
          "uthorization", "UTHORIZATION")  # fmt: skip
_STEMS = (
    r"(?:api|access|account|private)[_-]?key|secret(?:[_-]?key)?"
    r"|(?:access|auth|refresh|session|api|bot|private)[_-]?token|passw(?:or)?d|pwd|passphrase|authorization"
)
_NAMED = re.compile(  # quotes inside of a string in JSON have backslashes before them
    r"(?i:" + _STEMS + r")\\{0,16}[\"']?\s{0,3}[:=]\s{0,3}\\{0,16}[\"']?(?i:(?:basic|token)\s{1,3})?"
    r"(?=[A-Za-z]{0,99}[\d!#$%^&*+/=~])((?:[^\s\"',;<>(){}\[\]\\]|\\++(?![\"'])){6,})"
)
_BETWEEN = re.compile(r"[\W_]+")
_SECRET_NAME = re.compile(r"(?i)(?:" + _STEMS + r")(?:(?<!token)s)?\d*\Z|\Atoken\Z")  # several tokens are a count
_PRIVATE = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:.*?-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|.*)",
    re.DOTALL,
)
_IN_URL = re.compile(r":(?:\\{0,16}/){2}(?![/\s])[^\s/?#@:\"'<>]{0,200}+:([^\s/?#@\"'<>]{1,200}+)@")
_EMAIL = re.compile(r"(?<![\w.%+'-])(?!git@)[\w.%+'-]++@(?:[\w-]{1,63}\.){1,10}[^\W\d_]{2,24}(?![\w-])")
# A pattern that begins with a set of characters is searched ten times as fast as one that begins by looking back.
_CARD = re.compile(r"[2-6](?<!\w.)(?<!\d[.,-].)(?=\d\d)(?=(\d{2,18}(?:[ -]\d{2,6}){0,5}))")
_ISSUED = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3[068]\d{12}|35\d{14}|6(?:011|4[4-9]\d|5\d\d)\d{12}"
    r"|62\d{14,17}|5[06-8]\d{10,17}|6[37]\d{10,17}"
)
_GROUP_END = re.compile(r"(?<=\d)(?!\d)")
_IBAN = re.compile(r"[A-Z](?<![A-Za-z0-9].)(?=([A-Z]\d{2}(?:[ -]?[A-Z0-9]){11,30}))")
_LENGTHS = {country: int(length) for country, length in re.findall(r"([A-Z]{2})(\d\d)",
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 "
    "FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 "
    "LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SD18 "
    "SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20"
)}  # fmt: skip
_PHONE = re.compile(
    r"[+(\d](?:(?<=\+)(?<![\w+].)\d(?:[ .()/-]{0,2}\d){7,14}(?!\d)"  # with its country
    r"|(?<![\w.,+-].)(?:(?<=0)0[1-9]\d{0,2}(?:[ ./-]\d{2,8}){2,5}(?!\w)"
    r"|(?:(?<=\()\d{3}\) ?|(?<=\d)\d\d[ .-])\d{3}[ .-]\d{4}(?![\w-])"  # as in North America
    r"|(?:(?<=\()0|(?<=0))\d{2,4}\)?[ /-]\d{3,4}[ -]?\d{3,5}(?![\w-])"  # with the 0 of many countries
    r"|(?<=0)[1-9](?:[ .]\d\d){4}(?!\w|[ .]\d)))"
)
_IPV4 = re.compile(r"\d(?<![\w.].)\d{0,2}(?:\.\d{1,3}){3}(?!\w|\.\d)")
_COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")
_IPV6 = re.compile(r"[0-9A-Fa-f:](?<![\w:.].)[0-9A-Fa-f:]{2,38}+(?![\w:])")
_REST = re.compile(r"\S*")
# One of these is in all that is found.
_ANY = re.compile(r"[\d@_-]|://|A(?:[KSB]I|CC)A|[:=]\s{0,3}\\{0,16}[\"']?[^\s\"']{6}")


def find(text: str, pause: Pause = no_pause) -> list[Span]:
    """Where there is something to replace, in order and apart: what overlaps is one part."""
    found, length = [], len(text)
    if length < PIECE and _ANY.search(text) is None:
        return []
    if "-----BEGIN" in text:  # they are longer than a piece
        found += [Span(*match.span(), "[secret]") for match in _PRIVATE.finditer(text)]
    behind = 0  # where a run goes on to that a piece's end has cut; one may be longer than many pieces
    for pos in range(0, length, PIECE):
        end = min(length, pos + PIECE + OVER)
        for mask, marks, spans in _FINDERS:
            if not marks or any(text.find(mark, pos, end) >= 0 for mark in marks):
                for start, to in spans(text, pos, end):
                    if to == end < length:
                        behind = behind if behind >= to else _behind(text, to)
                        to = behind
                    found.append(Span(start, to, mask))
            pause()
    return _apart(found) if len(found) > 1 else found


def _behind(text: str, at: int) -> int:
    """Where the run that goes on here ends."""
    rest = _REST.match(text, at)
    return at if rest is None else rest.end()


def _apart(found: list[Span]) -> list[Span]:
    """In order; what overlaps becomes one."""
    apart: list[Span] = []
    for span in sorted(found, key=lambda span: span.start):  # of equal starts, the surer finder's is first
        if apart and span.start < apart[-1].end:
            last = apart[-1]
            apart[-1] = last._replace(end=max(last.end, span.end))
        else:
            apart.append(span)
    return apart


def is_secret(name: str) -> bool:
    """Whether what goes by this name, however that is written, is a secret whatever it looks like."""
    return _SECRET_NAME.search(_BETWEEN.sub("", name)) is not None


def redact(text: str, pause: Pause = no_pause) -> str:
    """The text with all that is found replaced."""
    return replaced(text, find(text, pause))


def replaced(text: str, spans: list[Span]) -> str:
    """The text with these parts, which are in order and apart, replaced."""
    if not spans:
        return text
    parts: list[str] = []
    at = 0
    for start, end, mask in spans:
        parts += (text[at:start], mask)
        at = end
    return "".join((*parts, text[at:]))


# --- finders ---------------------------------------------------------------------------------------------------------


def _all(pattern: re.Pattern[str], group: int = 0) -> Finder:
    """All that a pattern matches, or one group of it where there is one."""
    return lambda text, pos, end: (match.span(group) for match in pattern.finditer(text, pos, end) if match[group])


def _cards(text: str, pos: int, end: int) -> Spans:
    """Of what may go on with other numbers, as much as is a card's."""
    for match in _CARD.finditer(text, pos, end):
        start = match.start()
        run = text[start : match.end(1)]
        for stop in reversed([edge.start() for edge in _GROUP_END.finditer(run)]):
            digits = run[:stop].replace(" ", "").replace("-", "")
            if _ISSUED.fullmatch(digits) and not text[start + stop : start + stop + 1].isalnum() and _luhn(digits):
                yield start, start + stop
                break


def _luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others."""
    doubled = [2 * int(digit) for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(value - 9 if value > 9 else value for value in doubled)) % 10 == 0


def _ibans(text: str, pos: int, end: int) -> Spans:
    for match in _IBAN.finditer(text, pos, end):
        start = match.start()
        run, taken = text[start : match.end(1)], 0
        length = _LENGTHS.get(run[:2])
        if length is None:
            continue
        for stop, character in enumerate(run, 1):
            taken += character not in " -"
            if taken == length:
                if not text[start + stop : start + stop + 1].isalnum() and _is_iban(run[:stop]):
                    yield start, start + stop
                break


def _is_iban(text: str) -> bool:
    bare = text.replace(" ", "").replace("-", "")
    return int("".join(str(int(character, 36)) for character in bare[4:] + bare[:4])) % 97 == 1


def _phones(text: str, pos: int, end: int) -> Spans:
    for match in _PHONE.finditer(text, pos, end):
        if 8 <= sum(character.isdigit() for character in match[0]) <= 15:
            yield match.span()


def _ipv4(text: str, pos: int, end: int) -> Spans:
    """Addresses that are somebody's: not those by which every machine means itself, or all."""
    for match in _IPV4.finditer(text, pos, end):
        try:
            address = IPv4Address(match[0])
        except ValueError:
            continue
        if not (address.is_loopback or address.is_unspecified or int(address) == 2**32 - 1):
            yield match.span()


def _ipv6(text: str, pos: int, end: int) -> Spans:
    """With a digit, and a group that is no index: `a::b` and `1::2` are code."""
    if _COLONS.search(text, pos, end) is None:
        return
    for match in _IPV6.finditer(text, pos, end):
        said = match[0]
        if not any(len(group) > 2 for group in said.split(":")) or said.replace(":", "").isalpha():
            continue
        try:
            IPv6Address(said)
        except ValueError:
            continue
        yield match.span()


# What it becomes, of what a text must have one for it at all, and who finds it: the surest first.
_FINDERS: tuple[tuple[str, tuple[str, ...], Finder], ...] = (
    ("[secret]", _MARKS, _all(_KEYS)),
    ("[secret]", ("eyJ",), _all(_JWT, 1)),
    ("[secret]", ("AKIA", "ASIA"), _all(_BESIDE_AWS)),
    ("[secret]", ("earer", "EARER"), _all(_BEARER, 1)),
    ("[secret]", _NAMES, _all(_NAMED, 1)),
    ("[secret]", ("://", "\\/"), _all(_IN_URL, 1)),
    ("[email]", ("@",), _all(_EMAIL)),
    ("[iban]", (), _ibans),
    ("[card]", (), _cards),
    ("[phone]", (), _phones),
    ("[ip]", (".",), _ipv4),
    ("[ip]", (":",), _ipv6),
)
