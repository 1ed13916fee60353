"""Engines found in the records of a pool: how fast each endpoint is, and why none was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.sim.profiles import UnknownProfile, profile, read_profile
from gateway.plan.values import Found
from loadtest.lab.engines import fitted
from loadtest.lab.scenario import Group, Scenario
from tests.loadtest.lab.recording import record

A100 = "a100_llama-3.1-8b_bf16_tp1"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("engines")
    groups = (Group(A100, 1), Group(A100, 1, ((0.0, 1.3),)))
    record(folder / "records.jsonl", Scenario("x", groups, requests=1800), 11.0)
    return fitted(folder / "records.jsonl", "gpu", folder)


def seconds(name: str, tokens: int, decodes: int) -> float:
    return profile(name).seconds(tokens, (tokens - decodes) ** 2 / 2.0, 0, 1, decodes, 1500 * decodes)


@pytest.mark.parametrize(("tokens", "decodes"), [(12, 12), (30, 30), (1000, 20), (2048, 30)])
def test_each_endpoint_is_as_fast_as_it_was(found: Found, tokens: int, decodes: int) -> None:
    true = seconds(A100, tokens, decodes)
    assert seconds(found.own["engine-0"], tokens, decodes) == pytest.approx(true, rel=0.05)
    assert seconds(found.own["engine-1"], tokens, decodes) == pytest.approx(1.3 * true, rel=0.05)


def test_what_else_is_found(found: Found) -> None:
    assert found.chunk == 2048 and found.overhead == pytest.approx(0.015, abs=0.002)
    assert found.errors[1] < 0.03 and "recorded streams" in found.told
    assert profile(found.profile).kv_tokens == pytest.approx(profile(A100).kv_tokens, abs=16)


def test_too_few_records_say_so_and_nothing_is_found(tmp_path: Path) -> None:
    record(tmp_path / "records.jsonl", Scenario("x", (Group(A100, 1),), requests=120), 3.0)
    few = fitted(tmp_path / "records.jsonl", "gpu", tmp_path)
    assert not few.profile and few.told.startswith("too few")
    none = fitted(tmp_path / "records.jsonl", "another", tmp_path)
    assert not none.profile and "too few: 0 streams" in none.told


def test_a_decode_may_cost_less_than_a_prompts_token_and_not_less_than_nothing(tmp_path: Path, found: Found) -> None:
    text = Path(found.profile).read_text()
    path = tmp_path / "own.json"
    slope, seq = profile(found.profile).slope1, profile(found.profile).seq
    path.write_text(text.replace(f'"seq": {seq!r}', f'"seq": {-slope!r}'))
    assert read_profile(path).seconds(1, 0.0, 0, 0, 1, 0) == pytest.approx(1e-3 * profile(found.profile).base)
    path.write_text(text.replace(f'"seq": {seq!r}', f'"seq": {-2.0 * slope!r}'))
    with pytest.raises(UnknownProfile, match="costs less than nothing"):
        read_profile(path)
