"""Charts as SVG text: axes, lines, dots with their intervals, a legend, labels at the lines; no plotting library.

One file is one picture that reads on light and on dark pages: its colours are CSS variables that follow the reader's
setting, and it brings its own background. The palette is that of Okabe and Ito (Color Universal Design, 2008), lighter
where the background is dark; dashes and markers tell apart what a colour may not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

LIGHT = ("#0072b2", "#d55e00", "#009e73", "#a8578a", "#8f6b00", "#2b7fb0", "#5c5c5c", "#7a3b00")
DARK = ("#56b4e9", "#f0883e", "#2fc79a", "#e29ac6", "#f0d243", "#8cc8ee", "#b4b4b4", "#d9a06b")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "1 2", "6 2 1 2 1 2")
CHARACTER = 6.3  # px, the mean width at 11 px

_STYLE = """text{{font:11px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:var(--soft)}}
.t{{font-size:14px;font-weight:600;fill:var(--ink)}}.u{{fill:var(--soft)}}.b{{font-weight:600;fill:var(--ink)}}text.w{{font-weight:700}}
.h{{stroke:var(--paper);stroke-width:3.5px;paint-order:stroke;stroke-linejoin:round}}
.g{{stroke:var(--rule);stroke-width:1}}.r{{stroke:var(--soft);stroke-width:1.2;stroke-dasharray:5 4;fill:none}}
.paper{{fill:var(--paper)}}path.l{{fill:none;stroke-width:1.7;stroke-linejoin:round}}path.l.w{{stroke-width:3}}
{light}
@media (prefers-color-scheme:dark){{{dark}}}"""


def style() -> str:
    """The picture's style sheet: `.c0` … `.c7` stroke and `.f0` … `.f7` fill in the palette's colours."""
    return "<style>" + _STYLE.format(
        light=_colours(LIGHT, ink="#1b1f24", soft="#59636e", rule="#e2e6ea", paper="#ffffff"),
        dark=_colours(DARK, ink="#f0f3f6", soft="#a3adb8", rule="#2f353d", paper="#0f1318"),
    ) + "</style>"  # fmt: skip


def _colours(palette: Sequence[str], **names: str) -> str:
    variables = ";".join(f"--{name}:{value}" for name, value in names.items())
    rules = "".join(
        f".c{i}{{stroke:{colour}}}.f{i},text.n{i}{{fill:{colour}}}" for i, colour in enumerate(palette)
    )
    return f":root{{{variables}}}{rules}"


@dataclass(frozen=True, slots=True)
class Look:
    """How a series is drawn: a colour of the palette, a dash, and whether it is the one to look at."""

    colour: int
    dash: str = ""
    wide: bool = False


def looks(count: int, first_is_ours: bool = True) -> list[Look]:
    """One look per series, all different; the first one wide and solid."""
    made = []
    for i in range(count):
        wide = first_is_ours and i == 0
        dash = "" if wide else DASHES[(i + i // len(LIGHT)) % len(DASHES)]
        made.append(Look(i % len(LIGHT), dash, wide))
    return made


@dataclass(frozen=True, slots=True)
class Scale:
    """Values on [low, high] to pixels on [start, end]; `bend` is applied to both first (a logarithm, or nothing)."""

    low: float
    high: float
    start: float
    end: float
    bend: Callable[[float], float] = float

    def __call__(self, value: float) -> float:
        """Where `value` is drawn; what lies outside goes to the edge."""
        low, high = self.bend(self.low), self.bend(self.high)
        share = (self.bend(min(max(value, self.low), self.high)) - low) / ((high - low) or 1.0)
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round values between low and high, about `count` of them."""
    rough = (high - low) / count or 1.0
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start", turn: bool = False) -> str:
    """A line of text; `kind` is a class of the style sheet."""
    attributes = f' class="{kind}"' if kind else ""
    if anchor != "start":
        attributes += f' text-anchor="{anchor}"'
    place = f'transform="translate({x:.1f} {y:.1f}) rotate(-90)"' if turn else f'x="{x:.1f}" y="{y:.1f}"'
    return f"<text{attributes} {place}>{escape(words)}</text>"


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight line."""
    return f'<path class="{kind}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def path(points: Sequence[tuple[float, float]], look: Look) -> str:
    """A line through the points."""
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dash = f' stroke-dasharray="{look.dash}"' if look.dash else ""
    return f'<path class="l c{look.colour}{" w" if look.wide else ""}"{dash} d="M{steps}"/>'


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least `gap` apart, near the wanted ones, in the same order of size, within [low, high]."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [0.0] * len(wanted)
    before = low - gap
    for i in order:
        before = placed[i] = max(wanted[i], before + gap)
    after = high + gap
    for i in reversed(order):
        after = placed[i] = min(placed[i], after - gap)
    return placed


def page(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """The whole SVG document."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
    head += f' height="{height:.0f}" role="img" aria-label="{escape(title, quote=True)}">'
    paper = '<rect class="paper" width="100%" height="100%"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", style(), paper, *parts, "</svg>"]) + "\n"
