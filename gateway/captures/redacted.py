"""JSON as it may be kept: cut to what was asked for, and with secrets and personal data replaced in every string.

The idea: what is searched is what was meant, not how it was written: JSON is read first, so an address that was written
with escapes is found, and so is JSON in a string of JSON (the arguments of a call). What goes by a secret's name is
replaced, whatever it is. What says a text again token by token is left out: no part of it would show a secret. A body
that was cut off is closed where it ends and then read like any other.

What cannot be searched is not kept where redaction is asked for, and what has no fields not where fields are.

Left to others: what a secret looks like (`redaction`), texts in pieces (`stream`), the record around them (`record`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from gateway.captures.redaction import Pause, Span, find, is_secret, no_pause, redact, replaced

# (Only sets are taken whole: until 3.11.4, a group that is taken whole may end in the middle of what it failed on.)
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*"|[{}\[\],:]|[^\s{}\[\],:"]++|"', re.DOTALL)
# Characters of a string, none of them cut.
_WHOLE = re.compile(r"[^\\]*+(?:\\(?:u[0-9A-Fa-f]{4}|[^u])[^\\]*+)*", re.DOTALL)
_SHORT = 64  # characters of a text that is remembered
_OFTEN = 64  # tokens between two chances for a pause
_JSON = re.compile(r'\s*+[{\["]')
_DEEP, _LARGE = 4, 1 << 18  # strings inside of strings that are read as JSON, and characters of one
_LONG = 10**11  # the least number with the digits of a card
_SURE = ("[secret]", "[email]", "[iban]", "[card]")  # of what texts side by side make, the rest may be chance
# Members, beside `…logprobs` and `…token_ids`, that say again what a text says, token by token; and those that may.
_SPELLED = frozenset(("completion_probabilities", "input_ids", "output_ids", "prefill", "token_strs", "top_tokens"))
_MAYBE_IDS = frozenset(("input", "prompt", "tokens"))
# What the schema of a parameter consists of, which is no value of it.
_DECLARING = frozenset(("type", "title", "description", "format", "minLength", "maxLength", "pattern", "anyOf"))


def selected(value: Any, fields: Sequence[str]) -> Any:
    """What of a JSON value is under these members; `a.b` is member `b` of `a`. Lists are looked through."""
    if isinstance(value, list):
        return [found for found in (selected(item, fields) for item in value) if found not in ({}, [])]
    if not isinstance(value, dict):
        return {}
    kept: dict[str, Any] = {}
    for name, member in value.items():
        if name in fields:
            kept[name] = member
            continue
        below = [field[len(name) + 1 :] for field in fields if field.startswith(name + ".")]
        if below:
            found = selected(member, below)
            if found not in ({}, []):
                kept[name] = found
    return kept


class Redactor:
    """Redacts values that have much in common: names and short texts are searched once."""

    def __init__(self, pause: Pause = no_pause):
        self._pause = pause
        self._known: dict[str, str] = {}
        self._secret: dict[str, bool] = {}
        self._depth = 0

    def value(self, value: Any) -> Any:
        """The JSON value with every string redacted, the names of members too, without what spells texts out."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return self._apart([self.value(item) for item in value])
        if isinstance(value, dict):
            called = [(name, _called(value, name), member) for name, member in value.items()]
            return {self.text(name): self._member(by, member) for name, by, member in called if not _spells(by, member)}
        if type(value) is int and abs(value) >= _LONG:
            found = redact(str(value))
            return found if "[" in found else value
        return value

    def _member(self, name: str, member: Any) -> Any:
        if member is None or isinstance(member, bool):
            return member
        if name == "token" and isinstance(member, dict) and "logprob" in member:  # one of an answer's
            return self.value({name: one for name, one in member.items() if name != "id"})
        if self._is_secret(name):
            return "[secret]"
        if name == "properties" and isinstance(member, dict):  # parameters of a tool, not arguments
            return {self.text(name): self.value(one) if _declares(one) else self._member(name, one)
                    for name, one in member.items()}  # fmt: skip
        return self.value(member)

    def _is_secret(self, name: str) -> bool:
        known = self._secret.get(name)
        if known is None:
            known = self._secret[name] = is_secret(name)
        return known

    def _apart(self, items: list[Any]) -> list[Any]:
        """The members of a list without what only several strings of it make, each of which has been searched."""
        texts = [item for item in items if isinstance(item, str)]
        spans = find("".join(texts), self._pause) if len(texts) > 1 else []
        sure = [span for span in spans if span.mask in _SURE]
        if not sure:
            return items
        parts = shared_out(texts, sure)
        return [next(parts) if isinstance(item, str) else item for item in items]

    def text(self, text: str) -> str:
        """The text redacted; one that is JSON is read, so that it does not matter how it is written."""
        if _JSON.match(text):
            inside = self.inside(text)
            if inside is not None:
                return inside
        if len(text) > _SHORT:
            return redact(text, self._pause)
        known = self._known.get(text)
        if known is None:
            self._pause()
            known = self._known[text] = redact(text)
        return known

    def inside(self, text: str) -> str | None:
        """The text redacted as JSON; None where it is none, or nothing was found."""
        if self._depth == _DEEP or len(text) > _LARGE or not _JSON.match(text):
            return None
        self._depth += 1
        try:
            value = self._parsed(text)
            found = self.value(value)
            return None if found == value else dumped(found)
        except (ValueError, RecursionError):
            return None
        finally:
            self._depth -= 1

    def _parsed(self, text: str) -> Any:
        """Also what was cut off. Raises ValueError and RecursionError like `parse_json`."""
        try:
            return parse_json(text)
        except ValueError:
            closed = text if text.lstrip()[:1] == '"' else mended(text, self._pause)
            if text.startswith(closed):  # nothing is open at its end: it is no JSON, or more than that
                raise
            return parse_json(closed)


def _called(holder: dict[str, Any], name: str) -> str:
    """What a member goes by: a tensor's data, and the value of a pair, have their name beside them."""
    beside = holder.get("name") if name in ("data", "value") else None
    return beside if isinstance(beside, str) else name


def _spells(name: str, member: Any) -> bool:
    """Whether a member says token by token what a text says: a secret would be in no single part of it."""
    if not isinstance(member, list | dict) or not member:
        return False
    if name in _MAYBE_IDS:
        return isinstance(member, list) and any(map(_is_token, member))
    return name in _SPELLED or name.endswith(("logprobs", "token_ids"))


def _is_token(item: Any) -> bool:
    """Whether a member of a list is a token's number, several, or a token with what is said of it."""
    first = item[0] if isinstance(item, list) and item else item
    return type(first) is int or (isinstance(first, dict) and "logprob" in first)


def _declares(value: Any) -> bool:
    """Whether it is the schema of something, without any value of it."""
    return isinstance(value, dict) and all(name in _DECLARING for name, said in value.items() if said is not None)


def mended(text: str, pause: Pause = no_pause) -> str:
    """JSON that was cut off anywhere, closed where it ends: what was begun and says nothing yet is left out."""
    closing: list[str] = []
    good = 0  # up to here, and with what is still open closed, it is JSON
    is_key = False
    for number, match in enumerate(_TOKEN.finditer(text)):
        token, at = match[0], match.end()
        if not number % _OFTEN:
            pause()
        if token in ("{", "["):
            closing.append("}" if token == "{" else "]")
            is_key = token == "{"
        elif token in ("}", "]"):
            if closing[-1:] != [token]:
                break
            closing.pop()
            is_key = False
        elif token in (",", ":"):
            is_key = token == "," and closing[-1:] == ["}"]
            continue
        elif token == '"':  # a string that does not end
            if is_key:
                break
            whole = _WHOLE.match(text, at)
            return text[: whole.end() if whole else at] + '"' + "".join(reversed(closing))
        elif is_key:
            is_key = False
            continue
        elif at == len(text) and token[0] != '"':  # a number or word that may go on
            break
        good = at
    return text[:good] + "".join(reversed(closing))


def parse_json(text: str) -> Any:
    """Raises ValueError for what is no JSON, or is a number that no float is; RecursionError for what nests deeply."""
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:20]} is no number")
    return value


def dumped(value: Any) -> str:
    """JSON in one line. Raises ValueError for what JSON has no word for."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def shared_out(texts: Sequence[str], spans: Sequence[Span]) -> Iterator[str]:
    """The texts with the parts of their joined text replaced; a mask goes where its part begins."""
    start = at = 0
    for text in texts:
        end = start + len(text)
        own: list[Span] = []
        while at < len(spans) and spans[at].start < end:
            span = spans[at]
            mask = span.mask if span.start >= start else ""
            own.append(Span(max(0, span.start - start), min(span.end, end) - start, mask))
            if span.end > end:  # it goes on in the next
                break
            at += 1
        yield replaced(text, own)
        start = end
