"""How figures are written in tables: few digits, the interval beside the value, a dash for what is not there."""

from __future__ import annotations

import math
from collections.abc import Sequence

from loadtest.lab.statistics import Interval

_PERCENT = 1e2


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def number(value: float) -> str:
    """Three figures; a dash for what is not there."""
    return "–" if math.isnan(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def percent(value: float) -> str:
    """A share as a percentage."""
    return "–" if math.isnan(value) else f"{_PERCENT * value:.3g} %"


def share(value: float, of: float) -> str:
    """What part of a bound."""
    return "–" if math.isnan(value) or math.isnan(of) or of <= 0 else f"{value / of:.1%}"


def show(figure: Interval, scale: float = 1.0, unit: str = "", digits: int = 4) -> str:
    """A figure with its interval."""
    if math.isnan(figure.value):
        return "–"
    value = f"{scale * figure.value:.{digits}g}"
    return f"{value} ± {scale * figure.margin:.2g}{unit}" if math.isfinite(figure.margin) else value + unit
