"""The pictures hold what they are given, and are well-formed with nothing in them too."""

import math
import re
from xml.etree import ElementTree

from loadtest.lab.picture import Curve, attainment, dots, over_time
from loadtest.lab.statistics import Interval

NAME = "{http://www.w3.org/2000/svg}"
CURVES = [
    Curve("ours", [(100.0, 1.0), (150.0, 0.99), (160.0, 0.9), (170.0, 0.2)], "g95 155"),
    Curve("theirs", [(100.0, 0.999), (140.0, 0.95), (150.0, 0.5)], "g95 140"),
]


def words(picture: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(picture).iter(f"{NAME}text")]


def test_attainment_names_every_policy_and_bound() -> None:
    found = words(attainment("Title", "under", CURVES, {"B1": 184.94, "B2": math.nan}))
    assert {"Title", "under", "ours", "theirs", "g95 155", "B1 184.9", "95 %"} <= set(found)
    assert not [word for word in found if "B2" in word]
    assert found.count("ours") == 2  # at the line and in the legend


def test_higher_attainment_is_drawn_higher_and_a_higher_rate_further_right() -> None:
    picture = attainment("t", "u", CURVES[:1], {})
    dots_ = re.findall(r'<circle class="f0" cx="([\d.]+)" cy="([\d.]+)"', picture)
    places = [(float(x), float(y)) for x, y in dots_]
    assert places == sorted(places) and [y for _, y in places] == sorted(y for _, y in places)


def test_nothing_to_draw_is_still_a_picture() -> None:
    for picture in (
        attainment("t", "u", [Curve("a", [])], {}),
        dots("t", "u", "x", [], {}),
        over_time("t", "u", "y", [], {}),
        over_time("t", "u", "y", [Curve("a", [(0.0, math.nan)])], {"slow": 3.0}),
    ):
        ElementTree.fromstring(picture)


def test_dots_show_the_figure_and_its_margin() -> None:
    rows = [("ours", Interval(0.99, 0.98, 1.0, 5)), ("one seed", Interval(0.9, math.nan, math.nan, 1)),
            ("none", Interval(math.nan, math.nan, math.nan, 0))]  # fmt: skip
    found = words(dots("t", "u", "share", rows, {"bar": 0.97}))
    assert {"0.99 ± 0.01", "0.9", "no figure", "bar 0.97"} <= set(found)


def test_time_runs_to_the_right_and_says_what_happened() -> None:
    found = words(over_time("t", "u", "s", [Curve("ours", [(0.0, 0.1), (5.0, 0.3)])], {"x 3": 2.0}))
    assert {"seconds", "x 3", "ours"} <= set(found)
