"""Tests of loadtest/workload.py: traces, scaling, arrival processes and shapes."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.workload import (
    SHAPES,
    Item,
    WorkloadError,
    arrivals,
    at_rate,
    at_speed,
    constant,
    day,
    mean_rate,
    ramp,
    read_trace,
    shape,
    spike,
    steps,
    thin,
    with_arrivals,
)

TRACES = Path(__file__).resolve().parents[2] / "loadtest" / "traces"
ROW = {"arrival_s": 1.5, "prompt_tokens": 7, "output_tokens": 3}


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


@pytest.mark.parametrize("path", sorted(TRACES.glob("*.jsonl.gz")), ids=lambda path: path.name)
def test_every_trace_that_comes_with_the_project_can_be_read(path: Path) -> None:
    items = read_trace(path)
    assert len(items) > 100
    assert all(a.at <= b.at for a, b in itertools.pairwise(items))
    for item in items:
        assert len(item.blocks) * item.block_size < item.prompt_tokens + max(1, item.block_size)


def test_the_azure_trace_has_the_published_number_of_requests_and_mean_lengths() -> None:
    items = read_trace(TRACES / "azure_conv_2023.jsonl.gz")
    assert len(items) == 19366
    assert round(np.mean([item.prompt_tokens for item in items])) == 1155
    assert round(np.mean([item.output_tokens for item in items])) == 211


def test_every_trace_is_named_in_the_readme_with_its_origin() -> None:
    text = (TRACES / "README.md").read_text()
    assert "CC-BY 4.0" in text and "Splitwise" in text
    for path in TRACES.glob("*.gz"):
        assert text.count(path.name.split(".")[0]) >= 2


def test_optional_keys_are_read(tmp_path: Path) -> None:
    row = {**ROW, "tenant": "a", "session_id": 4, "block_size": 4, "blocks": [0, 9]}
    (item,) = read_trace(write(tmp_path / "t.jsonl", row))
    assert item == Item(1.5, 7, 3, "a", "4", 4, (0, 9))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "not a trace line"),
        ("[]", "not a trace line"),
        ({**ROW, "prompt_tokens": 0}, "at least 1"),
        ({**ROW, "arrival_s": -1}, "at least 0"),
        ({**ROW, "arrival_s": float("nan")}, "at least 0"),
        ({**ROW, "blocks": [1]}, "no block_size"),
        ({**ROW, "arrival_s": 0.5}, "back in time"),
        ({"arrival_s": 1}, "prompt_tokens"),
    ],
)
def test_a_bad_line_is_an_error_that_names_file_and_line(tmp_path: Path, row: object, words: str) -> None:
    path = write(tmp_path / "t.jsonl", ROW, row)
    with pytest.raises(WorkloadError, match=words) as caught:
        read_trace(path)
    assert f"{path}:2" in str(caught.value)


def test_missing_empty_and_broken_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="cannot be read"):
        read_trace(tmp_path / "none.jsonl")
    with pytest.raises(WorkloadError, match="no requests"):
        read_trace(write(tmp_path / "e.jsonl", ""))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b"x" * 1000)[:-12])
    with pytest.raises(WorkloadError, match="cannot be read"):
        read_trace(cut)


def test_scaling_keeps_the_pattern_and_hits_the_rate() -> None:
    items = [Item(at, 1, 1) for at in (10.0, 11.0, 14.0, 20.0)]
    fast = at_rate(items, 3.0)
    assert mean_rate(fast) == pytest.approx(3.0)
    assert [item.at for item in fast] == pytest.approx([0.0, 0.1, 0.4, 1.0])
    assert [item.at for item in at_speed(items, 2.0)] == pytest.approx([0.0, 0.5, 2.0, 5.0])
    with pytest.raises(WorkloadError):
        mean_rate(items[:1])
    with pytest.raises(WorkloadError):
        at_speed(items, 0.0)


def test_thinning_keeps_about_the_share_asked_for_and_is_the_same_for_the_same_seed() -> None:
    items = [Item(float(i), 1, 1) for i in range(4000)]
    assert thin(items, 0.3, 7) == thin(items, 0.3, 7) != thin(items, 0.3, 8)
    assert 1100 < len(thin(items, 0.3, 7)) < 1300


@pytest.mark.parametrize(("cv", "low", "high"), [(0.0, 0.0, 0.02), (1.0, 0.95, 1.05), (2.0, 1.8, 2.2)])
def test_gaps_have_the_rate_and_the_variation_asked_for(cv: float, low: float, high: float) -> None:
    times = np.fromiter(arrivals(constant(20.0), 1000.0, 3, cv), float)
    gaps = np.diff(times)
    assert len(times) / 1000 == pytest.approx(20.0, rel=0.05)
    assert low <= gaps.std() / gaps.mean() <= high


def test_arrivals_follow_the_shape() -> None:
    times = np.fromiter(arrivals(ramp(0.0, 100.0, 100.0), 100.0, 1), float)
    counts = np.histogram(times, [0, 25, 50, 75, 100])[0]
    assert counts == pytest.approx([312, 938, 1562, 2188], rel=0.15)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9), st.floats(0, 4), st.sampled_from(SHAPES))
def test_arrivals_are_ordered_inside_the_time_and_repeatable(seed: int, cv: float, name: str) -> None:
    def draw() -> list[float]:
        return list(arrivals(shape(name, 5.0, 20.0), 20.0, seed, cv))

    times = draw()
    assert times == sorted(times) == draw()
    assert all(0 <= at < 20.0 for at in times)


def test_with_arrivals_starts_the_items_over_when_they_run_out() -> None:
    items = [Item(5.0, 1, 1), Item(6.0, 2, 2)]
    assert [(i.at, i.prompt_tokens) for i in with_arrivals(items, [0.0, 1.0, 2.0])] == [(0.0, 1), (1.0, 2), (2.0, 1)]


def test_shapes_have_the_values_they_promise() -> None:
    assert ramp(1, 3, 10)(5) == 2 and ramp(1, 3, 10)(99) == 3
    assert [steps(1, 5, 5, 10)(t) for t in (0, 1.9, 2, 9.9, 50)] == [1, 1, 2, 5, 5]
    assert [spike(1, 9, 4, 2)(t) for t in (3.9, 4, 5.9, 6)] == [1, 9, 9, 1]
    assert day(10, 24)(0) == pytest.approx(4) and day(10, 24)(12) == pytest.approx(16)
    with pytest.raises(WorkloadError, match="there are"):
        shape("sawtooth", 1, 1)
    with pytest.raises(WorkloadError, match="above 0"):
        shape("day", 0, 1)
