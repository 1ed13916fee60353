"""Verdicts over results made by hand."""

import math

import pytest

from loadtest.lab.bars import best_of, verdicts
from loadtest.lab.plan import Bar, Plan, Study
from loadtest.lab.study import Result, Row
from loadtest.lab.trial import Choice


def result(*bars: Bar, g95: dict[str, list[float]], common: dict[str, list[float]] | None = None) -> Result:
    policies = tuple(Choice(name) for name in g95)
    plan = Plan("made", "Made", study=Study(policies=policies, bars=bars))
    rows = [Row(Choice(name), {"g95": values}, [{"ttft_p95": x} for x in (common or {}).get(name, [])])
            for name, values in g95.items()]  # fmt: skip
    return Result(plan, 100.0, 180.0, 0.0, 0.0, rows)


FIVE = [100.0, 102.0, 98.0, 101.0, 99.0]
BETTER = [1.15 * value for value in FIVE]


@pytest.mark.parametrize(("at_least", "word"), [(1.12, "met"), (1.155, "met"), (1.2, "missed")])
def test_a_ratio_that_is_the_same_on_every_seed(at_least: float, word: str) -> None:
    made = result(Bar("g95", over="lmetric", at_least=at_least), g95={"predicted_latency": BETTER, "lmetric": FIVE})
    assert verdicts(made)[0].word == word


def test_the_best_baseline_is_the_one_that_did_best_and_never_ours() -> None:
    made = result(Bar("g95", over="best", at_least=1.0),
                  g95={"predicted_latency": BETTER, "lmetric": FIVE, "round_robin": [90.0] * 5})  # fmt: skip
    (verdict,) = verdicts(made)
    assert verdict.against == "lmetric" and verdict.figure.value == pytest.approx(1.15)


def test_of_latencies_the_lowest_is_best() -> None:
    made = result(g95={"predicted_latency": FIVE, "a": FIVE, "b": FIVE},
                  common={"predicted_latency": [0.1], "a": [0.2], "b": [0.3]})  # fmt: skip
    assert best_of(made, "ttft_p95") == "a"


def test_a_range_must_hold_on_both_sides() -> None:
    bar = Bar("g95", at_least=90.0, at_most=105.0)
    assert verdicts(result(bar, g95={"predicted_latency": FIVE}))[0].word == "met"
    assert verdicts(result(bar, g95={"predicted_latency": BETTER}))[0].word == "missed"
    assert bar.wanted == "90 to 105"


def test_two_seeds_leave_a_bar_open() -> None:
    values = {"predicted_latency": [130.0, 110.0], "lmetric": [100.0] * 2}
    made = result(Bar("g95", over="lmetric", at_least=1.1), g95=values)
    assert verdicts(made)[0].word == "open"


def test_a_figure_that_is_not_there_is_no_success() -> None:
    made = result(Bar("g96", at_least=1.0), g95={"predicted_latency": FIVE})
    verdict = verdicts(made)[0]
    assert verdict.word != "met" and math.isnan(verdict.figure.value)
