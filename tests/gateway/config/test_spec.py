"""The table of keys: names come from the registries that are given."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.sim.profiles import FILE, names
from gateway.config import spec
from gateway.config.loader import Loaded
from gateway.config.problems import Problem
from gateway.config.spec import PROFILES
from gateway.config.types import Slo
from policies.picking import POLICIES as registry

Read = Callable[..., Loaded]
Faults = Callable[..., tuple[Problem, ...]]


def test_names_of_classes_are_allowed_where_a_name_is(read: Read, good: str) -> None:
    text = good.replace("engine: http", "engine: my.engines:Mine\n    pick: my.policies:Best")
    pool = read(text).config.pools["p"]
    assert (pool.engine, pool.pick.policy) == ("my.engines:Mine", "my.policies:Best")


def test_the_registries_are_the_callers(read: Read, faults: Faults, good: str) -> None:
    assert read(good.replace("http\n", "own\n", 1), engines=["own"]).config.pools["p"].engine == "own"
    (fault,) = faults(good.replace("engine: http", "pick: mine"), policies=["mime"])
    assert fault.hint == "did you mean `mime`?"


def test_a_policys_options_are_checked_by_who_knows_them(faults: Faults, good: str) -> None:
    text = good.replace("engine: http", "pick:\n      policy: round_robin\n      wieght: 2")
    (fault,) = faults(text, check_pick=lambda name, options: f"{name} has no option {next(iter(options))}")
    assert (fault.line, fault.message) == (6, "round_robin has no option wieght")


def test_a_profile_is_one_of_the_table_and_close_names_are_told(read: Read, faults: Faults, good: str) -> None:
    assert sorted(PROFILES) == sorted(names())
    told = read(good.replace("engine: http", f"profile: {PROFILES[0]}")).config.pools["p"].profile
    assert told == PROFILES[0]
    assert read(good.replace("engine: http", "profile: null")).config.pools["p"].profile is None
    (fault,) = faults(good.replace("engine: http", "profile: h100_llama-3.1-8b_bf16"))
    assert (fault.line, fault.column) == (4, 14)
    assert fault.message == "unknown profile `h100_llama-3.1-8b_bf16`"
    assert fault.hint == "known: h100_llama-3.1-8b_bf16_tp1, h100_llama-3.1-8b_bf16_tp2"
    (fault,) = faults(good.replace("engine: http", "profile: rtx4090_llama-3.1-8B_bf16_tpl"))
    assert fault.hint == "did you mean `rtx4090_llama-3.1-8b_bf16_tp1`?"
    (fault,) = faults(good.replace("engine: http", "profile: L40S"))
    assert fault.hint == "known: l40s_llama-3.1-8b_bf16_tp1, l40s_llama-3.1-8b_fp8_tp1"
    assert (
        "unknown profile `my.profiles:Mine`"
        in faults(good.replace("engine: http", "profile: my.profiles:Mine"))[0].told
    )


def test_a_profile_may_be_a_file_beside_the_configuration(
    read: Read, faults: Faults, good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = good.replace("engine: http", "profile: mine.json")
    (fault,) = faults(text)
    assert fault.message == "file `mine.json` does not exist" and str(tmp_path) in fault.hint
    mine = tmp_path / "mine.json"
    mine.write_text('{"base": 6.5}')
    (fault,) = faults(text)
    assert fault.message == "not a profile: `mine.json`" and "missing: knee1" in fault.hint
    table = json.loads(FILE.read_text(encoding="utf-8"))["profiles"]
    mine.write_text(json.dumps(table[PROFILES[0]]))
    assert read(text).config.pools["p"].profile == str(mine)


def test_the_promised_latency_is_in_seconds_and_each_part_may_be_left_out(
    read: Read, faults: Faults, good: str
) -> None:
    for text, ttft, tpot in (("{ttft: 500ms, tpot: 40ms}", 0.5, 0.04), ("{tpot: 1s}", None, 1.0), ("{}", None, None),
                             ("{ttft: null}", None, None)):  # fmt: skip
        assert read(good.replace("{to: p}", f"{{to: p, slo: {text}}}")).config.models["corpus-model"].slo == Slo(
            ttft, tpot
        )
    for text in ("{ttft: 500}", "{ttft: 0s}", "{ttft: -1s}", "{first: 1s}", "500ms"):
        assert faults(good.replace("{to: p}", f"{{to: p, slo: {text}}}"))[0].line == 8


def test_the_folder_of_what_was_learnt_counts_from_the_files_and_must_be_one(
    read: Read, faults: Faults, good: str, tmp_path: Path
) -> None:
    assert read(good).config.state is None
    assert read(good + "state: null\n").config.state is None
    assert read(good + "state: ./headway-state\n").config.state == os.path.abspath("headway-state")
    assert read(good + f"state: {tmp_path}\n").config.state == str(tmp_path)
    file = tmp_path / "file"
    file.touch()
    (fault,) = faults(good + f"state: {file}\n")
    assert (fault.line, fault.message) == (9, f"`{file}` is not a folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_refused(faults: Faults, good: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    (fault,) = faults(good + f"state: {tmp_path}\n")
    assert "cannot be written to" in fault.message


def test_the_tables_names_of_policies_are_the_rooms() -> None:
    assert set(spec.POLICIES) == set(registry)
    assert set(spec.PREDICTING) == {name for name, kind in registry.items() if kind.predicts}
