"""Checks for the keyword arguments of policies: YAML may give any type, and the error is read by its author."""

from __future__ import annotations

import math


def number(name: str, value: object, low: float, high: float = math.inf) -> float:
    """`value` as a float within [low, high]. Raises ValueError that names the option and says what it should be."""
    bounds = f"a number of at least {low:g}" if math.isinf(high) else f"a number from {low:g} to {high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} must be {bounds}, not {value!r}")
    if math.isinf(value):
        raise ValueError(f"{name} must be {bounds}, and finite")
    return float(value)


def whole(name: str, value: object, low: int, high: int) -> int:
    """`value` as an int within [low, high]. Raises ValueError that names the option and says what it should be."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
    return value


def switch(name: str, value: object) -> bool:
    """`value` as a bool. Raises ValueError that names the option."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {value!r}")
    return value
