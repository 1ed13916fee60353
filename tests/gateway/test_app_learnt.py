"""What a running gateway does with what its predictors have learnt: kept over a restart, told when it is no good."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.config.loader import digest_of
from gateway.config.types import Config, Pick
from gateway.core.predictor import Predictor
from tests.support.gateway import Running, config, pool
from tests.support.loop import on_uvloop, until
from tests.support.upstream import Upstream

restored: list[object] = []


@pytest.fixture(autouse=True)
def learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A predictor whose whole state is one word."""
    restored.clear()

    def restore(self: Predictor, state: Mapping[str, object]) -> None:
        restored.append(state["word"])

    monkeypatch.setattr(Predictor, "to_state", lambda self: {"word": "learnt"}, raising=False)
    monkeypatch.setattr(Predictor, "restore", restore, raising=False)
    monkeypatch.setattr("gateway.app._SLOW_TICK", 1)


def kept_in(folder: Path, up: Upstream, policy: str = "predicted_latency", **more: Any) -> Config:
    made = config(pool([up], pick=Pick(policy), **more), state=str(folder))
    return dataclasses.replace(made, digest=digest_of(made))


def test_what_was_learnt_is_written_while_it_runs_and_read_at_the_next_start(tmp_path: Path) -> None:
    @on_uvloop
    async def run() -> None:
        async with Upstream() as up:
            async with Running(kept_in(tmp_path, up)):
                await until(lambda: list(tmp_path.glob("predictor-p.json")), "what is kept")
                assert restored == []
            async with Running(kept_in(tmp_path, up)):
                assert restored == ["learnt"]

    run()


def test_it_is_written_at_the_end_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.app._SLOW_TICK", 10**9)

    @on_uvloop
    async def run() -> None:
        async with Upstream() as up, Running(kept_in(tmp_path, up)):
            pass  # too short for any other writing

    run()
    assert [path.name for path in tmp_path.glob("*.json")] == ["predictor-p.json"]


def test_what_other_servers_taught_is_not_brought_back_by_a_reload(tmp_path: Path) -> None:
    @on_uvloop
    async def run() -> None:
        async with Upstream() as up, Running(kept_in(tmp_path, up)) as gateway:
            await until(lambda: list(tmp_path.glob("predictor-p.json")), "what is kept")
            gateway.next_config = kept_in(tmp_path, up, profile="h100_llama-3.1-8b_bf16_tp1")
            assert await gateway.gateway.reload() == (True, [])
            assert restored == []
            for policy in ("least_tokens", "predicted_latency"):
                gateway.next_config = kept_in(tmp_path, up, policy)
                assert await gateway.gateway.reload() == (True, [])
            assert restored == ["learnt"]  # a policy that predicts again goes on from there

    run()


def test_a_folder_that_cannot_be_written_to_is_an_error_at_the_start(tmp_path: Path) -> None:
    @on_uvloop
    async def run() -> None:
        (tmp_path / "file").touch()
        async with Upstream() as up:
            with pytest.raises(OSError, match="file"):
                async with Running(kept_in(tmp_path / "file", up)):
                    pass

    run()


def test_predictions_that_are_no_good_are_told_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.calibration.ENOUGH", 0)
    monkeypatch.setattr("gateway.calibration.FEW", 0)

    @on_uvloop
    async def run() -> None:
        async with Upstream() as up, Running(kept_in(tmp_path, up)) as gateway:
            await until(lambda: "predictor_calibrated" in gateway.log.text)
            monkeypatch.setattr(Predictor, "calibrated", property(lambda self: False))
            await until(lambda: "predictor_uncalibrated" in gateway.log.text)

    run()
