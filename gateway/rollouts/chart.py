"""Pictures of a canary as inline SVG: the share over time, each measure with its interval, the evidence.

The idea: a picture needs no script and no other file, takes its colours from the page's style (so it reads in light and
in dark) and stays sharp at any size. All share one time axis, with a line where the step changed. An interval that is
still wide open is cut at the picture's edge: what matters is where it lies against the margin.

Left to others: what the figures mean and the page around them (`report`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

Point = Mapping[str, Any]

WIDTH = 720.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 16.0, 18.0, 22.0
SERIES = 7  # colours
TICKS = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800)


class Axes:
    """A picture's frame: seconds (Unix) and values to places in it."""

    def __init__(self, times: tuple[float, float], values: tuple[float, float], height: float, label: str):
        self.since, self.until = times[0], max(times[1], times[0] + 1.0)
        self.low, self.high = values[0], max(values[1], values[0] + 1e-9)
        self.height = height
        self.label = label

    def x(self, at: float) -> float:
        return LEFT + (at - self.since) / (self.until - self.since) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Cut at the edges."""
        inside = min(max(value, self.low), self.high)
        return self.height - BOTTOM - (inside - self.low) / (self.high - self.low) * (self.height - TOP - BOTTOM)

    def path(self, line: Sequence[tuple[float, float]]) -> str:
        """A line through moments and values."""
        return "".join(f"{'L' if i else 'M'}{self.x(at):.1f},{self.y(value):.1f}" for i, (at, value) in enumerate(line))

    def wrap(self, parts: Sequence[str]) -> str:
        return (f'<svg viewBox="0 0 {WIDTH:g} {self.height:g}" role="img" aria-label="{escape(self.label)}">'
                f"{''.join(parts)}{self._times()}</svg>")  # fmt: skip

    def across(self, value: float, text: str, kind: str) -> str:
        """A line across the picture at a value, with its name at the left."""
        y = self.y(value)
        return (
            f'<line class="{kind}" x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="{kind}-name" x="{LEFT - 6:g}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        )

    def mark(self, at: float, text: str, kind: str = "mark") -> str:
        """A line upwards at a moment, named at its top."""
        x = self.x(at)
        return (
            f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4:g}" y2="{self.height - BOTTOM:g}"/>'
            f'<text x="{min(x + 3, WIDTH - 60):.1f}" y="{TOP - 6:g}">{escape(text)}</text>'
        )

    def _times(self) -> str:
        spread = self.until - self.since
        every = next((tick for tick in TICKS if spread / tick <= 7), TICKS[-1])
        form = "%H:%M:%S" if every < 60 else "%H:%M" if spread < 86_400 else "%d %b %H:%M"
        parts, at = [], (self.since // every + 1) * every
        while at < self.until:
            x, text = self.x(at), datetime.fromtimestamp(at, UTC).strftime(form)
            if LEFT + 14 <= x <= WIDTH - RIGHT - 20:
                parts.append(f'<text x="{x:.1f}" y="{self.height - 6:g}" text-anchor="middle">{text}</text>')
            at += every
        return "".join(parts)


def share_chart(points: Sequence[Point], steps: Sequence[float]) -> str:
    """The canary's share over time, as a staircase."""
    axes = Axes(_times(points), (0.0, max([*steps, 0.01]) * 1.05), 120.0, "share of the requests over time")
    path: list[str] = []
    before = 0.0
    for point in points:
        x, y = axes.x(point["at"]), axes.y(point["share"])
        path.append(f"M{x:.1f},{y:.1f}" if not path else f"H{x:.1f}V{y:.1f}")
        before = point["share"]
    area = f"{''.join(path)}V{axes.y(0.0):.1f}H{axes.x(points[0]['at']):.1f}Z"
    lines = [axes.across(value, f"{value * 100:.3g} %", "grid") for value in _apart((0.0, *steps), axes)]
    end = f'<circle class="dot" cx="{axes.x(points[-1]["at"]):.1f}" cy="{axes.y(before):.1f}" r="3.5"/>'
    return axes.wrap([*lines, f'<path class="area" d="{area}"/>', f'<path class="line" d="{"".join(path)}"/>', end])


def measure_chart(points: Sequence[Point], name: str, show: Callable[[float], str], label: str) -> str:
    """One measure over time: estimate, always-valid interval, margin. Empty without a point that has it."""
    found = [(point["at"], measure) for point in points for measure in point["measures"]
             if measure["name"] == name and measure["estimate"] is not None]  # fmt: skip
    if not found:
        return ""
    last = found[-1][1]
    axes = Axes(_times(points), _span(found), 150.0, label)
    band = _band(axes, found)
    path = axes.path([(at, measure["estimate"]) for at, measure in found])
    parts = [*_steps(axes, points), axes.across(0.0, "equal", "zero")]
    if last["margin"] is not None:
        parts.append(axes.across(last["margin"], show(last["margin"]), "margin"))
    x, y, kind = axes.x(found[-1][0]), axes.y(last["estimate"]), _kind(last)
    parts += [f'<path class="band {kind}" d="{band}"/>', f'<path class="line {kind}" d="{path}"/>',
              f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>']  # fmt: skip
    return axes.wrap(parts)


def evidence_chart(points: Sequence[Point], enough: float, names: Mapping[str, str]) -> str:
    """The evidence of harm over time, a line for each measure: e-values, as logarithms; `enough` rolls back."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        for measure in point["measures"]:
            if measure["evidence"] is not None and measure["harm"]:
                lines.setdefault(measure["name"], []).append((point["at"], measure["evidence"]))
    if not lines:
        return ""
    top = max(enough * 1.25, *(value for line in lines.values() for _, value in line))
    axes = Axes(_times(points), (-0.5 * enough, min(top, 3.0 * enough)), 170.0, "evidence of harm over time")
    parts = [*_steps(axes, points), axes.across(0.0, "none", "zero"), axes.across(enough, "enough", "margin")]
    for number, line in enumerate(lines.values()):
        parts.append(f'<path class="line series{number % SERIES}" d="{axes.path(line)}"/>')
    legend = "".join(f'<span class="series{number % SERIES}">{escape(names.get(name, name))}</span>'
                     for number, name in enumerate(lines))  # fmt: skip
    return f'<p class="legend">{legend}</p>{axes.wrap(parts)}'


def _times(points: Sequence[Point]) -> tuple[float, float]:
    return points[0]["at"], points[-1]["at"]


def _steps(axes: Axes, points: Sequence[Point]) -> list[str]:
    """A line where the share became another one."""
    found, before, free = [], None, 0.0
    for point in points:
        if before is not None and point["share"] != before:
            x = axes.x(point["at"])
            text = f"{point['share'] * 100:.3g} %" if x >= free else ""
            found.append(axes.mark(point["at"], text))
            free = x + 44.0 if text else free
        before = point["share"]
    return found


def _span(found: Sequence[tuple[float, Point]]) -> tuple[float, float]:
    """The values to show: zero, the margin, all estimates of the later half and the last interval, with some air."""
    last = found[-1][1]
    shown = [0.0, *(m["estimate"] for _, m in found[len(found) // 2 :])]
    if last["margin"] is not None:
        shown += [1.4 * last["margin"], -0.7 * last["margin"]]
    shown += [end for end in (last["low"], last["high"]) if end is not None]
    low, high = min(shown), max(shown)
    air = 0.08 * (high - low) or 0.01
    return low - air, high + air


def _band(axes: Axes, found: Sequence[tuple[float, Point]]) -> str:
    """The outline of the interval; where an end is not known, the picture's edge."""
    highs = [(at, m["high"] if m["high"] is not None else axes.high) for at, m in found]
    lows = [(at, m["low"] if m["low"] is not None else axes.low) for at, m in found]
    corners = [f"{axes.x(at):.1f},{axes.y(value):.1f}" for at, value in (*highs, *reversed(lows))]
    return f"M{'L'.join(corners)}Z"


def _apart(values: Sequence[float], axes: Axes) -> list[float]:
    """Those values whose names do not overlap, the largest first."""
    kept: list[float] = []
    for value in sorted(set(values), reverse=True):
        if all(abs(axes.y(value) - axes.y(other)) >= 14.0 for other in kept):
            kept.append(value)
    return kept


def _kind(measure: Point) -> str:
    return {"ok": "good", "worse": "bad", "changed": "odd"}.get(str(measure["says"]), "open")
