"""What is kept of runs, and what makes a kept one invalid."""

from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.lab import memory
from loadtest.lab.memory import Memory, key_of, sources
from loadtest.lab.scenario import Scenario, Source, Traffic

CHAT = Scenario("chat")


def names(policy: str) -> set[str]:
    return {path.name for path in sources(policy)}


def test_what_was_kept_is_recalled(tmp_path: Path) -> None:
    kept = Memory(tmp_path)
    assert kept.recall("ab12") is None
    kept.keep("ab12", {"attainment": 0.5})
    assert Memory(tmp_path).recall("ab12") == {"attainment": 0.5}


def test_a_broken_file_is_as_good_as_none(tmp_path: Path) -> None:
    kept = Memory(tmp_path)
    kept.keep("ab12", {})
    next(tmp_path.rglob("*.json")).write_text('{"atta')
    assert kept.recall("ab12") is None


def test_without_a_folder_nothing_is_kept() -> None:
    kept = Memory(None)
    kept.keep("ab12", {"a": 1.0})
    assert kept.recall("ab12") is None


def test_every_part_of_an_experiment_is_in_its_key() -> None:
    def key(scenario: Scenario = CHAT, rate: float = 10.0, policy: str = "round_robin", seed: int = 1) -> str:
        return key_of(scenario, rate, policy, {}, seed, None)

    long = replace(CHAT, traffic=Traffic((Source(trace="agents_miniswe"),)))
    every = {key(), key(long), key(rate=11.0), key(policy="least_inflight"), key(seed=2)}
    every |= {key_of(CHAT, 10.0, "round_robin", {}, 1, "more"), key_of(CHAT, 10.0, "round_robin", {"a": 1}, 1, None)}
    assert len(every) == 7
    assert key() == key()


def test_a_run_depends_on_the_simulation_and_on_its_own_policy_only() -> None:
    found = names("least_inflight")
    assert {"simulation.py", "fleet.py", "engine.py", "profiles.json", "least_inflight.py", "figures.py"} <= found
    assert not {"round_robin.py", "predicted_latency.py", "report.py", "search.py"} & found


def test_the_predictor_counts_for_policies_that_predict() -> None:
    assert "predictor.py" in names("predicted_latency")
    assert "predictor.py" not in names("least_inflight")


def test_source_that_changed_since_it_was_loaded_is_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    memory.source.cache_clear()
    before = memory.source("least_inflight")
    memory.source.cache_clear()
    monkeypatch.setattr(memory, "_LOADED_AT", 0.0)
    assert memory.source("least_inflight") != before
    memory.source.cache_clear()


def test_comments_and_docstrings_change_no_digest(tmp_path: Path) -> None:
    plain, told, other = tmp_path / "a.py", tmp_path / "b.py", tmp_path / "c.py"
    plain.write_text("def f(x):\n    return x + 1\n")
    told.write_text('"""About."""\n\n\ndef f(x):\n    """One more."""\n    return x + 1  # really\n')
    other.write_text("def f(x):\n    return x + 2\n")
    assert memory._meaning(plain) == memory._meaning(told) != memory._meaning(other)
