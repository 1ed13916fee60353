"""From recorded decisions to a profile: of engines that no shipped profile describes, and of what is no use."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backends.sim.profiles import Profile, names, profile
from gateway.cli import main
from gateway.config.loader import load
from gateway.priors import prior_of
from loadtest.lab.arrivals import warped
from loadtest.lab.scenario import Group, Routers, Scenario, Traffic
from loadtest.lab.simulation import simulate
from tests.loadtest.lab.recording import record

WARP = (("base", 1.45), ("slope1", 1.6), ("slope2", 0.8), ("slope3", 1.25), ("pair", 2.5), ("ctx", 0.7), ("seq", 3.0))
OWN = Group(count=2, warp=WARP)
SCENARIO = Scenario(
    "own", (OWN,), Traffic(streams=0.95), routers=Routers(prompt_error=0.1), requests=1500, warm_up=0.0, cool_down=0.0
)
LOADS = (5.0, 12.0)  # requests per second: about a third of what these two can do, and most of it
Calibrate = Callable[..., tuple[int, str, str]]
GRID = [(decodes, chunk) for decodes in (1, 8, 30, 60) for chunk in (0, 64, 300, 900, 2000)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "decisions.jsonl"
    for seed, rate in enumerate(LOADS):
        record(path, SCENARIO, rate, seed=seed)
    return path


@pytest.fixture
def calibrate(capsys: pytest.CaptureFixture[str]) -> Calibrate:
    def calibrate(*words: str | Path) -> tuple[int, str, str]:
        code = main(["lab", "calibrate", *map(str, words)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return calibrate


def iteration(used: Profile, decodes: int, chunk: int) -> float:
    """Seconds of an iteration with so many decodes of 1,300 tokens, and a prompt of so many beside them."""
    return used.seconds(decodes + chunk, chunk * chunk / 2.0, 0, int(chunk > 0), decodes, 1300 * decodes)


def test_an_engine_that_nobody_knew_is_predicted_within_a_few_percent(
    recorded: Path, tmp_path: Path, calibrate: Calibrate
) -> None:
    out = tmp_path / "own.json"
    code, told, warned = calibrate(recorded, "--name", "own", "--out", out)
    assert (code, warned) == (0, "")
    found, true = profile(str(out)), warped(OWN)
    errors = [iteration(found, *point) / iteration(true, *point) - 1.0 for point in GRID]
    assert max(map(abs, errors)) < 0.04, errors
    assert sum(map(abs, errors)) / len(errors) < 0.02, errors
    for shipped in map(profile, names()):
        known = [abs(iteration(shipped, *point) / iteration(true, *point) - 1.0) for point in GRID]
        assert max(known) > 0.15, shipped.name
    assert (found.name, found.model, found.kv_tokens) == ("own", "llama", true.kv_tokens)
    assert "3000 records" in told and "not used: plain answers" in told
    assert "2048 tokens an iteration" in told and "TTFT MAPE" in told and "TPOT MAPE" in told
    assert found.mape_prefill < 10.0 and found.mape_decode < 3.0


def test_what_was_written_is_a_profile_for_a_pool_and_for_the_lab(
    recorded: Path, tmp_path: Path, calibrate: Calibrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert calibrate(recorded)[0] == 0
    assert prior_of("gpu.json").sure
    Path("headway.yaml").write_text(
        "pools: {gpu: {pick: predicted_latency, profile: gpu.json, endpoints: ['http://127.0.0.1:1']}}\n"
        "models: {m: {to: gpu}}\n"
    )
    assert load("headway.yaml", {}).config.pools["gpu"].profile == str(tmp_path / "gpu.json")
    run = simulate(replace(SCENARIO, groups=(Group("gpu.json", count=2),), requests=100), 4.0, "least_tokens")
    assert run.attainment == 1.0


def test_several_pools_need_a_choice_and_endpoints_can_be_chosen(
    recorded: Path, tmp_path: Path, calibrate: Calibrate
) -> None:
    lines = recorded.read_text().splitlines()
    lines[::10] = [json.dumps({**json.loads(line), "pool": "other"}) for line in lines[::10]]
    both = tmp_path / "both.jsonl"
    both.write_text("\n".join(lines))
    out = tmp_path / "x.json"
    code, _, told = calibrate(both, "--out", out)
    assert code == 2 and "--pool gpu or other" in told
    code, told, _ = calibrate(both, "--out", out, "--pool", "gpu", "--endpoint", "engine-1")
    assert code == 0 and "of 1 endpoints" in told and "of another pool or endpoint" in told


def test_a_slower_endpoint_is_named_and_the_profile_is_that_of_the_others(tmp_path: Path, calibrate: Calibrate) -> None:
    groups = (OWN, replace(OWN, count=1, pace=((0.0, 1.8),)))
    records, out = tmp_path / "records.jsonl", tmp_path / "own.json"
    record(records, replace(SCENARIO, groups=groups), 12.0)
    code, told, warned = calibrate(records, "--out", out)
    assert code == 0 and "endpoints differ" in warned
    (slow,) = (line.split() for line in told.splitlines() if "times as long" in line)
    assert slow[0] == "engine-2" and float(slow[2]) == pytest.approx(1.8, rel=0.03)
    true = warped(OWN)
    for point in GRID:
        assert iteration(profile(str(out)), *point) == pytest.approx(iteration(true, *point), rel=0.06)


def line(**changes: object) -> str:
    """A usable record, or not after the changes; those of `work` and `outcome` are merged."""
    work = {"rest": 0.002, "tokens": 500.0, "decoding": 4.0, "context": 4e3, "pairs": 1.2e5, "own": 500.0,
            "prompt": 500.0, "kv_tokens": None, "after": None}  # fmt: skip
    outcome = {"status": 200, "ended": "complete", "stream": True, "ttft_there": 0.05, "prompt_tokens": 500.0,
               "cached_tokens": None}  # fmt: skip
    record = {"v": 1, "pool": "gpu", "model": "m", "chosen": "e", "work": work, "outcome": outcome, **changes}
    for name, whole in (("work", work), ("outcome", outcome)):
        if isinstance(changes.get(name), dict):
            record[name] = {**whole, **changes[name]}  # type: ignore[dict-item]
    return json.dumps(record)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no JSON", "not a line of JSON"),
        ("[" * 100_000, "not a line of JSON"),
        ("[1, 2]", "not a decision record"),
        (line()[:200], "not a line of JSON"),
        (line(outcome=3), "not a decision record"),
        (line(v=0), "of another version than 1"),
        (line(outcome={"ended": "client_gone"}), "not to the end"),
        (line(outcome={"status": 500}), "not answered"),
        (line(outcome={"stream": False}), "plain answers"),
        (line(work=None), "without `work`"),
        (line(outcome={"ttft_there": None}), "missing or cannot be"),
        (line(outcome={"ttft_there": -1.0}), "missing or cannot be"),
        (line(work={"rest": "0.1"}), "missing or cannot be"),
        (line(work={"context": 10**400}), "missing or cannot be"),
        (line(work={"after": {"seconds": 1.0}}), "missing or cannot be"),
    ],
)
def test_a_line_that_cannot_be_used_is_counted_with_the_reason(
    tmp_path: Path, calibrate: Calibrate, text: str, reason: str
) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(f"{text}\n\n{line()}\n{text}\n")
    code, told, refused = calibrate(path, "--out", tmp_path / "x.json")
    assert code == 1 and "too few: 1 streams" in refused
    (unused,) = (line for line in told.splitlines() if "not used" in line)
    assert "3 records, 1 used" in told and "2 not used" in unused and reason in unused
    assert not (tmp_path / "x.json").exists()


def test_a_file_without_a_usable_line_is_refused(tmp_path: Path, calibrate: Calibrate) -> None:
    empty = tmp_path / "records.jsonl"
    empty.write_text("")
    code, told, refused = calibrate(empty)
    assert code == 1 and "0 records, 0 used" in told and "too few: 0 streams" in refused
    assert "Record for longer" in refused


def test_streams_that_are_all_alike_are_refused_and_it_says_in_what(tmp_path: Path, calibrate: Calibrate) -> None:
    after = {"seconds": 1.0, "steps": 100, "decoding": 4.0, "context": 4e3, "pairs": 0.0, "tokens1": 0.0,
             "tokens2": 0.0, "tokens3": 0.0, "knee1": 128, "knee2": 512}  # fmt: skip
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(line(work={"after": {**after, "context": 4e3 + 100 * i}}) for i in range(300)))
    code, told, refused = calibrate(path)
    assert code == 1 and "300 records, 300 used" in told
    assert "prompt tokens to do before the first token (500 to 500" in refused and "sequences decoding" in refused
    assert "KV tokens" not in refused


def test_files_and_names_that_make_no_sense_end_with_2(tmp_path: Path, calibrate: Calibrate) -> None:
    code, _, refused = calibrate(tmp_path / "missing.jsonl")
    assert code == 2 and "missing.jsonl: No such file" in refused
    path = tmp_path / "records.jsonl"
    path.write_text(line())
    code, _, refused = calibrate(path, "--name", "a/b")
    assert code == 2 and "--name 'a/b'" in refused
    code, _, refused = calibrate(path, "--out", "x.yaml")
    assert code == 2 and "must end in .json" in refused
