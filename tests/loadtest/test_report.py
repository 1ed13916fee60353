"""Tests of loadtest/report.py and loadtest/svg.py: the page holds the figures, is whole, and loads nothing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.measure import Generator, Record, Slo, summarize
from loadtest.report import page, table
from loadtest.svg import Axis, Series, chart, show, spanning

SLO = Slo(1.0, 0.1)


def records(count: int = 40) -> list[Record]:
    made = []
    for i in range(count):
        at = i * 0.25
        gaps = array("d", [0.02, 0.03])
        endpoint = f"http://127.0.0.1:{9000 + i % 3}"
        made.append(Record(at, at, at + 1.05, at + 0.1 + i / 100, at + 1, "", 200, 3, 3, 50, 5, endpoint, gaps=gaps))
    made.append(Record(1.0, 1.0, 1.2, failure='<b>"bad"</b>', status=200))
    return made


def summary(of: list[Record], busy: float = 0.1) -> dict[str, object]:
    return summarize(of, SLO, Generator(12.0, busy, busy, 7))


def test_the_table_shows_counts_rates_latencies_and_shares() -> None:
    text = table(summary(records()))
    assert "requests 41   ok 40   failed 1" in text and '1 x <b>"bad"</b>' in text
    for words in (
        "first token (TTFT)",
        "gap between tokens",
        "start lag",
        "goodput",
        "http://127.0.0.1:9002",
        "CPU 10%",
    ):
        assert words in text


def test_the_page_is_well_formed_and_self_contained() -> None:
    text = page("A <run>", {"url": "http://a/?b&c"}, summary(records(), busy=0.9), records())
    assert text.count("<svg") == 4
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        ET.fromstring(svg)
    assert not re.search(r"(?:src|href)=|<script|@import|url\(", text)
    assert "A &lt;run&gt;" in text and "b&amp;c" in text and "&lt;b&gt;&quot;bad&quot;" in text
    assert "the generator used 90%" in text and text.count("http://127.0.0.1:900") == 3


def test_a_run_in_which_nothing_was_answered_has_a_page_too() -> None:
    for of in ([], [Record(0.0, 0.0, 0.1, failure="no answer")]):
        text = page("Nothing", {}, summary(of), of)
        assert "nothing to plot" in text and "requests" in table(summary(of))


def test_one_short_answer_can_be_plotted() -> None:
    of = [Record(0.0, 0.0, 0.0, 0.0, 0.0, "", 200, 1, 1, 1)]
    assert page("One", {}, summary(of), of).count("<svg") == 4


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=30), st.booleans())
def test_an_axis_holds_its_values_and_its_ticks_are_few_and_inside(values: list[float], log: bool) -> None:
    axis = spanning("x", values, log=log)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 12
    assert all(-1e-9 <= axis.place(tick) <= 1 + 1e-9 for tick in ticks)
    assert axis.high >= max(values) * (1 - 1e-9)


def test_places_on_an_axis() -> None:
    assert [Axis("", 0, 10).place(v) for v in (-1, 0, 5, 10, 11)] == [0, 0, 0.5, 1, 1]
    assert Axis("", 0.1, 10, log=True).place(1) == pytest.approx(0.5)
    assert Axis("", 0, 10).ticks() == [0, 2, 4, 6, 8, 10]
    assert Axis("", 0.1, 10, log=True).ticks() == pytest.approx([0.1, 0.2, 0.5, 1, 2, 5, 10])
    assert (show(0.30000000000000004), show(2e7)) == ("0.3", "2.0e+07")


def test_a_chart_names_its_series_and_leaves_out_empty_ones() -> None:
    text = chart(
        "T & t", Axis("x", 0, 1), Axis("y", 0, 1), [Series("a<b", [0, 1], [0, 1], stairs=True), Series("e", [], [])]
    )
    root = ET.fromstring(text)
    assert "a<b" in "".join(root.itertext()) and text.count('class="line') == 1
