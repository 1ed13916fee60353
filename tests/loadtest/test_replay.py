"""Tests of loadtest/replay.py: the options, the workload they mean, and a whole run against a real server."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from loadtest.replay import build, main, parse_arrivals, parse_duration, parse_header, parse_positive, parser
from loadtest.workload import WorkloadError, mean_rate
from tests.loadtest.serving import ROOT, SseProcess

AZURE = str(ROOT / "loadtest" / "traces" / "azure_conv_2023.jsonl.gz")


def options(*more: str) -> argparse.Namespace:
    return parser().parse_args(["--url", "http://127.0.0.1:1", "--trace", AZURE, *more])


@pytest.fixture
def short_trace(tmp_path: Path) -> str:
    path = tmp_path / "short.jsonl"
    rows = [{"arrival_s": i / 10, "prompt_tokens": 20, "output_tokens": 3} for i in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_rate_scales_the_trace_and_limits_cut_it() -> None:
    items = build(options("--rate", "20"))
    assert len(items) == 19366 and mean_rate(items) == pytest.approx(20.0)
    assert len(build(options("--rate", "20", "--limit", "50"))) == 50
    assert build(options("--rate", "20", "--seconds", "30s"))[-1].at <= 30
    assert build(options("--speedup", "2"))[-1].at == pytest.approx(build(options())[-1].at / 2)


def test_starting_later_in_the_trace_starts_at_its_request() -> None:
    first = build(options("--start", "100s", "--limit", "1"))[0]
    assert first.at == 0.0 and first != build(options("--limit", "1"))[0]
    with pytest.raises(WorkloadError, match="ends before --start"):
        build(options("--start", "10h"))


def test_drawn_arrivals_follow_the_rate_with_the_traces_lengths() -> None:
    items = build(options("--arrivals", "poisson", "--rate", "50", "--seconds", "60"))
    assert 2800 < len(items) < 3200
    assert items == build(options("--arrivals", "poisson", "--rate", "50", "--seconds", "60"))
    assert [i.prompt_tokens for i in items[:9]] == [i.prompt_tokens for i in build(options("--limit", "9"))]


def test_a_shape_needs_drawn_arrivals() -> None:
    with pytest.raises(WorkloadError, match="--shape needs"):
        build(options("--shape", "day"))


def test_values_on_the_command_line_are_read_strictly() -> None:
    assert [parse_duration(text) for text in ("250ms", "2s", "1.5m", "3")] == [0.25, 2.0, 90.0, 3.0]
    assert parse_header("X-A: b: c") == ("x-a", "b: c")
    assert parse_arrivals("gamma:2.5") == 2.5 and parse_arrivals("trace") is None
    for read, text in ((parse_duration, "2 sec"), (parse_positive, "nan"), (parse_positive, "-1"), (parse_header, "a")):
        with pytest.raises(argparse.ArgumentTypeError):
            read(text)
    for text in ("gamma", "gamma:x", "gamma:-1", "gamma:inf", "pareto"):
        with pytest.raises(WorkloadError, match="use trace, poisson"):
            parse_arrivals(text)


def test_a_run_writes_table_json_and_report(
    short_trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--json", str(tmp_path / "r.json"), "--out", str(tmp_path / "r.html")]
    with SseProcess() as url:
        code = main(["--url", url, "--trace", short_trace, "--model", "good", *files])
    assert code == 0
    value = json.loads((tmp_path / "r.json").read_text())
    assert (value["requests"], value["ok"], value["tokens"]["output"]) == (8, 8, 24)
    assert value["run"]["trace"] == "short.jsonl" and value["latency"]["ttft"]["p99"] > 0
    assert "requests 8   ok 8   failed 0" in capsys.readouterr().out
    assert "<svg" in (tmp_path / "r.html").read_text()


def test_plain_answers_are_replayed_too(short_trace: str, tmp_path: Path) -> None:
    with SseProcess() as url:
        out = str(tmp_path / "r.json")
        assert main(["--url", url, "--trace", short_trace, "--model", "plain", "--no-stream", "--json", out]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["latency"]["ttft"]["p50"] > 0


def test_a_broken_stream_makes_the_run_fail(short_trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    with SseProcess() as url:
        assert main(["--url", url, "--trace", short_trace, "--model", "cut", "--limit", "3"]) == 1
    assert "3 x broken stream" in capsys.readouterr().out


def test_what_cannot_be_run_is_bad_usage(short_trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["--url", "http://203.0.113.1", "--trace", short_trace], "--allow-remote"),
        (["--url", "127.0.0.1", "--trace", short_trace], "is not an http"),
        (["--url", "http://127.0.0.1:1", "--trace", "none.jsonl"], "cannot be read"),
        (["--url", "http://127.0.0.1:1", "--trace", short_trace, "--limit", "0"], "is empty"),
        (["--url", "http://127.0.0.1:1", "--trace", short_trace, "--rate", "1", "--speedup", "2"], "not allowed with"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2 and words in capsys.readouterr().err
