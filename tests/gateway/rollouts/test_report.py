"""The report of a canary: whatever is known or not, a page that is whole, safe and needs nothing else."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rollouts.report import report_html, report_json
from gateway.rollouts.words import MEASURES, difference, headline, overview, span, status_lines
from tests.support.rollouts import World, config, route

VOID = {"meta", "br"}
EVIL = "<script>alert('x')</script>&\"'"


class Whole(HTMLParser):
    """Checks that every element is closed, and gathers the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: str) -> Whole:
    found = Whole()
    found.feed(page)
    found.close()
    assert not found.open
    return found


def world(**how: Any) -> World:
    w = World(None)
    w.boot(config(route()))
    for name, value in how.items():
        setattr(w, name, value)
    w.run(60)
    return w


@pytest.fixture(scope="module")
def view() -> dict[str, Any]:
    return world().view()


def test_a_page_tells_the_decision_the_arms_the_measures_and_the_rule() -> None:
    text = " ".join(parsed(world().canaries.page("llama")).text)
    assert all(part in text for part in ("llama/routes[0]", "running", "Not yet:", "stable", "next"))
    assert all(part in text for part in ("time to first token", "failed requests", "Evidence of harm", "A against A"))
    assert all(part in text for part in ("The rule", "5 %, then 25 %, then 100 %", "What happened"))


def test_a_rollback_is_told_first_with_its_reason() -> None:
    w = world(fails=0.9)
    text = " ".join(parsed(w.canaries.page("llama")).text)
    assert "Rolled back. errors" in text or "Rolled back. " in text
    assert w.view()["why"] in text


def test_the_page_before_the_first_request_is_whole() -> None:
    w = World(None)
    w.boot()
    assert "Nothing has been compared yet" in " ".join(parsed(w.canaries.page("llama")).text)


def test_nothing_is_fetched_and_nothing_runs() -> None:
    page = world().canaries.page("llama")
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)


def test_what_others_wrote_is_text(view: dict[str, Any]) -> None:
    arms = [{**arm, "arm": EVIL, "pool": EVIL} for arm in view["arms"]]
    texts = dict.fromkeys(("name", "model", "rule", "arm", "why", "waits_for", "check", "identity"), EVIL)
    evil = {**view, **texts, "arms": arms, "finishes": {EVIL: {EVIL: 3}}}
    happened = [{"at": view["at"], "kind": EVIL, "told": EVIL, "share": 0.1}]
    page = parsed(report_html(evil, happened))
    assert "script" not in page.seen
    assert EVIL in "".join(page.text)


_FIGURE = st.one_of(st.none(), st.floats(-20.0, 20.0))
_MEASURE = st.fixed_dictionaries({
    "name": st.sampled_from([*MEASURES, "another"]), "unit": st.sampled_from(["ratio", "points"]), "estimate": _FIGURE,
    "low": _FIGURE, "high": _FIGURE, "margin": st.floats(0.0, 1.0), "evidence": _FIGURE, "harm": st.booleans(),
    "says": st.sampled_from(["ok", "worse", "unknown", "changed"]),
})  # fmt: skip
_POINT = st.fixed_dictionaries({
    "at": st.floats(0.0, 1e7), "kind": st.sampled_from(["judgement", "step"]), "told": st.text(max_size=20),
    "share": st.floats(0.0, 1.0), "measures": st.lists(_MEASURE, max_size=4),
})  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.lists(_POINT, max_size=12), st.sampled_from(["running", "paused", "promoted", "rolled_back"]))
def test_any_history_makes_a_page_without_odd_figures(view: dict[str, Any], points: list[Any], phase: str) -> None:
    points = sorted(points, key=lambda one: one["at"])
    moment = {**view, "phase": phase, "measures": points[-1]["measures"] if points else []}
    page = parsed(report_html(moment, points))
    pictures = [value for value in page.text if "nan" in value.lower().split() or "inf" in value.lower().split()]
    assert not pictures
    assert status_lines(moment) and headline(moment)


def test_pictures_hold_finite_figures_only() -> None:
    page = world(slow=2.0).canaries.page("llama")
    assert not re.search(r'="[^"]*\b(nan|inf)\b', page)


def test_the_same_is_there_as_json(view: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report_json(view, [{"at": 1.0}]), allow_nan=False)) == {
        "canary": view, "history": [{"at": 1.0}],
    }  # fmt: skip


def test_figures_are_said_as_people_say_them() -> None:
    assert difference(0.0953, "ratio") == "+10.0 %" and difference(-0.0051, "ratio") == "-0.51 %"
    assert difference(0.005, "points") == "+0.5 pt" and difference(None, "points") == "?"
    assert difference(50.0, "ratio").startswith("+2202")
    assert [span(0.2), span(90.0), span(3600.0), span(90_061.0)] == ["0 s", "1 min 30 s", "1 h", "1 d 1 h"]
    assert overview([]) == "no canary is configured"
