"""Many rollouts: what is kept of each, how sure shares are, and what the pages say."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.lab import canary_study
from loadtest.lab.canary_cli import asked
from loadtest.lab.canary_report import Page, detection, rollouts
from loadtest.lab.canary_study import ROLLOUTS, WATCHED, WATCHED_EQUAL, Found, most_likely, run, runs
from loadtest.lab.canary_trial import Trial
from loadtest.lab.canary_watch import Verdict
from loadtest.lab.cli import run as lab

QUICK = replace(WATCHED_EQUAL, warm_up=60, requests=140, rate=2.0)


def do(tasks):
    return [function(*given) for _, function, given in tasks]


def test_a_run_that_was_made_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(QUICK, 1, tmp_path)
    monkeypatch.setattr(canary_study, "Rollout", None)
    assert repr(run(QUICK, 1, tmp_path)) == repr(first)
    with pytest.raises(TypeError):
        run(QUICK, 2, tmp_path)


def test_of_a_watched_run_the_windows_are_kept_too() -> None:
    (found,) = runs(QUICK, range(1, 2), do, None)
    assert found.windows is not None and len(found.windows["p99"]) == 1
    assert found.verdict.outcome == "open" and found.rolled_back == math.inf


def test_the_trials_differ_in_their_fault_alone() -> None:
    equal, slower = ROLLOUTS
    assert replace(slower, name=equal.name, canary=equal.canary) == equal and slower.canary.pace == ((0.0, 1.2),)
    for harm in WATCHED:
        trial, equal = harm.trial, harm.equal
        assert replace(trial, name=equal.name, wrong=equal.wrong, requests=equal.requests) == equal
        assert trial.wrong[0] == equal.wrong[0] == equal.wrong[1] != trial.wrong[1]


def test_intervals_of_shares_are_clopper_and_pearson_s() -> None:
    assert most_likely(0, 400) == (0.0, pytest.approx(1.0 - 0.025 ** (1 / 400), rel=1e-6))
    assert most_likely(400, 400) == (pytest.approx(0.025 ** (1 / 400), rel=1e-6), 1.0)
    assert most_likely(5, 100) == (pytest.approx(0.016432, abs=1e-5), pytest.approx(0.112835, abs=1e-5))


def found(outcome: str, after: float, windows: dict[str, list[float]] | None = None) -> Found:
    return Found(Verdict(outcome, after, round(after / 2.0), "because"), windows)


def test_the_page_of_whole_rollouts_says_what_went_wrong_and_misses_its_bar() -> None:
    equal = [found("promoted", 400.0)] * 17 + [found("rolled_back", 90.0), found("open", 800.0)]
    page = rollouts(equal, [found("rolled_back", 20.0)] * 10, "make it")
    text = "\n".join(page.text)
    assert [bar.kept for bar in page.bars] == [False, True]
    assert "**missed**" in text and "after 90 s: because" in text and "made by `make it`" in text.lower()
    assert "| 20 % slower | 10 | 100 % (69.2 % to 100 %) |" in text


def test_the_page_of_detection_compares_with_the_tuned_rule() -> None:
    calm, loud = {"p99": [1.0] * 20}, {"p99": [1.0] * 9 + [3.0] * 11}
    equal = [found("open", 1200.0, _all(calm))] * 10
    page = detection([(WATCHED[0], [found("rolled_back", 100.0, _all(loud))] * 5, equal)], "make it")
    assert [bar.found for bar in page.bars] == [pytest.approx(100.0 / 600.0)]
    assert page.figures["runs"][WATCHED[0].what]["equal"] == [10, 0]
    late = detection([(WATCHED[0], [found("open", 1200.0, _all(loud))] * 5, equal)], "make it")
    assert late.bars[0].found == math.inf and not late.bars[0].kept
    assert late.figures["runs"][WATCHED[0].what]["times"] == [None] * 5


def _all(windows: dict[str, list[float]]) -> dict[str, list[float]]:
    return dict.fromkeys(("p99", "errors", "truncated", "failures"), windows["p99"])


def test_a_page_is_text_a_picture_and_figures(tmp_path: Path) -> None:
    page = Page("some", ["# Title"], "<svg/>", {"bars": [1.5]}, [])
    assert page.write(tmp_path / "new").read_text() == "# Title\n"
    assert json.loads((tmp_path / "new" / "some.json").read_text()) == {"bars": [1.5]}
    assert (tmp_path / "new" / "some.svg").read_text() == "<svg/>"


@pytest.mark.parametrize("question", ["aa", "detection"])
def test_the_command_runs_what_is_asked_and_keeps_it(question: str, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    import argparse

    from loadtest.lab import canary_cli
    from loadtest.lab.cli import add_arguments

    def quick(trial: Trial) -> Trial:
        return replace(trial, warm_up=60, requests=140, rate=2.0)

    monkeypatch.setattr(canary_cli, "ROLLOUTS", tuple(map(quick, ROLLOUTS)))
    harms = tuple(replace(harm, trial=quick(harm.trial), equal=quick(harm.equal)) for harm in WATCHED)
    monkeypatch.setattr(canary_cli, "WATCHED", harms)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["canary", question, "--runs", "1", "--jobs", "1", "--memory", str(tmp_path / "memory"),
                              "--out", str(tmp_path / "out")])  # fmt: skip
    assert lab(args) in (0, 1)
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".json", ".md", ".svg"]
    page = asked(question, 1, 1, tmp_path / "memory")
    assert page.text[0].startswith("# Canaries")
