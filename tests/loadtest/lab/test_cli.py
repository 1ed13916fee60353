"""`headway lab`: what it prints, what it writes, and how it fails."""

from pathlib import Path

import pytest

from gateway.cli import main
from loadtest.lab.cli import parse_choice, quick
from loadtest.lab.reading import read_plan, standard
from loadtest.lab.scenario import ScenarioError

FILE = """title: Two engines
groups: [{count: 2}]
requests: 200
study: {search: false, load: 0.5, policies: [predicted_latency, least_inflight], seeds: 1}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(FILE)
    return str(path)


def lab(tmp_path: Path, *words: str) -> int:
    return main(["lab", *words, "--jobs", "1", "--memory", str(tmp_path / "memory")])


def test_run_prints_a_table_and_writes_a_report(tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert lab(tmp_path, "run", file, "--out", str(out)) == 0
    said = capsys.readouterr()
    assert "`least_inflight`" in said.out and f"report: {out / 'index.md'}" in said.out
    assert "least_inflight, seed 1" in said.err
    assert sorted(path.name for path in out.iterdir()) == ["index.md", "small.md", "small.svg"]


def test_run_takes_policies_with_options(tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", file, "--policy", "power_of_two,memory=false", "--requests", "150", "--out", str(tmp_path / "o")]
    assert lab(tmp_path, *words) == 0
    assert "`power_of_two,memory=false`" in capsys.readouterr().out


def test_compare_prints_the_paired_ratio(tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab(tmp_path, "compare", file, "least_inflight", "round_robin", "--seeds", "2") == 0
    said = capsys.readouterr().out
    assert "| attainment |" in said and "ratio" in said and "±" in said


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["run", "nope.yaml"], "there is no such file"),
        (["run", "chat_2048", "--policy", "lmetrik"], "did you mean lmetric"),
        (["run", "chat_2048", "--policy", "lmetric,x"], "is not OPTION=VALUE"),
        (["suite", "--only", "nope"], "no standard scenario nope"),
        (["compare", "chat_2048", "lmetric", "lmetric"], "both policies are the same"),
    ],
)
def test_bad_input_exits_2_and_says_what_to_do(
    words: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab(tmp_path, *words) == 2
    said = capsys.readouterr()
    assert complaint in said.err and said.err.startswith("headway lab: ") and not said.out


@pytest.mark.parametrize("words", [["lab"], ["lab", "nothing"], ["lab", "run"], ["lab", "suite", "--seeds", "0"]])
def test_bad_usage_exits_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2 and "usage" in capsys.readouterr().err


def test_a_wrong_scenario_file_is_named_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("title: a\ngroups:\n  - {chunks: 1}\n")
    assert lab(tmp_path, "run", str(path)) == 2
    assert "bad.yaml:3:6" in capsys.readouterr().err


def test_options_have_types() -> None:
    assert parse_choice("power_of_two,memory=true").options == {"memory": True}
    assert parse_choice("prefix_affinity,weight=2,max_blocks=4096").options == {"weight": 2, "max_blocks": 4096}
    with pytest.raises(ScenarioError, match="mode must be"):
        parse_choice("llmd_predicted,mode=fast")


def test_quick_is_the_same_study_with_fewer_seeds_requests_and_policies() -> None:
    plan = read_plan(standard()["chat_2048"])
    short = quick(plan)
    assert short.study.seeds == 2 and short.requests == 2000
    assert short.study.bars == plan.study.bars and 1 < len(short.choices) < len(plan.choices)
    assert short.choices[0] == plan.choices[0]
