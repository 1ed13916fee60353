"""A whole study, small: every part of a result is there, and a second one makes nothing anew."""

import math
from pathlib import Path

import pytest

from loadtest.lab import trial
from loadtest.lab.bars import verdicts
from loadtest.lab.plan import Plan
from loadtest.lab.reading import parse_plan
from loadtest.lab.report import write
from loadtest.lab.study import Crew, Result, crew, slow_engine, study, without

SMALL = """
title: Two engines
about: A small one.
groups: [{count: 2}]
requests: 300
study:
  policies: [predicted_latency, least_inflight]
  seeds: 2
  curve: [0.8]
  bars:
    - {figure: g95, over: best, at_least: 0.2}
    - {figure: g95, over: fluid, at_most: 9.0}
    - {figure: g95, over: pooled, at_most: 9.0}
    - {figure: attainment, at_least: 0.1}
"""
SLOW = """
title: One slow
groups: [{count: 2}, {count: 1, pace: {0: 1, 2: 3, 14: 1}}]
requests: 900
study: {search: false, load: 0.5, policies: [predicted_latency], seeds: 1}
"""


def plan_of(text: str) -> Plan:
    return parse_plan(text, "small")


def done(text: str, folder: Path | None) -> tuple[Result, list[str]]:
    said: list[str] = []
    with crew(1, said.append) as workers:
        return study(plan_of(text), workers, folder), said


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    folder = tmp_path_factory.mktemp("memory")
    return done(SMALL, folder)[0], folder


def test_every_policy_has_its_figures_for_every_seed(small: tuple[Result, Path]) -> None:
    result, _ = small
    assert [row.choice.name for row in result.rows] == ["predicted_latency", "least_inflight"]
    for row in [*result.rows, result.reference]:
        assert row is not None
        assert all(len(row.goals[goal]) == 2 for goal in ("g95", "g99")) and len(row.common) == 2
        assert 10 < row.mean("g95").value < 2 * result.fluid
    assert all(rate > 0 and 0 <= share <= 1 for row in result.rows for rate, share in row.curve)


def test_ratios_are_paired_and_over_the_bounds_too(small: tuple[Result, Path]) -> None:
    result, _ = small
    ours, theirs = result.rows
    expected = math.sqrt(math.prod(a / b for a, b in zip(ours.goals["g95"], theirs.goals["g95"], strict=True)))
    assert result.ratio("g95", "predicted_latency", "least_inflight").value == pytest.approx(expected)
    assert result.ratio("g95", "predicted_latency", "pooled").count == 2
    assert result.ratio("g95", "predicted_latency", "nobody").count == 0
    assert next(verdict.against for verdict in verdicts(result)) == "least_inflight"


def test_a_study_that_was_made_before_simulates_nothing(
    small: tuple[Result, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, folder = small
    monkeypatch.setattr(trial, "simulate", None)
    again, said = done(SMALL, folder)
    assert again.rows[0].goals == result.rows[0].goals and said


def test_two_processes_find_what_one_finds(small: tuple[Result, Path]) -> None:
    with crew(2, lambda words: None) as workers:
        result = study(plan_of(SMALL).varied(seeds=1), workers, None)
    assert result.rows[1].goals["g95"] == small[0].rows[1].goals["g95"][:1]


def test_a_slow_engine_is_compared_with_the_fleet_without_it(tmp_path: Path) -> None:
    result, _ = done(SLOW, tmp_path)
    (row,) = result.rows
    assert row.mean("slow_ttft_p95_ratio").value > 0 and row.windows is not None
    write([result], tmp_path / "out", "command")
    assert "x 3" in (tmp_path / "out" / "small.svg").read_text()


def test_the_fleet_without_its_slow_engine_has_one_engine_less() -> None:
    plan = plan_of(SLOW)
    slow = slow_engine(plan.scenario)
    assert slow is not None
    assert sum(group.count for group in without(plan.scenario, slow).groups) == 2


def test_the_report_says_what_was_found(small: tuple[Result, Path], tmp_path: Path) -> None:
    index = write([small[0]], tmp_path, "headway lab run small.yaml")
    page, picture = (tmp_path / "small.md").read_text(), (tmp_path / "small.svg").read_text()
    assert "# Two engines" in page and "`least_inflight`" in page and "headway lab run small.yaml" in page
    assert "2 seeds of 300 requests" in page and "nan" not in page
    assert picture.startswith("<svg") and "predicted_latency" in picture and "B1 fluid" in picture
    assert "[small](small.md)" in index.read_text()


def test_a_crew_stops_what_was_not_begun() -> None:
    workers = Crew(2, lambda words: None)
    workers.close()
    with pytest.raises(RuntimeError):
        workers.do([("", max, (1, 2))])
