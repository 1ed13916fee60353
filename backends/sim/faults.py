"""The faults a simulated server can have, how one is asked for, and which are active.

The idea: every way a model server was seen to fail has a name; one is switched on at start
(`--fault hang@10+5`) or at run time (`POST /sim/fault`), optionally with a value, and ends by itself or by request.
What a fault does is done where it happens: by the server, the exchange or the metrics page.
"""

import difflib
import re
from dataclasses import dataclass
from typing import Any

KINDS = {
    "hang": "the engine stops; /health stays 200, /metrics says idle",
    "slow": "iterations take VALUE times as long",
    "crash": "all connections are reset, the port closes; a fresh engine when it ends",
    "killed": "the engine dies: streams end with an error event and [DONE], the port closes",
    "silent": "the engine stops and the port closes, open streams get nothing more",
    "refuse": "the port closes; what runs is answered",
    "drain": "new requests get 500 (cannot schedule new futures), what runs is answered, health stays 200",
    "5xx": "requests get an error: VALUE is a status (500 without), or the share of requests",
    "503": "requests get the 503 of a full queue",
    "cut": "streams are closed without an end, after VALUE tokens (the open ones now)",
    "reset": "streams are reset, after VALUE tokens (the open ones now)",
    "garbage_metrics": "/metrics answers 200 with bytes that are no metrics",
    "no_metrics": "/metrics answers 404",
    "empty_metrics": "/metrics answers 200 without any engine series",
    "frozen_metrics": "/metrics repeats what it said when the fault began",
    "dead_metrics": "/metrics never answers",
    "slow_metrics": "/metrics answers after VALUE seconds",
    "unhealthy": "/health answers 503",
    "dead_health": "/health never answers",
}
NEEDS_VALUE = {"slow": "a factor", "slow_metrics": "seconds"}
_SPEC = re.compile(
    r"(?P<kind>[\w]+)(?::(?P<value>[\d.]+))?(?:@(?P<at>[\d.]+))?(?:\+(?P<for>[\d.]+))?(?:#(?P<index>\d+))?"
)


class BadFault(ValueError):
    """A fault that does not exist or lacks its value; the message says what would be right."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault to switch on: `seconds` None means until it is cleared; `at` in seconds after the start."""

    kind: str
    value: float | None = None
    seconds: float | None = None
    at: float = 0.0
    index: int | None = None  # of the server in the process; None: all of them


def fault(kind: str, value: Any = None, seconds: Any = None, at: float = 0.0, index: int | None = None) -> Fault:
    """A checked fault. Raises BadFault."""
    if kind not in KINDS:
        close = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise BadFault(f"unknown fault {kind!r}{hint} (known: {', '.join(KINDS)})")
    if value is None and kind in NEEDS_VALUE:
        raise BadFault(f"fault {kind} needs a value: {NEEDS_VALUE[kind]}, as in {kind}:3")
    numbers: list[float | None] = []
    for name, given in (("value", value), ("for", seconds)):
        if given is not None and (type(given) not in (int, float) or not given >= 0):
            raise BadFault(f"fault {kind}: {name} must be a number of at least 0, got {given!r}")
        numbers.append(None if given is None else float(given))
    if kind == "slow" and not value:
        raise BadFault("fault slow: the factor must be greater than 0")
    if kind == "5xx" and value is not None and not (0 < value <= 1 or 500 <= value <= 599):
        raise BadFault(f"fault 5xx: the value is a status from 500 to 599 or a share up to 1, got {value!r}")
    return Fault(kind, numbers[0], numbers[1], at, index)


def parse_fault(text: str) -> Fault:
    """`KIND[:VALUE][@AT_SECONDS][+FOR_SECONDS][#SERVER]`, as on the command line. Raises BadFault."""
    found = _SPEC.fullmatch(text)
    if found is None:
        raise BadFault(f"cannot read fault {text!r}: write KIND[:VALUE][@AT_SECONDS][+FOR_SECONDS][#SERVER]")
    try:
        value, at, seconds = (float(found[name]) if found[name] else None for name in ("value", "at", "for"))
    except ValueError as error:
        raise BadFault(f"cannot read a number in fault {text!r}") from error
    return fault(found["kind"], value, seconds, at or 0.0, int(found["index"]) if found["index"] else None)
