"""The simulated engine against recorded real ones: the short form of tests/bench/sim_replay.py."""

import pytest

from tests.bench import sim_replay


@pytest.mark.parametrize("name", list(sim_replay.RUNS))
def test_a_recorded_run_comes_out_as_it_was_measured(name: str) -> None:
    found, _ = sim_replay.replay(sim_replay.DATA / f"{name}.jsonl.gz", f"{name}_bf16_tp1", sim_replay.RUNS[name])
    assert len(found) == 6
    for comparison in found:
        assert comparison.holds, comparison


def test_time_per_token_at_a_fixed_concurrency_is_that_of_real_servers() -> None:
    found = list(sim_replay.points(sim_replay.DATA / "serving_points.csv.gz", every=6))
    assert len(found) == 22
    assert sim_replay.mape(found) <= sim_replay.TPOT_BAR
    assert sim_replay.mape([p for p in found if p.engine == "vllm"]) <= sim_replay.TPOT_BAR
