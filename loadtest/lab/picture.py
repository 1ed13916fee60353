"""The pictures of a study: attainment against offered rate, one figure per policy, and something over time.

Attainment is drawn on a scale of misses (50 %, 10 %, 5 %, 1 %: each as far from the next as it is hard to get), because
all that matters happens close to 100 %. Each line carries its name where it ends; the legend gives the g95 behind it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loadtest.lab.drawing import CHARACTER, Look, Scale, line, looks, page, path, spread, text, ticks
from loadtest.lab.statistics import Interval

WIDTH, HEIGHT = 860.0, 440.0
_LEFT, _TOP, _BOTTOM = 62.0, 62.0, 46.0
_MARKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
_FEWEST = 0.0008  # the share of misses at the upper edge

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Curve:
    """A policy's points (rate or time, value), in order, and what the legend says beside its name."""

    name: str
    points: Sequence[tuple[float, float]]
    note: str = ""


def attainment(
    title: str,
    subtitle: str,
    curves: Sequence[Curve],
    bounds: Mapping[str, float],
    goals: Sequence[float] = (0.95, 0.99),
) -> str:
    """SLO attainment (0 to 1) against offered rate; `bounds` (requests/s by name) are upright lines."""
    rates = [rate for curve in curves for rate, _ in curve.points] + [b for b in bounds.values() if math.isfinite(b)]
    low, high = _around(rates)
    names = max((len(curve.name) + len(curve.note) for curve in curves), default=0)
    right = WIDTH - 76 - 6.3 * names
    x = Scale(low, high, _LEFT, right)
    y = Scale(0.0, 1.0 - _FEWEST, HEIGHT - _BOTTOM, _TOP, bend=_nines)
    parts = [text(_LEFT - 46, 24, title, "t"), text(_LEFT - 46, 42, subtitle, "u")]
    parts += _upright(x, _TOP, HEIGHT - _BOTTOM, "offered rate, requests/s")
    for mark in _MARKS:
        kind = "r" if mark in goals else "g"
        parts.append(line(kind, _LEFT, y(mark), right, y(mark)))
        parts.append(text(_LEFT - 6, y(mark) + 4, f"{mark:.4g}" if mark == 0 else f"{100 * mark:g} %", anchor="end"))
    parts.append(text(16, (_TOP + HEIGHT - _BOTTOM) / 2, "requests within their SLO", anchor="middle", turn=True))
    parts += _bounds(x, bounds)
    parts += _lines(curves, x, y)
    return page(WIDTH, HEIGHT, f"{title}: attainment against offered rate", parts)


def _nines(share: float) -> float:
    return -math.log10(max(1.0 - share, 1e-9))


def _around(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    reach = (high - low) or abs(high) or 1.0
    return max(0.0, low - 0.03 * reach), high + 0.05 * reach


def _upright(x: Scale, top: float, bottom: float, name: str) -> list[str]:
    parts = []
    for value in ticks(x.low, x.high):
        parts.append(line("g", x(value), top, x(value), bottom))
        parts.append(text(x(value), bottom + 16, f"{value:g}", anchor="middle"))
    parts.append(text((x.start + x.end) / 2, bottom + 36, name, anchor="middle"))
    return parts


def _bounds(x: Scale, bounds: Mapping[str, float]) -> list[str]:
    """Upright lines with their names above, side by side."""
    shown = sorted(((value, name) for name, value in bounds.items() if math.isfinite(value)))
    words = [f"{name} {value:.4g}" for value, name in shown]
    places = spread([x(value) for value, _ in shown], 6.6 * max((len(one) for one in words), default=0), x.start, x.end)
    parts = []
    for (value, _), word, place in zip(shown, words, places, strict=True):
        parts.append(line("r", x(value), _TOP - 2, x(value), HEIGHT - _BOTTOM))
        parts.append(text(place, _TOP - 6, word, "b", anchor="middle"))
    return parts


def _lines(curves: Sequence[Curve], x: Scale, y: Scale) -> list[str]:
    """The lines, the first one on top, each with its name at it where there is room, and the legend beside them."""
    parts: list[str] = []
    styled = list(zip(curves, looks(len(curves)), strict=True))
    drawn = [[(x(at), y(value)) for at, value in curve.points] for curve in curves]
    for (_, look), points in reversed(list(zip(styled, drawn, strict=True))):
        if points:
            parts += [path(points, look), *(_dot(px, py, look) for px, py in points)]
    names = _Names()
    for number, ((curve, look), points) in enumerate(zip(styled, drawn, strict=True)):
        parts += names.at(curve.name, look, points, drawn[:number] + drawn[number + 1 :], x.end)
    widest = max((len(curve.name) for curve in curves), default=0)
    for number, (curve, look) in enumerate(styled):
        at = _TOP + 6 + 17 * number
        parts.append(path([(x.end + 18, at), (x.end + 42, at)], look))
        parts.append(text(x.end + 48, at + 4, curve.name, f"n{look.colour}" + (" w" if look.wide else "")))
        if curve.note:
            parts.append(text(x.end + 54 + 6.4 * widest, at + 4, curve.note))
    return parts


class _Names:
    """Names written at their lines, none over another, and as far from other lines as there is room."""

    def __init__(self) -> None:
        self._taken: list[tuple[float, float, float]] = []  # left, right, baseline

    def at(self, name: str, look: Look, own: Points, others: Sequence[Points], right: float) -> list[str]:
        """The name beside a place of its own line; nothing where all is full."""
        best, most = None, 9.0
        for px, py in _between(own):
            if any(math.hypot(px - qx, py - qy) < 12 for points in others for qx, qy in _between(points)):
                continue  # too near another line to say whose name it is
            for left in (px + 7, px - 7 - CHARACTER * len(name)):
                end = left + CHARACTER * len(name)
                if left < _LEFT or end > right or not _TOP + 8 < py < HEIGHT - _BOTTOM - 8:
                    continue
                if any(left < b + 6 and end > a - 6 and abs(py - c) < 13 for a, b, c in self._taken):
                    continue
                room = min(_room(left, end, py, others), _room(left, end, py, [own]) + 12)
                if room > most:
                    best, most = (left, end, py), room
        if best is None:
            return []
        self._taken.append(best)
        return [text(best[0], best[2] + 4, name, f"h n{look.colour}" + (" w" if look.wide else ""))]


def _between(points: Points) -> Points:
    """Places along a line, some px apart."""
    found = []
    for (ax, ay), (bx, by) in itertools.pairwise(points):
        steps = max(1, int(math.hypot(bx - ax, by - ay) / 9))
        found += [(ax + (bx - ax) * i / steps, ay + (by - ay) * i / steps) for i in range(steps)]
    return found


def _room(left: float, right: float, y: float, others: Sequence[Points]) -> float:
    """How far, upright, the nearest line is from a word; 0 if one runs through it."""
    near = 40.0
    for points in others:
        for px, py in _between(points):
            if left - 2 <= px <= right + 2:
                near = min(near, abs(py - y))
    return near


def _dot(x: float, y: float, look: Look, size: float = 0.0) -> str:
    return f'<circle class="f{look.colour}" cx="{x:.1f}" cy="{y:.1f}" r="{size or (3 if look.wide else 2):g}"/>'


def dots(title: str, subtitle: str, axis: str, rows: Sequence[tuple[str, Interval]], marks: Mapping[str, float]) -> str:
    """One figure per policy with its 95 % interval, as a dot and a bar; `marks` (by name) are upright lines."""
    values = [v for _, i in rows for v in (i.value, i.low, i.high) if math.isfinite(v)]
    low, high = _around([*values, *(v for v in marks.values() if math.isfinite(v))])
    left = 40 + 6.6 * max((len(name) for name, _ in rows), default=0)
    bottom = _TOP + 24 * len(rows) + 8
    x = Scale(low, high, left, WIDTH - 110)
    parts = [text(16, 24, title, "t"), text(16, 42, subtitle, "u")]
    parts += _upright(x, _TOP, bottom, axis)
    for name, value in marks.items():
        parts.append(line("r", x(value), _TOP - 4, x(value), bottom))
        parts.append(text(x(value), _TOP - 7, f"{name} {value:.4g}", "b", anchor="middle"))
    for i, ((name, figure), look) in enumerate(zip(rows, looks(len(rows)), strict=True)):
        y = _TOP + 18 + 24 * i
        parts.append(text(left - 10, y + 4, name, "b" if i == 0 else "", anchor="end"))
        if math.isnan(figure.value):
            parts.append(text(left + 6, y + 4, "no figure"))
            continue
        if math.isfinite(figure.margin):
            parts.append(path([(x(figure.low), y), (x(figure.high), y)], Look(look.colour, "", look.wide)))
        parts.append(_dot(x(figure.value), y, look, 6.0 if i == 0 else 4.5))
        parts.append(text(WIDTH - 98, y + 4, _with_margin(figure), "b" if i == 0 else ""))
    return page(WIDTH, bottom + 50, title, parts)


def _with_margin(figure: Interval) -> str:
    shown = f"{figure.value:.3g}"
    return f"{shown} ± {figure.margin:.2g}" if math.isfinite(figure.margin) else shown


def over_time(title: str, subtitle: str, axis: str, curves: Sequence[Curve], moments: Mapping[str, float]) -> str:
    """Lines over time (s); `moments` (by name) are upright lines: what was done to the fleet, and when."""
    times = [at for curve in curves for at, _ in curve.points]
    values = [value for curve in curves for _, value in curve.points if math.isfinite(value)]
    names = max((len(curve.name) + len(curve.note) for curve in curves), default=0)
    right = WIDTH - 76 - 6.3 * names
    x = Scale(min(times, default=0.0), max(times, default=1.0), _LEFT, right)
    y = Scale(0.0, 1.08 * max(values, default=1.0) or 1.0, HEIGHT - _BOTTOM, _TOP + 12)
    parts = [text(_LEFT - 46, 24, title, "t"), text(_LEFT - 46, 42, subtitle, "u")]
    parts += _upright(x, _TOP + 12, HEIGHT - _BOTTOM, "seconds")
    for value in ticks(0.0, y.high):
        parts.append(line("g", _LEFT, y(value), right, y(value)))
        parts.append(text(_LEFT - 6, y(value) + 4, f"{value:g}", anchor="end"))
    parts.append(text(16, (_TOP + HEIGHT - _BOTTOM) / 2, axis, anchor="middle", turn=True))
    for name, at in moments.items():
        parts.append(line("r", x(at), _TOP + 4, x(at), HEIGHT - _BOTTOM))
        parts.append(text(x(at) + 4, _TOP + 6, name, "b"))
    finite = [Curve(c.name, [p for p in c.points if math.isfinite(p[1])], c.note) for c in curves]
    return page(WIDTH, HEIGHT, title, parts + _lines(finite, x, y))
