"""What is read off decision records: errors, coverage, and the yardstick in hindsight."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.evidence.forecasts import accuracy, hindsight, read_records, tpot_accuracy, trusted, ttft_accuracy


def record(at: float, ttft: float, prompt: float = 100.0, **more: Any) -> dict[str, Any]:
    """A streamed answer that took a second after its first token; its prediction was 0.2 s, 0.1 to 0.4."""
    predicted = {"ttft": 0.2, "ttft_low": 0.1, "ttft_high": 0.4, "tpot": 0.02, "tpot_low": 0.01, "tpot_high": 0.04}
    outcome = {"ended": "complete", "stream": True, "ttft": ttft, "ttft_there": ttft, "tpot": 0.025,
               "duration": ttft + 1.0, "prompt_tokens": prompt, "completion_tokens": 40.0}  # fmt: skip
    return {"at": at, "chosen": "one", "reason": "least cost of 2", "predicted": predicted, "outcome": outcome | more}


def test_errors_are_shares_of_what_was_observed_and_both_sides_of_the_interval_are_told_apart() -> None:
    found = ttft_accuracy([record(0.0, 0.25), record(1.0, 0.05), record(2.0, 0.2), record(3.0, 0.8)])
    assert found.mape == pytest.approx((0.2 + 3.0 + 0.0 + 0.75) / 4)
    assert (found.count, found.coverage, found.below, found.above) == (4, 0.5, 0.25, 0.25)


def test_what_was_not_seen_is_not_compared() -> None:
    one, plain, cut = record(0.0, 0.2), record(1.0, 0.2, stream=False), record(2.0, 0.2, ended="cut")
    assert ttft_accuracy([one, plain, cut, record(3.0, 0.2) | {"predicted": None}]).count == 1
    short, at_once = record(1.0, 0.2, completion_tokens=3.0), record(2.0, 0.2, tpot=0.0)
    assert tpot_accuracy([one, short, at_once]).count == 1
    assert math.isnan(accuracy([]).mape)


def test_a_pick_by_the_fallback_is_not_one_by_predictions() -> None:
    fallback = {"reason": "predictions are not calibrated; 1 request there, fewest of 2 drawn"}
    assert trusted([record(0.0, 0.2), record(1.0, 0.2) | fallback]) == 0.5


def test_hindsight_finds_what_four_numbers_can_explain() -> None:
    records = [record(10.0 * i, 0.03 + 0.001 * (100 + 37 * i % 300), 100.0 + 37 * i % 300) for i in range(40)]
    assert hindsight(records).mape < 0.01
    unexplained = [record(10.0 * i, 0.1 * (1 + 3 * (i % 2))) for i in range(40)]
    assert 0.3 < hindsight(unexplained).mape < 0.9


def test_records_come_in_the_order_of_arrival(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps(record(at, 0.2)) + "\n" for at in (2.0, 1.0, 3.0)))
    assert [one["at"] for one in read_records(file)] == [1.0, 2.0, 3.0]
