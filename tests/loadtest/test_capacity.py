"""Tests of loadtest/capacity.py: the search against made-up servers, the judgement, and one run against a real one."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.capacity import Answer, Probe, judge, main, search, words
from loadtest.measure import Record, Slo
from tests.loadtest.serving import SseProcess


def find(capacity: float, first: float = 4.0, lowest: float = 0.1, highest: float = 1000.0, most: int = 30) -> Answer:
    """The answer against a server that carries every rate up to `capacity`."""

    async def probe(rate: float) -> Probe:
        return Probe(rate, rate <= capacity)

    return asyncio.run(search(probe, first, lowest, highest, 0.1, most))


@settings(max_examples=60, deadline=None)
@given(st.floats(0.2, 900), st.floats(0.1, 1000))
def test_the_answer_is_within_the_precision_below_the_capacity(capacity: float, first: float) -> None:
    answer = find(capacity, first)
    assert answer.rate <= capacity < answer.rate * 1.1 * (1 + 1e-9)
    assert answer.stopped_by == "server"
    assert "plan for" in words(answer) and "WARNING" not in words(answer)


def test_no_rate_is_probed_twice_or_outside_the_bounds() -> None:
    rates = [probe.rate for probe in find(37.0, first=500.0, lowest=1.0, highest=600.0).probes]
    assert len(set(rates)) == len(rates) and all(1.0 <= rate <= 600.0 for rate in rates)


def test_a_server_too_slow_for_any_rate_gives_no_answer() -> None:
    answer = find(0.05)
    assert answer.rate == 0 and answer.probes[-1].rate == 0.1
    assert words(answer).startswith("no rate down to 0.10/s")


def test_a_server_faster_than_the_bound_is_said_to_be_so() -> None:
    answer = find(1e9)
    assert answer.rate == 1000.0 and answer.stopped_by == "bounds" and "raise --highest" in words(answer)
    assert find(37.0, most=2).stopped_by == "bounds"


def test_the_search_stops_after_the_most_probes() -> None:
    assert len(find(37.0, most=5).probes) == 5


def test_a_limit_of_the_generator_is_not_sold_as_one_of_the_server() -> None:
    async def probe(rate: float) -> Probe:
        return Probe(rate, rate < 50, limited=() if rate < 50 else ("start lag",))

    answer = asyncio.run(search(probe, 4.0, 0.1, 1000.0))
    assert answer.stopped_by == "generator" and "the generator was the limit" in words(answer)


def records(count: int, failed: int = 0, slow: int = 0) -> list[Record]:
    made = []
    for i in range(count):
        ttft = 5.0 if i < slow else 0.5
        failure = "cut" if i >= count - failed else ""
        made.append(Record(10.0 + i, 10.0 + i, 20.0 + i, 10.0 + i + ttft, 15.0 + i, failure, 200, 101))
    return made


def test_a_probe_passes_if_p99_is_inside_with_failures_counted_as_infinitely_late() -> None:
    slo = Slo(1.0, 0.1)
    assert judge(1.0, records(200), slo, (), 0.0).passed
    assert judge(1.0, records(200, failed=1), slo, (), 0.0).passed
    failing = judge(1.0, records(200, failed=4), slo, (), 0.0)
    assert not failing.passed and math.isinf(failing.ttft_p99) and failing.failed == 4
    assert not judge(1.0, records(200, slow=4), slo, (), 0.0).passed
    assert not judge(1.0, records(200), Slo(1.0, 0.01), (), 0.0).passed
    assert not judge(1.0, records(200), slo, ("lag",), 0.0).passed
    assert not judge(1.0, [], slo, (), 0.0).passed
    assert not judge(1.0, records(200, failed=100), Slo(), (), 0.0).passed


def test_the_warm_up_is_not_judged() -> None:
    assert judge(1.0, records(200, slow=20), Slo(1.0, 0.1), (), 30.0).passed
    assert judge(1.0, records(200), Slo(), (), 30.0).requests == 180


def test_the_command_finds_a_capacity_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "t.jsonl"
    trace.write_text('{"arrival_s":0,"prompt_tokens":9,"output_tokens":2}\n')
    out = tmp_path / "c.json"
    options = [
        "--first",
        "20",
        "--highest",
        "20",
        "--most-probes",
        "1",
        "--probe",
        "0.5s",
        "--slo-ttft",
        "30s",
        "--slo-tpot",
        "30s",
    ]
    with SseProcess() as url:
        code = main(["--url", url, "--trace", str(trace), "--model", "good", "--json", str(out), *options])
    value = json.loads(out.read_text())
    assert len(value["probes"]) == 1 and value["probes"][0]["failed"] == 0
    # Whether the probe passed depends on how busy this machine is, so only what must agree is checked.
    assert (code, value["rate"]) in ((0, 20.0), (1, 0.0))
    assert "TTFT p99" in capsys.readouterr().out


def test_a_remote_url_and_crossed_bounds_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "t.jsonl"
    trace.write_text('{"arrival_s":0,"prompt_tokens":9,"output_tokens":2}\n')
    for url, more, words_ in (
        ("http://203.0.113.1", [], "--allow-remote"),
        ("http://127.0.0.1:1", ["--lowest", "9", "--highest", "3"], "--lowest is above"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["--url", url, "--trace", str(trace), *more])
        assert caught.value.code == 2 and words_ in capsys.readouterr().err
