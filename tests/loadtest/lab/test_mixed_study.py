"""A study of two classes, from a plan to its page; and one of the desk."""

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.cli import main
from loadtest.lab import mixed_study
from loadtest.lab.cli import quick
from loadtest.lab.plan import Bar, Plan, Study
from loadtest.lab.reading import parse_plan, read_plan, standard
from loadtest.lab.report import write
from loadtest.lab.scenario import Admission, Fill, Gate, Group, ScenarioError, Traffic
from loadtest.lab.study import Crew, Result, study

MIXED = Plan(
    "mixed", "Two classes", "About it.", (Group(count=2),), Traffic(on=3.0, off=9.0), requests=180, warm_up=0.5,
    cool_down=0.0, fill=Fill((Gate(), Gate("threshold_now", tuned_at=20.0), Gate("static", 4.0))),
    study=Study(rate=30.0, search=False, seeds=1, bars=(
        Bar("off_share", "headway", at_least=0.5), Bar("async", "headway", "static 4", at_least=1.0))),
)  # fmt: skip
DESK = Plan("desk", "A desk", "About it.", (Group(count=1),), requests=200, admission=Admission((0.5, 2.0)),
            study=Study(seeds=1, bars=(Bar("goodput_share", "200%", at_least=0.5),)))  # fmt: skip


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixed_study, "GRID", (0.1, 0.9))
        patch.setattr(mixed_study, "CAPS", (64.0,))
        patch.setattr(mixed_study, "TUNING_REQUESTS", 150)
        return study(MIXED, Crew(1, lambda words: None), tmp_path_factory.mktemp("memory"))


def test_every_gate_is_compared_with_both_classes_alone(mixed: Result) -> None:
    assert [row.choice.name for row in mixed.rows] == ["headway", "threshold_now tuned at 20/s", "static 4"]
    ours = mixed.row("headway")
    assert ours is not None
    assert ours.mean("off_share").value > 0.5
    assert ours.mean("ttft_share").value > 0.0
    assert mixed.mixed is not None and set(mixed.mixed.tuned) == {"threshold_now tuned at 20/s"}


def test_the_page_has_bars_figures_and_a_picture(mixed: Result, tmp_path: Path) -> None:
    index = write([mixed], tmp_path, "headway lab run mixed")
    page = (tmp_path / "mixed.md").read_text(encoding="utf-8")
    for words in ("## Bars", "*traffic alone*", "*backlog alone*", "**`headway`**", "`static 4`", "tuned at 20/s"):
        assert words in page
    assert "headway" in (tmp_path / "mixed.svg").read_text(encoding="utf-8")
    assert "mixed.md" in index.read_text(encoding="utf-8")


def test_a_desk_is_studied_load_by_load(tmp_path: Path) -> None:
    result = study(DESK, Crew(1, lambda words: None), None)
    assert [row.choice.name for row in result.rows] == ["50%", "200%"]
    assert max(row.mean("goodput_share").value for row in result.rows) == 1.0
    write([result], tmp_path, "headway lab run desk")
    assert "| 200% |" in (tmp_path / "desk.md").read_text(encoding="utf-8")


def test_a_gate_that_does_not_exist_is_told_with_those_that_do() -> None:
    with pytest.raises(ScenarioError, match="there is no gate 'hedway'; there are headway, static"):
        parse_plan("title: t\nfill: {gates: [hedway]}\nstudy: {rate: 10}", "x")


def test_a_study_of_gates_needs_its_rate() -> None:
    with pytest.raises(ScenarioError, match=r"needs study\.rate"):
        parse_plan("title: t\nfill: {gates: [headway]}", "x")


def test_a_bar_must_name_a_gate_of_the_study() -> None:
    assert replace(MIXED).fill.gates[0].name == "headway"
    with pytest.raises(ScenarioError, match="is no policy of this study"):
        parse_plan("title: t\nfill: {gates: [headway]}\nstudy: {rate: 10, bars: [{figure: async, at_least: 1}]}", "x")


def test_gates_are_not_policies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "compare", "filler_swing", "lmetric", "least_tokens"]) == 2
    assert "compares gates or loads" in capsys.readouterr().err
    assert main(["lab", "run", "overload", "--policy", "lmetric"]) == 2
    plan = quick(read_plan(standard()["filler_bursts_512"]))
    assert len(plan.study.bars) == 4
