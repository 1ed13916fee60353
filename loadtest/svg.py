"""Small line and dot charts as inline SVG text, so that a report is one file and needs no plotting library.

A chart has one x and one y axis, linear or logarithmic (base 10), and series drawn in the order given.
Colours come from the page's style sheet (classes `s0` ... `s4`), so a page can restyle them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 34, 40


@dataclass(frozen=True, slots=True)
class Series:
    """One line (or dots) of equally long x and y."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dots: bool = False
    stairs: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """A named axis over [low, high]; for a logarithmic one both are above 0."""

    name: str
    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where on the axis: 0 at low, 1 at high; outside values go to the edge."""
        if self.log:
            span = math.log10(self.high / self.low)
            share = math.log10(max(value, self.low) / self.low) / span
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, share))

    def ticks(self) -> list[float]:
        """Round values to label, between low and high."""
        if self.log:
            return self._log_ticks()
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _log_ticks(self) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        within = 1 + 1e-9
        for marks in ((1, 2, 5), (1, 3), (1,)):
            found = [m * 10.0**d for d in decades for m in marks]
            found = [value for value in found if self.low / within <= value <= self.high * within]
            if len(found) <= 8:
                break
        return found


def spanning(name: str, values: Sequence[float], log: bool = False, floor: float = 1e-4) -> Axis:
    """An axis that holds all values: from 0 (linear), or between round values at or above `floor` (log)."""
    high = max(values, default=1.0)
    if not log:
        return Axis(name, 0.0, high * 1.05 if high > 1e-9 else 1.0)
    low = max(floor, min((value for value in values if value > 0), default=floor))
    high = max(high, low * 10)
    return Axis(name, _round_out(low, -1), _round_out(high, 1), log=True)


def _round_out(value: float, direction: int) -> float:
    unit = 10.0 ** math.floor(math.log10(value))
    steps = [unit, 2 * unit, 5 * unit, 10 * unit]
    if direction < 0:
        return max(step for step in steps if step <= value * (1 + 1e-9))
    return min(step for step in steps if step >= value * (1 - 1e-9))


def show(value: float) -> str:
    """A short label for a tick or a cell."""
    return f"{value:.10g}" if value == 0 or 1e-4 <= abs(value) < 1e6 else f"{value:.1e}"


def chart(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """The chart as an `<svg>` element."""
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text class="title" x="{_LEFT}" y="14">{escape(title)}</text>',
        *_grid(x, y),
        *_legend(series),
        *(_draw(one, x, y, f"s{i % 5}") for i, one in enumerate(series) if len(one.x)),
        "</svg>",
    ]
    return "\n".join(parts)


def _at(x: Axis, y: Axis, vx: float, vy: float) -> tuple[float, float]:
    wide, tall = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    return _LEFT + wide * x.place(vx), HEIGHT - _BOTTOM - tall * y.place(vy)


def _grid(x: Axis, y: Axis) -> list[str]:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for value in x.ticks():
        px, _ = _at(x, y, value, y.low)
        parts.append(f'<line class="grid" x1="{px:.1f}" x2="{px:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" text-anchor="middle" x="{px:.1f}" y="{bottom + 14}">{show(value)}</text>')
    for value in y.ticks():
        _, py = _at(x, y, x.low, value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{py:.1f}" y2="{py:.1f}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{_LEFT - 5}" y="{py + 3.5:.1f}">{show(value)}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text class="axis" text-anchor="middle" x="{middle:.0f}" y="{HEIGHT - 8}">{escape(x.name)}</text>')
    turn = f"translate(13 {(_TOP + bottom) / 2:.0f}) rotate(-90)"
    parts.append(f'<text class="axis" text-anchor="middle" transform="{turn}">{escape(y.name)}</text>')
    return parts


def _legend(series: Sequence[Series]) -> list[str]:
    parts, at = [], float(_LEFT)
    for i, one in enumerate(series):
        parts.append(f'<rect class="key s{i % 5}" x="{at:.0f}" y="21" width="9" height="9"/>')
        parts.append(f'<text class="tick" x="{at + 13:.0f}" y="29">{escape(one.name)}</text>')
        at += 26 + 5.8 * len(one.name)
    return parts


def _draw(series: Series, x: Axis, y: Axis, kind: str) -> str:
    points = [_at(x, y, vx, vy) for vx, vy in zip(series.x, series.y, strict=True)]
    if series.dots:
        marks = "".join(f"M{px:.1f} {py:.1f}h0" for px, py in points)
        return f'<path class="dots {kind}" d="{marks}"/>'
    start, *rest = points
    path = [f"M{start[0]:.1f} {start[1]:.1f}"]
    for px, py in rest:
        path.append(f"H{px:.1f}V{py:.1f}" if series.stairs else f"L{px:.1f} {py:.1f}")
    return f'<path class="line {kind}" d="{"".join(path)}"/>'
