"""Tests of loadtest/measure.py: what counts in which figure."""

from __future__ import annotations

import json
from array import array

import pytest

from loadtest.measure import Generator, Record, Slo, quantiles, summarize, warnings

CALM = Generator(10.0, 0.2, 0.3, 4)


def record(at: float = 0.0, lag: float = 0.0, ttft: float = 0.5, tokens: int = 11, failure: str = "") -> Record:
    """Started `lag` late, first token `ttft` after the intended start, 0.1 s per token."""
    last = at + ttft + 0.1 * (tokens - 1)
    return Record(
        at, at + lag, last, at + ttft, last, failure, 200, tokens, 11, 100, 10, "http://a", gaps=array("d", [0.1])
    )


def test_latency_counts_from_the_intended_start() -> None:
    late = record(at=5.0, lag=2.0, ttft=2.5)
    assert (late.lag, late.ttft) == (2.0, 2.5)
    assert late.e2e == pytest.approx(3.5) and late.tpot == pytest.approx(0.1)
    summary = summarize([late], Slo(), CALM)
    assert summary["latency"]["ttft"]["p50"] == pytest.approx(2.5)
    assert summary["latency"]["ttft_from_start"]["p50"] == pytest.approx(0.5)


def test_one_token_has_no_time_per_token_and_cannot_miss_it() -> None:
    one = record(tokens=1)
    assert one.tpot is None
    assert Slo(1.0, 0.01).met(one)


@pytest.mark.parametrize(
    ("slo", "kept"), [(Slo(), True), (Slo(0.5, 0.11), True), (Slo(0.4, None), False), (Slo(None, 0.09), False)]
)
def test_the_slo_is_kept_or_missed_by_ttft_and_tpot(slo: Slo, kept: bool) -> None:
    assert slo.met(record()) is kept


def test_a_failed_request_is_in_no_latency_and_never_good() -> None:
    records = [record(at=float(i)) for i in range(4)]
    records += [record(at=4.0, ttft=99.0, failure="broken stream"), record(at=5.0, failure="broken stream")]
    records += [Record(6.0, 6.0, 6.1, failure="status 503", status=503)]
    summary = summarize(records, Slo(1.0, 1.0), CALM)
    assert summary["failed"] == {"broken stream": 2, "status 503": 1}
    assert (summary["requests"], summary["ok"], summary["slo_met"]) == (7, 4, 4)
    assert summary["latency"]["ttft"]["max"] == pytest.approx(0.5)
    assert summary["slo_share"] == pytest.approx(4 / 7)


def test_rates_tokens_and_endpoints_are_counted() -> None:
    summary = summarize([record(at=0.5 * i) for i in range(21)], Slo(), CALM)
    assert summary["rate"]["offered"] == pytest.approx(2.0)
    assert summary["rate"]["started"] == pytest.approx(2.0)
    assert summary["rate"]["completed"] == pytest.approx(21 / 11.5)
    assert summary["tokens"]["output"] == 231 and summary["tokens"]["short_answers"] == 0
    assert summary["endpoints"]["http://a"]["requests"] == 21
    json.dumps(summary, allow_nan=False)


def test_a_run_without_requests_or_without_answers_has_a_summary_too() -> None:
    for records in ([], [Record(0.0, 0.0, 0.1, failure="no answer")]):
        summary = summarize(records, Slo(1.0, 1.0), CALM)
        assert summary["latency"]["ttft"] is None and summary["slo_share"] == 0.0
        json.dumps(summary, allow_nan=False)


def test_a_generator_that_lagged_or_was_busy_is_warned_about() -> None:
    assert warnings(summarize([record(at=float(i)) for i in range(9)], Slo(), CALM)) == []
    assert warnings(summarize([], Slo(), CALM)) == []
    lagging = warnings(summarize([record(at=float(i), lag=0.02) for i in range(9)], Slo(), CALM))
    assert len(lagging) == 1 and "20.0 ms" in lagging[0]
    busy = warnings(summarize([record()], Slo(), Generator(10.0, 0.5, 0.81, 4)))
    assert len(busy) == 1 and "81%" in busy[0]
    full = [record(failure="generator: too many connections")]
    assert "1 requests were never sent" in warnings(summarize(full, Slo(), CALM))[0]


def test_quantiles_of_nothing_are_none() -> None:
    assert quantiles([]) is None
    assert quantiles([1.0, 3.0]) == {"mean": 2.0, "max": 3.0, "p50": 2.0, "p90": 2.8, "p99": pytest.approx(2.98)}
