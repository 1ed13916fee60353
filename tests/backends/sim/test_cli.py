"""The `sim` command."""

import argparse
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from backends.sim import cli

ROOT = Path(__file__).parents[3]
NAME = "h100_llama-3.1-8b_bf16_tp1"


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return parser.parse_args(arguments)


OWN = {"base": 6.5, "knee1": 128, "knee2": 512, "slope1": 0.01, "slope2": 0.02, "slope3": 0.03, "pair": 1e-6,
       "seq": 0.01, "ctx": 4e-5, "kv_tokens": 100000}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "--profile is needed"),
        (["--profile", "h100_llama-8b"], "close names: h100_llama-3.1-8b"),
        (["--profile", NAME, "--speed", "0"], "--speed must be greater than 0"),
        (["--profile", NAME, "--count", "0"], "--count must be greater than 0"),
        (["--profile", NAME, "--kv", "-1"], "--kv must not be negative"),
        (["--profile", NAME, "--fault", "hangs"], "did you mean hang"),
        (["--profile", NAME, "--fault", "hang#1"], "there is no server 1"),
    ],
)
def test_arguments_that_make_no_sense_end_with_2_and_the_reason(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(parse(*arguments)) == 2
    assert reason in capsys.readouterr().err


def test_a_profile_of_ones_own_is_a_file_and_needs_a_kv_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({**OWN, "kv_tokens": 0}))
    assert cli.run(parse("--profile", str(mine))) == 2
    assert "--kv is needed" in capsys.readouterr().err
    (made,) = cli.server_options(parse("--profile", str(mine), "--kv", "5000"))
    assert (made.profile.base, made.profile.model, made.engine.kv_tokens) == (OWN["base"], "mine", 5000)
    assert cli.run(parse("--profile", str(tmp_path / "other.json"))) == 2
    assert "No such file" in capsys.readouterr().err


def test_profiles_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(parse("--list")) == 0
    assert NAME in capsys.readouterr().out.splitlines()


def test_a_mixed_fleet_has_the_count_of_each_and_seeds_of_their_own() -> None:
    args = parse("--profile", NAME, "--profile", "a100_llama-3.1-8b_bf16_tp1", "--count", "2", "--seed", "7")
    made = cli.server_options(args)
    assert [o.profile.gpu for o in made] == ["h100", "h100", "a100", "a100"]
    assert [o.seed for o in made] == [7, 8, 9, 10]


def test_it_prints_a_line_per_server_serves_and_stops_when_told() -> None:
    command = [sys.executable, "-m", "backends.sim", "--profile", NAME, "--count", "2", "--model", "m"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline().split() for _ in range(2)]
        for line in lines:
            assert (line[0], line[1], line[3]) == ("sim", NAME, "model=m")
            with urllib.request.urlopen(f"{line[2]}/v1/models", timeout=10) as answer:
                assert b'"id":"m"' in answer.read()
    finally:
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert said == ""
