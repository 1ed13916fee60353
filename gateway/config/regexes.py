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
"""Repeats without an end, or with a far one: the time grows with this power of the text's length."""
MOST_WAYS = 2
"""A repeat that may match in more ways than four counts as one without an end."""
MOST_CHOICES = 6
"""Of two ways each, in shorter repeats and in alternatives: each doubles what there is to try."""
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
            ways = _ways(repeat)
            if token[0] != "?" and (last.repeats or last.depth > 1 or last.alternatives):
                inner = "choice" if last.alternatives and not last.repeats else "repeat"
                raise Fault(f"this could run away: a {inner} inside a repeat, {shown(text)}", _instead(inner))
            stack[-1].repeats |= ways > 0
            stack[-1].depth = max(stack[-1].depth, last.depth + 1)
            is_open, choices = is_open + (ways > MOST_WAYS), choices + (ways if ways <= MOST_WAYS else 0)
        else:
            _check_sign(token)
        last = _Group()
    if is_open > MOST_OPEN or choices > MOST_CHOICES:
        told = f"{is_open} repeats side by side" if is_open > MOST_OPEN else f"{choices} choices"
        most = MOST_OPEN if is_open > MOST_OPEN else MOST_CHOICES
        raise Fault(f"this could run away: {told} in {shown(text)}", f"at most {most}; {_BESIDE}")


def _tokens(text: str) -> Iterator[str]:
    return (found[0] for found in _TOKEN.finditer(text))


def _ways(repeat: re.Match[str]) -> int:
    """In how many ways it may match, as a power of two: 0 for one way; more than `MOST_WAYS` for one without an end."""
    sign, least, comma, most = repeat.groups()
    if sign is not None:
        return 1 if sign == "?" else MOST_WAYS + 1
    if any(len(number) > 9 or int(number) > LARGEST_REPEAT for number in (least, most) if number):
        raise Fault(f"this could run away: a repeat of more than {LARGEST_REPEAT}", "write * or + instead")
    if not comma or not (least or most):  # with neither number it is plain text
        return 0
    return abs(int(most) - int(least or 0)).bit_length() if most else MOST_WAYS + 1


def _check_group(token: str) -> None:
    if token not in ("(", "(?:"):
        raise Fault(f"look-around, names and flags are refused: {shown(token)}", f"groups are ( ) or (?: ); {_BESIDE}")


def _check_sign(token: str) -> None:
    """Back references, and signs in a set that Python may read in another way some day."""
    if re.fullmatch(r"\\[1-9]", token):
        raise Fault(f"back references are refused: {shown(token)}", _BESIDE)
    if token == "[":
        raise Fault("not a regular expression", "a `[` that is never closed")
    inside = token[1:-1] if token[0] == "[" else ""
    if "[" in re.sub(r"\\.", "", inside) or any(risk in inside for risk in _SET_RISKS):
        raise Fault(f"not a plain set of characters: {shown(token)}", r"write \[ for a bracket in it")


def _instead(inner: str) -> str:
    if inner == "choice":
        return "a set such as [ab]+ has one way to match; or write several expressions in a list"
    return "write it without the inner one: (a+)+ is a+, ([a-z]+-)* is [a-z-]*"
