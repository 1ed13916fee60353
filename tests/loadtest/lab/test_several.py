"""Several pools behind one gateway, in virtual time: ways, waiting, falling back, giving way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gateway.plan.values import ALL, Call, Engine, FillerRule, PoolPlan, Setting, Turn
from loadtest.lab.engines import BLOCK, shared_blocks
from loadtest.lab.foresight import foresee, measured, reached, summed
from loadtest.lab.several import Several
from policies.admission.base import ClassRule

NONE = {"ttft_slo": float("nan"), "tpot_slo": float("nan")}
A100 = "a100_llama-3.1-8b_bf16_tp1"


def pool(name: str, engines: int = 1, limit: int | None = None, policy: str = "least_tokens") -> PoolPlan:
    return PoolPlan(name, (Engine(A100),) * engines, policy, limit=limit)


def call(at: float, *pools: str, **more: object) -> Call:
    return Call(at, 400, 20, "m", pools, ttft_slo=0.5, tpot_slo=0.05)._replace(**more)


def run(*calls: Call, pools: tuple[PoolPlan, ...] = (pool("a"), pool("b")), seed: int = 0, **more: object) -> Several:
    several = Several(replace(Setting(pools, calls), **more), seed)
    several.run()
    return several


def test_each_request_is_answered_in_its_own_pool() -> None:
    several = run(call(0.0, "a"), call(0.1, "b"), call(0.2, "a"))
    assert several.pool.tolist() == [0, 1, 0]
    assert not np.isnan(several.run_.ttft).any()


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    calls = [call(0.05 * n, "a", "b") for n in range(100)]
    one, same, other = (run(*calls, seed=seed).run_.e2e for seed in (1, 1, 2))
    assert (one == same).all() and not (one == other).all()


def test_a_full_pool_is_waited_for_and_then_the_next_one_is_used() -> None:
    pools = (pool("a", limit=1), pool("b"))
    several = run(call(0.0, "a", "b", output_tokens=400), call(0.1, "a", "b", after=0.3), pools=pools)
    assert several.pool.tolist() == [0, 1]
    assert several.run_.held[1] == pytest.approx(0.3, abs=0.01)


def test_without_a_fallback_it_waits_for_its_turn() -> None:
    several = run(call(0.0, "a", output_tokens=100), call(0.1, "a", **NONE), pools=(pool("a", limit=1),))
    assert several.pool.tolist() == [0, 0] and several.run_.held[1] > 1.0


def test_who_waits_too_long_is_refused_with_the_reason() -> None:
    rules = (ClassRule(wait=0.5),)
    calls = (call(0.0, "a", output_tokens=2000), call(0.1, "a", **NONE))
    several = run(*calls, pools=(pool("a", limit=1),), rules=rules)
    assert several.pool.tolist() == [0, -1] and several.reason[1] in ("queue_timeout", "queue_full")


def test_who_can_wait_no_longer_may_still_find_a_place_elsewhere() -> None:
    rules = (ClassRule(wait=0.5),)
    pools = (pool("a", limit=1), pool("b", limit=1))
    calls = (call(0.0, "a", output_tokens=2000), call(0.0, "b", output_tokens=10), call(0.1, "a", "b", **NONE,
                                                                                        after=60.0))  # fmt: skip
    several = run(*calls, pools=pools, rules=rules)
    assert several.pool[2] == 1


def test_a_request_without_a_pool_is_refused() -> None:
    several = run(call(0.0), call(0.1, "gone"), call(0.2, "a"))
    assert several.pool.tolist() == [-1, -1, 0] and several.reason[:2] == ["no_route", "no_route"]


def test_filler_is_served_whole_however_often_it_gives_way() -> None:
    pools = (pool("a", policy="predicted_latency"),)
    rules = (ClassRule(), ClassRule("async", 0, 100_000, 86_400.0, "deadline", filler=True))
    work = {"klass": "async", "filler": True, "prompt_tokens": 3000, "output_tokens": 400}
    filler = [call(0.0, "a", **work, **NONE) for _ in range(40)]
    live = [call(0.2 + 0.25 * n, "a") for n in range(120)]
    calls = sorted([*filler, *live], key=lambda one: one.at)
    several = run(*calls, pools=pools, rules=rules, filler=FillerRule())
    assert not np.isnan(several.run_.e2e).any() and (several.pool == 0).all()
    assert sum(station.engine.in_flight for station in several.stations) == 0


def test_a_slower_engine_takes_longer() -> None:
    pools = [(PoolPlan("a", (Engine(A100, pace=pace),)),) for pace in (1.0, 2.0)]
    fast, slow = (run(call(0.0, "a"), pools=plans).run_.e2e[0] for plans in pools)
    assert slow == pytest.approx(2 * fast, rel=0.2)


# --- what is made of runs -------------------------------------------------------------------------------------------


def test_lines_are_by_model_and_pool_and_the_first_calls_are_not_counted() -> None:
    calls = tuple(call(0.2 * n, "ab"[n % 2], model="xy"[n % 4 // 2]) for n in range(100))
    setting = Setting((pool("a"), pool("b")), calls)
    lines, _ = foresee(setting, range(2))
    found = {(line.model, line.pool): line for line in lines}
    assert set(found) == {(ALL, ALL), ("x", ALL), ("y", ALL), ("x", "a"), ("x", "b"), ("y", "a"), ("y", "b")}
    assert found[ALL, ALL].requests == 90.0 and found[ALL, ALL].attainment.value == 1.0
    assert found[ALL, ALL].ttft[0].value < found[ALL, ALL].ttft[2].value


def test_a_refusal_has_not_kept_its_promise() -> None:
    setting = Setting((pool("a"),), (call(0.0, "a"), call(0.1), call(0.2, "a"), call(0.3)))
    (line, *_) = summed(setting, [measured(setting, 0, warm_up=0.0)])
    assert line.attainment.value == 0.5 and line.refused.value == 0.5


def test_how_much_of_an_arm_its_pool_answered() -> None:
    pools = (pool("a", limit=1), pool("b"))
    calls = (call(0.0, "a", "b", output_tokens=400, arm="x"), call(0.1, "a", "b", arm="x"), call(0.2, "b", arm="y"))
    setting = Setting(pools, calls)
    first, second = reached(setting, [measured(setting, 0)])
    assert (first.arm, first.pool, first.requests, first.there, first.elsewhere) == ("x", "a", 2, 0.5, 0.5)
    assert (second.there, second.refused) == (1.0, 0.0)


# --- what prompts share ---------------------------------------------------------------------------------------------


def test_turns_of_a_growing_session_share_all_that_came_before() -> None:
    turns = [Turn("t", "m", "s", 160.0, 0.0), Turn("t", "m", "s", 320.0, 160.0), Turn("t", "m", "s", 480.0, 320.0)]
    first, second, third = shared_blocks(turns)
    assert len(third) == 480 // BLOCK and third[: len(second)] == second and second[: len(first)] == first


def test_elsewhere_the_cached_beginning_is_the_tenants() -> None:
    turns = [Turn("t", "m", "s1", 500.0, 64.0), Turn("t", "m", "s2", 900.0, 128.0), Turn("u", "m", "s3", 900.0, 64.0)]
    one, other, strangers = shared_blocks(turns)
    assert other[:4] == one and len(other) == 8 and not set(one) & set(strangers)


def test_where_nobody_said_what_was_cached_nothing_is_shared() -> None:
    assert shared_blocks([Turn("t", "m", "", 500.0, float("nan"))]) == [()]
