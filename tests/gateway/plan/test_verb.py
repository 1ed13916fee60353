"""The verb `plan` from end to end: files and records in, sentences, tables, JSON and exit codes out."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.plan import verb as plan
from gateway.plan.values import Lab
from loadtest.lab import foresight
from tests.evidence.plan_cases import changed_files, old_file, world_of
from tests.evidence.plan_world import config_of, recorded

REQUESTS, LOAD = 1500, 20.0


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the old file, the records made under it, and all changed files."""
    folder = tmp_path_factory.mktemp("plan")
    recorded(world_of(folder, REQUESTS, LOAD), config_of(folder, "old", old_file()), folder / "records.jsonl", 1)
    for name, content in changed_files().items():
        config_of(folder, name.replace(" ", "-"), content)
    return folder


def run(capsys: pytest.CaptureFixture[str], lab: Lab | None, *words: object) -> tuple[int, str, str]:
    parser = ArgumentParser()
    plan.add_arguments(parser)
    code = plan.run(parser.parse_args([str(word) for word in words]), lab)
    told = capsys.readouterr()
    return code, told.out, told.err


def as_json(capsys: pytest.CaptureFixture[str], lab: Lab | None, *words: object) -> dict[str, Any]:
    code, out, err = run(capsys, lab, *words, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def options(where: Path, file: str) -> list[object]:
    return [where / f"{file}.yaml", "--old", where / "old.yaml", "--against", where / "records.jsonl"]


def test_the_same_file_gives_every_recorded_decision_again(where: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, None, *options(where, "the-same-file"))
    assert found["changes"] == [] and found["moved"] == [] and found["newly_refused"] == []
    again = found["reproduced"]
    assert again["reproduced"] == again["decisions"] == REQUESTS
    assert again["endpoints_checked"] > 1000
    assert again["endpoints_determined"] > 0.9 * again["endpoints_checked"]


def test_a_decision_that_does_not_come_out_again_fails_with_its_request(
    where: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (where / "records.jsonl").read_bytes().splitlines(keepends=True)
    record = json.loads(lines[700])
    ranked = sorted(record["candidates"], key=lambda one: one["score"])
    record["chosen"], record["route"]["arm"] = ranked[-1]["endpoint"], "nobody"
    lines[700] = json.dumps(record).encode() + b"\n"
    (tmp_path / "records.jsonl").write_bytes(b"".join(lines))
    code, out, _ = run(capsys, None, *options(where, "the-same-file")[:3], "--against", tmp_path / "records.jsonl")
    assert code == 1
    assert f"{record['request_id']}: arm nobody was recorded" in out
    assert f"{record['request_id']}: {ranked[-1]['endpoint']} was chosen" in out


def test_moved_traffic_is_counted_by_model_tenant_and_pool(where: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, None, *options(where, "weights-60-:-40"))
    (row,) = found["moved"]
    assert (row["model"], row["from"], row["to"]) == ("chat", "fast", "slow")
    assert row["requests"] == pytest.approx(0.2 * 0.85 * REQUESTS, rel=0.05)
    assert "model chat: 40 % of its requests go to slow (arm next) instead of 20 %" in found["changes"]


def test_a_rule_that_nobody_hits_and_a_model_that_is_gone_are_said(
    where: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = old_file()
    del content["models"]["code"]
    content["models"]["chat"]["routes"].insert(0, {"name": "vip", "when": {"header": {"x-vip": "1"}}, "to": "slow"})
    content["models"]["chat"]["routes"].insert(
        1, {"name": "seen", "when": {"prompt": {"at_least": 1000}}, "to": "slow", "shadow": True})  # fmt: skip
    config_of(where, "gone", content)
    code, out, _ = run(capsys, None, *options(where, "gone"))
    assert code == 0
    assert "never hit: rule vip of model chat" in out
    assert "in shadow: rule seen of model chat would have taken" in out
    assert "no model of that name" in out and "model code is gone" in out


@pytest.mark.slow
def test_the_lab_says_what_clients_would_see(where: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, foresight, *options(where, "promise-300-ms,-35-ms"), "--seeds", 1)
    before, after = ({(one["model"], one["pool"]): one for one in found[name]["lines"]} for name in ("before", "after"))
    assert set(found["after"]["engines"]) == {"fast", "slow"} and not found["after"]["unknown"]
    assert all("fitted to" in told for told in found["after"]["engines"].values())
    assert after["chat", "all"]["attainment"][0] < before["chat", "all"]["attainment"][0] - 0.02
    assert before["code", "all"]["attainment"][0] == pytest.approx(after["code", "all"]["attainment"][0], abs=0.05)
    assert before["all", "all"]["attainment"][0] == pytest.approx(found["measured"], abs=0.05)


@pytest.mark.slow
def test_a_pool_of_which_nothing_is_known_cannot_be_foreseen(where: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = old_file()
    content["pools"]["new"] = {"endpoints": ["http://10.9.9.9:8000"]}
    content["models"]["code"]["to"] = "new"
    config_of(where, "unknown", content)
    code, out, _ = run(capsys, foresight, *options(where, "unknown"), "--seeds", 1, "--requests", 600)
    assert code == 0 and "pool new cannot be foreseen" in out and "name a `profile`" in out
    content["pools"]["new"]["profile"] = "a100_llama-3.1-8b_bf16_tp1"
    content["pools"]["new"]["pick"] = "predicted_latency"
    config_of(where, "known", content)
    code, out, _ = run(capsys, foresight, *options(where, "known"), "--seeds", 1, "--requests", 600)
    assert code == 0 and "engines of new: the pool's profile" in out


@pytest.mark.slow
def test_arms_that_a_pool_cannot_carry_are_said(where: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = old_file()
    content["pools"]["slow"]["endpoints"] = content["pools"]["slow"]["endpoints"][:1]
    content["pools"]["slow"]["max_concurrency"] = 2
    config_of(where, "narrow", content)
    code, out, _ = run(capsys, foresight, *options(where, "narrow"), "--seeds", 1, "--requests", 800)
    assert code == 0 and "cannot be met: of the" in out and "for slow (routes[0] next)" in out


def test_a_trace_can_be_planned_against(where: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"arrival_s": 0.1 * n, "prompt_tokens": 500, "output_tokens": 20} for n in range(50)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = as_json(capsys, None, where / "old.yaml", "--against", tmp_path / "t.jsonl", "--model", "chat")
    assert found["against"]["replayed"] == 50


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["missing.yaml"], 1, "missing.yaml"),
        (["OLD", "--against", "missing.jsonl"], 1, "cannot be read"),
        (["OLD", "--against", "http://127.0.0.1:1"], 1, "no answer from the admin listener"),
        (["OLD", "--seeds", "0"], 2, "at least 1"),
    ],
)
def test_what_cannot_be_planned_says_why(
    where: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, told: str
) -> None:
    found, _, err = run(capsys, None, *[str(where / "old.yaml") if word == "OLD" else word for word in words])
    assert found == code and told in err


def test_without_records_it_is_the_difference(where: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, None, where / "least_tokens.yaml", "--old", where / "old.yaml")
    assert code == 0 and "pool fast: pick.policy: least_tokens instead of predicted_latency" in out


def test_changed_files_of_the_evidence_are_all_in_order(where: Path) -> None:
    files: Mapping[str, Any] = changed_files()
    assert len(files) == 8
