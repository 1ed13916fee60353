"""Cells of tables."""

import math

from loadtest.lab.cells import number, percent, share, show, table
from loadtest.lab.statistics import Interval


def test_what_is_missing_is_a_dash() -> None:
    nothing = Interval(math.nan, math.nan, math.nan, 0)
    assert {number(math.nan), percent(math.nan), share(1.0, math.nan), share(1.0, 0.0), show(nothing)} == {"–"}


def test_figures_have_few_digits_and_their_interval() -> None:
    assert number(1234.5) == "1,234" and number(0.012345) == "0.0123" and percent(0.0512) == "5.12 %"
    assert show(Interval(157.123, 155.0, 159.246, 5)) == "157.1 ± 2.1"
    assert show(Interval(0.5, math.nan, math.nan, 1), 100, " %") == "50 %"


def test_a_table_has_a_row_per_row() -> None:
    assert table(["a", "b"], [["1", "2"]]) == ["| a | b |", "|---|---|", "| 1 | 2 |"]
