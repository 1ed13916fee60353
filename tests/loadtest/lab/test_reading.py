"""Scenario files: what they may say, and what is said of a wrong one."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.lab.plan import OURS
from loadtest.lab.reading import parse_plan, read_plan, standard
from loadtest.lab.scenario import ScenarioError
from loadtest.lab.study import slow_engine


@pytest.mark.parametrize("name", sorted(standard()))
def test_every_standard_scenario_can_be_read_and_studies_our_policy(name: str) -> None:
    plan = read_plan(standard()[name])
    assert plan.name == name and plan.title and plan.about
    assert plan.choices[0].policy == OURS
    assert plan.study.bars and plan.study.seeds >= 3
    assert len({choice.name for choice in plan.choices}) == len(plan.choices)


def test_a_title_is_enough() -> None:
    plan = parse_plan("title: nothing else", "x")
    assert plan.groups[0].count == 8 and plan.slo.tpot == 0.025 and len(plan.choices) == 12


def test_pairs_may_be_written_as_a_mapping() -> None:
    plan = parse_plan("title: t\ngroups: [{count: 2}, {count: 1, pace: {0: 1, 30: 3, 60: 1}, warp: {base: 1.3}}]", "x")
    assert plan.groups[1].pace == ((0.0, 1.0), (30.0, 3.0), (60.0, 1.0))
    assert plan.groups[1].warp == (("base", 1.3),)
    slow = slow_engine(plan.scenario)
    assert slow is not None and (slow.engine, slow.since, slow.until) == (2, 30.0, 60.0)


def test_policies_may_have_options_and_labels() -> None:
    text = "title: t\nstudy:\n  policies:\n    - lmetric\n    - {policy: predicted_latency, label: ours}\n"
    assert [choice.name for choice in parse_plan(text, "x").choices] == ["ours", "lmetric"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("- a", "must be a mapping"),
        ("about: no title", "needs title"),
        ("title: [", "not YAML"),
        ("title: 3", "f.yaml:1:8: title: must be text"),
        ("title: a\ntitle: b", "is there twice"),
        ("title: a\ngroups:\n  - {chnk: 3}", "f.yaml:3:6: groups[0].chnk: there is no such key; did you mean chunk"),
        ("title: a\ngroups: {count: 3}", "groups: must be a list"),
        ("title: a\ngroups: []", "at least one group"),
        ("title: a\ngroups: [{profile: h101_llama}]", "unknown profile"),
        ("title: a\ngroups: [{warp: {bass: 1.0}}]", "groups[0]: warp"),
        ("title: a\ngroups: [{pace: {5: 2}}]", "must begin at second 0"),
        ("title: a\ngroups: [{count: 2.5}]", "groups[0].count: must be a whole number"),
        ("title: a\nslo: {ttft: soon}", "slo.ttft: must be a number"),
        ("title: a\nslo: {ttft: .nan}", "slo.ttft: must be a number"),
        ("title: a\nslo: {told: 1}", "must be true or false"),
        ("title: a\ntraffic: {arrivals: weibull}", "must be one of gamma"),
        ("title: a\ntraffic: {sources: [{trace: nope}]}", "no trace 'nope'"),
        ("title: a\ntraffic: {sources: [{prompt: [1, 2, 3]}]}", "must have 2 values, not 3"),
        ("title: a\nstudy: {policies: [lmetrik]}", "did you mean lmetric"),
        ("title: a\nstudy: {policies: [{policy: lmetric, options: {x: 1}}]}", "no option 'x'"),
        ("title: a\nstudy: {bars: [{figure: g95, over: nobody, at_least: 1}]}", "'nobody' is no policy of this study"),
        ("title: a\nstudy: {bars: [{figure: g95}]}", "needs at_least or at_most"),
        ("title: a\nrequests: 3", "requests: must be at least 100"),
    ],
)
def test_a_wrong_file_is_answered_with_place_and_way_out(text: str, words: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_plan(text, "x", "f.yaml")
    assert words in str(caught.value) and "f.yaml" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"nope\.yaml: cannot be read"):
        read_plan(tmp_path / "nope.yaml")


@given(st.text(max_size=60))
def test_any_text_is_a_plan_or_a_complaint(text: str) -> None:
    try:
        parse_plan(text, "x")
    except ScenarioError as error:
        assert "scenario" in str(error)


def test_a_varied_plan_drops_bars_against_policies_that_are_not_there() -> None:
    plan = read_plan(standard()["chat_long_2048"])
    ours, lmetric = plan.choices[0], next(choice for choice in plan.choices if choice.name == "lmetric")
    smaller = plan.varied((ours, lmetric), seeds=2, requests=500)
    assert {bar.over for bar in smaller.study.bars} == {"lmetric", "best"}
    assert (smaller.study.seeds, smaller.requests) == (2, 500)
