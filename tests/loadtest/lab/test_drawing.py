"""The parts of pictures."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.lab.drawing import DARK, LIGHT, Look, Scale, looks, page, path, spread, text, ticks


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("palette", "paper"), [(LIGHT, "#ffffff"), (DARK, "#0f1318")])
def test_every_colour_can_be_read_on_its_background(palette: tuple[str, ...], paper: str) -> None:
    for colour in palette:
        high, low = sorted((luminance(colour), luminance(paper)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 3.0, colour


def test_no_two_series_look_the_same() -> None:
    made = looks(16)
    assert len({(look.colour, look.dash, look.wide) for look in made}) == 16
    assert made[0].wide and not any(look.wide for look in made[1:])


def test_a_scale_keeps_values_inside() -> None:
    scale = Scale(0.0, 10.0, 100.0, 200.0)
    assert (scale(-5), scale(0), scale(5), scale(99)) == (100.0, 100.0, 150.0, 200.0)
    assert Scale(3.0, 3.0, 0.0, 9.0)(3.0) == 0.0


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside(low: float, length: float) -> None:
    found = ticks(low, low + length)
    assert 1 <= len(found) <= 13
    assert all(low - 1e-6 * length - 1e-9 <= value <= low + length * (1 + 1e-6) + 1e-9 for value in found)


@given(st.lists(st.floats(0, 100), max_size=8))
def test_labels_are_spread_in_order(wanted: list[float]) -> None:
    placed = spread(wanted, 10.0, 0.0, 100.0)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gaps = [placed[b] - placed[a] for a, b in pairwise(order)]
    assert all(gap >= 10.0 - 1e-6 for gap in gaps)


def test_a_page_is_well_formed_whatever_the_words() -> None:
    made = page(100, 50, 'a <b> & "c"', [text(1, 2, "<&>"), path([(0, 0), (1, 1)], Look(0))])
    assert ElementTree.fromstring(made).tag.endswith("svg")
    assert "prefers-color-scheme:dark" in made
