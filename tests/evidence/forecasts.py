"""How good predictions were, read from the gateway's own decision records.

A record holds what was predicted for the try that was answered (`predicted`: the first token with the interval that
should hold 90 % of them, and the pace after it) and what came of it (`outcome`). Only streams that were answered whole
count: of a plain answer nobody can see when its first token was made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Errors are shares of what was observed; `coverage` is the share of observations inside their interval.

    `bias` is the median of observed / predicted. All NaN without a record.
    """

    count: int
    mape: float
    median: float
    coverage: float
    below: float
    above: float
    bias: float

    def __str__(self) -> str:
        return (f"{self.count} compared: mean error {self.mape:.1%}, median {self.median:.1%}, observed / predicted "
                f"{self.bias:.2f}, in the 90 % interval {self.coverage:.1%} (sooner {self.below:.1%}, later "
                f"{self.above:.1%})")  # fmt: skip


def read_records(file: Path) -> list[dict[str, Any]]:
    """The lines of a `decisions: {file}`, in the order in which the requests arrived."""
    with file.open(encoding="utf-8") as lines:
        return sorted(map(json.loads, lines), key=lambda record: float(record["at"]))


def ttft_accuracy(records: Iterable[dict[str, Any]]) -> Accuracy:
    """Of the first tokens, from the dispatch on."""
    return _accuracy(records, "ttft", "ttft_there")


def tpot_accuracy(records: Iterable[dict[str, Any]]) -> Accuracy:
    """Of the mean time per further token; answers with fewer than 8 tokens are left out."""
    return _accuracy((r for r in records if (r["outcome"]["completion_tokens"] or 0) >= 8), "tpot", "tpot")


def trusted(records: Sequence[dict[str, Any]]) -> float:
    """The share of picks that were made by predictions: a predictor that is not calibrated is not asked."""
    fallen_back = sum("not calibrated" in record["reason"] for record in records)
    return 1.0 - fallen_back / len(records) if records else float("nan")


def _accuracy(records: Iterable[dict[str, Any]], what: str, seen: str) -> Accuracy:
    rows = [(p[what], p[f"{what}_low"], p[f"{what}_high"], o[seen]) for p, o in _whole(records)]
    return accuracy([row for row in rows if None not in row and row[3] > 0.0])


def _whole(records: Iterable[dict[str, Any]]) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    for record in records:
        outcome = record["outcome"]
        if record["predicted"] is not None and outcome["ended"] == "complete" and outcome["stream"]:
            yield record["predicted"], outcome


def accuracy(rows: Sequence[tuple[float, float, float, float]]) -> Accuracy:
    """Of (predicted, low, high, observed) in seconds."""
    table = np.array(rows, dtype=float).reshape(-1, 4)
    if not len(table):
        return Accuracy(0, *[float("nan")] * 6)
    predicted, low, high, observed = table.T
    errors = np.abs(predicted - observed) / observed
    below, above = float((observed < low).mean()), float((observed > high).mean())
    return Accuracy(len(table), float(errors.mean()), float(np.median(errors)), 1.0 - below - above, below, above,
                    float(np.median(observed / predicted)))  # fmt: skip


def hindsight(records: Sequence[dict[str, Any]]) -> Accuracy:
    """How well four numbers fitted to these very records explain their first tokens: a yardstick, not a prediction.

    Seconds for a request, for a token of its prompt, for a token of the prompts that wait or are worked on there when
    it is sent, and for an answer being written there; chosen for the least mean error. What this cannot explain either
    is mostly the machine's own unrest.
    """
    whole = (r for r in records if r["outcome"]["ttft_there"] and r["outcome"]["prompt_tokens"])
    rows = [_Life.of(record) for record in whole]
    known, observed = np.array([_state(row, rows) for row in rows]).reshape(-1, 4), np.array([row.ttft for row in rows])
    if len(rows) <= 4:
        return accuracy([])
    weights = 1.0 / observed
    fitted: Any = np.zeros(4)
    for _ in range(60):  # iteratively reweighted: from least squares of the relative errors to their least mean
        fitted = np.linalg.lstsq(known * weights[:, None], observed * weights, rcond=None)[0]
        errors = np.abs(known @ fitted - observed) / observed
        weights = 1.0 / (observed * np.sqrt(np.maximum(errors, 1e-3)))
    found = np.maximum(known @ fitted, observed.min())
    return accuracy([(p, 0.0, np.inf, o) for p, o in zip(found, observed, strict=True)])


@dataclass(frozen=True, slots=True)
class _Life:
    """One answered request: where, from when to when (Unix time), and its prompt."""

    where: str
    sent: float
    first: float
    ended: float
    tokens: float

    @staticmethod
    def of(record: dict[str, Any]) -> _Life:
        outcome = record["outcome"]
        sent = record["at"] + outcome["ttft"] - outcome["ttft_there"]
        return _Life(record["chosen"], sent, sent + outcome["ttft_there"], record["at"] + outcome["duration"],
                     outcome["prompt_tokens"])  # fmt: skip

    @property
    def ttft(self) -> float:
        return self.first - self.sent


def _state(one: _Life, rows: Sequence[_Life]) -> tuple[float, float, float, float]:
    there = [other for other in rows if other.where == one.where and other is not one and other.sent <= one.sent]
    before = sum(other.tokens for other in there if one.sent < other.first)
    writing = sum(other.first <= one.sent < other.ended for other in there)
    return 1.0, one.tokens, before, float(writing)
