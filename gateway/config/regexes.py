"""Regular expressions of the file: read so that no client's text can stall the gateway.

The idea: Python's matcher tries one way after the other, and a client chooses the text. What can run away is a repeat
inside a repeat (time grows with 2 to the length) and many repeats beside each other (with the length to their number).
So the first is refused, and of the second a few are allowed. Look-around and back references are refused too: what a
rule needs them for is better said with `not`. Source: R. Cox, "Regular Expression Matching Can Be Simple And Fast",
2007, for why backtracking explodes.

Left to others: matching (`policies.routing`), which matches whole texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.config.problems import Fault, shown

LONGEST = 200
MOST_OPEN = 2
"""Repeats without an end in one expression: its time grows with this power of the text's length."""
MOST_CHOICES = 6
"""Repeats with an end, and alternatives: each may double the ways to try."""
LARGEST_REPEAT = 100
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?:i\)|:|.?)|[()]|\||(?:[*+?]|\{\d*,?\d*\})[+?]?|.", re.DOTALL)
_REPEAT = re.compile(r"([*+?])|\{(\d*)(,?)(\d*)\}")
_SET_RISKS = ("--", "&&", "~~", "||")
_BESIDE = "write {not: …} or several expressions in a list"


def parse_regex(text: str) -> str:
    """A regular expression that matches any text in little time. Raises Fault, with what is wrong."""
    if not text:
        raise Fault("the value is empty")
    if len(text) > LONGEST:
        raise Fault("too long for a regular expression", f"at most {LONGEST} characters")
    _look_for_risks(text)
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        told = error.msg if isinstance(error, re.error) else str(error)
        place = getattr(error, "pos", None)
        where = "" if place is None else f", at character {place + 1}"
        raise Fault(f"not a regular expression: {shown(text)}", f"{told}{where}") from None
    return text


@dataclass(slots=True)
class _Group:
    """What stands in a group that is open."""

    repeats: bool = False
    alternatives: bool = False
    depth: int = 0
    """How many counted repeats lie within each other."""


def _look_for_risks(text: str) -> None:
    """Raises Fault for what could run away. Reads tokens, not structure: what is no expression is told afterwards."""
    stack, last, is_open, choices = [_Group()], _Group(), 0, 0
    for token in _tokens(text):
        repeat = _REPEAT.match(token) if token[0] in "*+?{" else None
        if token == "(?i)":
            continue
        if token[0] == "(":
            _check_group(token)
            stack.append(_Group())
            continue
        if token == ")" and len(stack) > 1:
            last = stack.pop()
            stack[-1].repeats |= last.repeats
            stack[-1].alternatives |= last.alternatives
            stack[-1].depth = max(stack[-1].depth, last.depth)
            continue
        if token == "|":
            choices += not stack[-1].alternatives
            stack[-1].alternatives = True
        elif repeat is not None:
            has_end, may_vary = _extent(repeat)
            if token[0] != "?" and (last.repeats or last.depth > 1 or last.alternatives):
                inner = "choice" if last.alternatives and not last.repeats else "repeat"
                raise Fault(f"this could run away: a {inner} inside a repeat, {shown(text)}", _instead(inner))
            stack[-1].repeats |= may_vary
            stack[-1].depth = max(stack[-1].depth, last.depth + 1)
            is_open, choices = is_open + (not has_end), choices + (has_end and may_vary)
        else:
            _check_sign(token)
        last = _Group()
    if is_open > MOST_OPEN or choices > MOST_CHOICES:
        told = f"`*` and `+` {is_open} times" if is_open > MOST_OPEN else f"{choices} choices"
        most = MOST_OPEN if is_open > MOST_OPEN else MOST_CHOICES
        raise Fault(f"this could run away: {told} in {shown(text)}", f"at most {most}; {_BESIDE}")


def _tokens(text: str) -> Iterator[str]:
    return (found[0] for found in _TOKEN.finditer(text))


def _extent(repeat: re.Match[str]) -> tuple[bool, bool]:
    """Whether it has an end, and whether it may match more or less."""
    sign, least, comma, most = repeat.groups()
    if sign is not None:
        return sign == "?", True
    if not least and not most:  # plain text such as {} or {,}
        return True, False
    if any(len(number) > 9 or int(number) > LARGEST_REPEAT for number in (least, most) if number):
        raise Fault(f"this could run away: a repeat of more than {LARGEST_REPEAT}", "write * or + instead")
    return not comma or bool(most), bool(comma) and least != most


def _check_group(token: str) -> None:
    if token not in ("(", "(?:"):
        raise Fault(f"look-around, names and flags are refused: {shown(token)}", f"groups are ( ) or (?: ); {_BESIDE}")


def _check_sign(token: str) -> None:
    """Back references, and signs in a set that Python may read in another way some day."""
    if re.fullmatch(r"\\[1-9]", token):
        raise Fault(f"back references are refused: {shown(token)}", _BESIDE)
    inside = token[1:-1] if token[0] == "[" else ""
    if "[" in re.sub(r"\\.", "", inside) or any(risk in inside for risk in _SET_RISKS):
        raise Fault(f"not a plain set of characters: {shown(token)}", r"write \[ for a bracket in it")


def _instead(inner: str) -> str:
    if inner == "choice":
        return "a set such as [ab]+ has one way to match; or write several expressions in a list"
    return "write it without the inner one: (a+)+ is a+, ([a-z]+-)* is [a-z-]*"
