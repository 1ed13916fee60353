"""The command: its verbs, its exit codes, and what is not in this version."""

import json
import re
from pathlib import Path

import pytest

from gateway.cli import main

GOOD = 'version: 1\npools:\n  p: {engine: http, endpoints: ["http://127.0.0.1:1"]}\nmodels:\n  m: {to: p}\n'


@pytest.mark.parametrize("verb", ["top"])
def test_a_verb_that_comes_later_says_so_and_fails(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "anything", "--at-all"]) == 1
    assert "not in this version" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [[], ["nonsense"], ["serve"], ["check"], ["key"], ["key", "old"], ["serve", "--nope"]]
)
def test_bad_usage_exits_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2 and "usage" in capsys.readouterr().err


def test_check_tells_good_from_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "headway.yaml"
    file.write_text(GOOD)
    assert main(["check", str(file)]) == 0
    file.write_text(GOOD.replace("engine", "engin"))
    assert main(["check", str(file)]) == 1
    said = capsys.readouterr()
    assert re.search(r"headway\.yaml:3:\d+", said.out + said.err) and "engine" in said.out + said.err


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert "pools" in json.loads(capsys.readouterr().out)["properties"]


def test_help_and_version_exit_0(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["--version"], ["serve", "--help"], ["check", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 0 and capsys.readouterr().out
