"""What is kept over a restart: written whole or not at all, read with care, and never worth a failure."""

import asyncio
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config.types import Pick
from gateway.logs import Events
from gateway.state import ABANDONED, EVERY, LARGEST, StateFolder
from tests.support.client import chat, post
from tests.support.gateway import Running, config, pool
from tests.support.held_output import HeldOutput
from tests.support.loop import on_uvloop
from tests.support.upstream import Line, Received, Upstream, sse, whole


class Keeper:
    """Knows one number."""

    def __init__(self, value: float = 0.0):
        self.value = value

    def to_state(self) -> dict[str, object]:
        return {"version": 1, "value": self.value}

    def restore(self, state: Mapping[str, object]) -> None:
        if state["version"] != 1:
            raise ValueError("another version")
        value = state["value"]
        if not isinstance(value, float):
            raise TypeError("not a number")
        self.value = value


class Process:
    """A process that keeps one pool's state in a folder. `generation`: later ones have higher numbers."""

    def __init__(self, folder: Path | None, generation: int | None = None):
        self.log = HeldOutput()
        self.state = StateFolder(None if folder is None else str(folder), Events(self.log), generation)
        self.keeper = Keeper()

    def begin(self) -> bool:
        return self.state.restore("predictor-gpu", self.keeper)

    def learn(self, value: float) -> None:
        """Learn it and write it, the thread included."""
        self.keeper.value = value
        self.state.close({"predictor-gpu": self.keeper}, 10.0)


def file_of(folder: Path) -> Path:
    return folder / "predictor-gpu.json"


def value_of(folder: Path) -> float:
    return float(json.loads(file_of(folder).read_text())["learnt"]["value"])


def test_what_was_learnt_is_there_after_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "state"
    first = Process(folder)
    assert not first.begin()
    first.learn(0.25)
    second = Process(folder)
    assert second.begin()
    assert second.keeper.value == 0.25
    assert first.log.events() == second.log.events() == []
    assert stat.S_IMODE(file_of(folder).stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["predictor-gpu.json"]


def test_it_is_written_every_so_often_and_only_when_something_has_changed(tmp_path: Path) -> None:
    process = Process(tmp_path)

    def keep(value: float, now: float) -> float | None:
        process.keeper.value = value
        process.state.keep({"predictor-gpu": process.keeper}, now)
        process.state._writer.join()  # type: ignore[union-attr]
        return value_of(tmp_path)

    assert keep(1.0, 100.0) == 1.0
    assert keep(2.0, 100.0 + EVERY / 2.0) == 1.0
    assert keep(2.0, 100.0 + EVERY) == 2.0
    before = file_of(tmp_path).stat().st_ino
    assert keep(2.0, 100.0 + 2.0 * EVERY) == 2.0
    assert file_of(tmp_path).stat().st_ino == before


def test_without_a_folder_nothing_is_kept_or_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    process = Process(None)
    assert not process.begin()
    process.state.keep({"predictor-gpu": process.keeper}, 0.0)
    process.learn(1.0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_an_os_error_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below"):
        with pytest.raises(OSError, match=r"state cannot be kept .*file"):
            Process(folder)


# --- two processes -------------------------------------------------------------------------------------------


def test_the_old_process_does_not_overwrite_what_the_new_one_wrote(tmp_path: Path) -> None:
    old = Process(tmp_path)
    old.learn(1.0)
    new = Process(tmp_path)
    assert new.begin()
    old.learn(2.0)
    assert value_of(tmp_path) == 2.0, "the new one has not written yet"
    new.learn(3.0)
    old.learn(4.0)
    old.learn(5.0)
    assert value_of(tmp_path) == 3.0
    new.learn(6.0)
    assert value_of(tmp_path) == 6.0
    assert old.log.events() == new.log.events() == []


def test_a_clock_that_went_back_does_not_make_the_new_one_the_older(tmp_path: Path) -> None:
    old = Process(tmp_path, generation=1000)
    old.learn(1.0)
    new = Process(tmp_path, generation=10)
    assert new.begin()
    new.learn(2.0)
    assert value_of(tmp_path) == 2.0
    old.learn(3.0)
    assert value_of(tmp_path) == 2.0


# --- what may be in a folder ---------------------------------------------------------------------------------

GOOD = {"version": 1, "pool": "gpu", "generation": 5, "at": 1.5, "learnt": {"version": 1, "value": 0.5}}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        (json.dumps(GOOD)[:-20], ""),
        ("[]", "not of version 1"),
        (json.dumps({**GOOD, "version": 2}), "not of version 1"),
        (json.dumps({**GOOD, "generation": "5"}), "not what was written here"),
        (json.dumps({**GOOD, "learnt": [1]}), "not what was written here"),
        (json.dumps({**GOOD, "learnt": {"version": 2}}), "another version"),
        (json.dumps({**GOOD, "learnt": {"version": 1}}), "value"),
        (json.dumps({**GOOD, "learnt": {"version": 1, "value": "x"}}), "not a number"),
        (json.dumps(GOOD).replace("0.5", "NaN"), "a figure is NaN"),
        (json.dumps(GOOD).replace("0.5", "-Infinity"), "a figure is -Infinity"),
        (json.dumps(GOOD).replace("0.5", "1e999"), "a figure is 1e999"),
        ("[" * 100_000, "nested too deeply"),
        (" " * (LARGEST + 1), "larger than"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_left_out_with_a_warning_and_written_anew(tmp_path: Path, text: str, why: str) -> None:
    file_of(tmp_path).write_text(text)
    process = Process(tmp_path)
    assert not process.begin()
    assert process.keeper.value == 0.0
    line = json.loads(process.log.data)
    assert (line["level"], line["event"], line["name"]) == ("warning", "state_ignored", "predictor-gpu")
    assert why in line["why"] and line["file"] == str(file_of(tmp_path))
    process.learn(7.0)
    assert value_of(tmp_path) == 7.0


@given(st.one_of(st.binary(max_size=60), st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["version", "generation", "learnt", "value"]), inner, max_size=4),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())))  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_file_keeps_a_gateway_from_starting(tmp_path: Path, data: bytes) -> None:
    file_of(tmp_path).write_bytes(data)
    process = Process(tmp_path)
    assert process.begin() is (not process.log.data)


def test_a_state_that_is_not_finite_or_a_bug_is_not_written_and_said(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.learn(1.0)
    process.learn(float("nan"))
    assert value_of(tmp_path) == 1.0
    assert process.log.events() == ["state_not_written"]
    process.learn(2.0)
    assert value_of(tmp_path) == 2.0


def test_a_folder_that_went_away_costs_a_warning(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    process = Process(folder)
    folder.rmdir()
    process.learn(1.0)
    assert process.log.events() == ["state_not_written"]
    folder.mkdir()
    process.learn(2.0)
    assert value_of(folder) == 2.0


def test_a_file_that_was_never_finished_is_removed_when_it_is_old(tmp_path: Path) -> None:
    for name, age in ((".predictor-gpu.json.old", ABANDONED + 60.0), (".predictor-gpu.json.new", 0.0)):
        path = tmp_path / name
        path.touch()
        at = path.stat().st_mtime - age
        os.utime(path, (at, at))
    Process(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".predictor-gpu.json.new"]


# --- a whole gateway -----------------------------------------------------------------------------------------


@on_uvloop
async def test_a_gateway_that_is_started_again_goes_on_from_what_it_learnt(tmp_path: Path) -> None:
    async def slow(line: Line, request: Received) -> bool:
        await asyncio.sleep(0.02)
        return await whole(sse(*(b'data: {"choices":[{"delta":{"content":"a"}}]}' for _ in range(20))))(line, request)

    async with Upstream(slow) as up:
        settings = config(pool([up], pick=Pick("predicted_latency")), state=str(tmp_path))
        async with Running(settings) as first, first.client() as client:
            before = first.gateway.fleets()["p"].predictor
            assert before is not None
            fresh = before.idle_ttft(100.0)
            for _ in range(20):
                client.send(post(chat(stream=True)))
                assert (await client.answer()).status == 200
            await first.settled(20)
            learnt = before.idle_ttft(100.0)
        async with Running(settings) as second:
            after = second.gateway.fleets()["p"].predictor
            assert after is not None and after is not before
            assert abs(after.idle_ttft(100.0) - learnt) < 0.1 * abs(learnt - fresh)
            assert "state_ignored" not in second.log.text
