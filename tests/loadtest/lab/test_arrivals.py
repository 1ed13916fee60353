from dataclasses import replace
from random import Random

import numpy as np
import pytest

from backends.sim.engine import Engine, EngineOptions
from backends.sim.generation import SimRequest
from backends.sim.profiles import profile
from loadtest.lab.arrivals import draw, prefill_seconds, trace, warped
from loadtest.lab.scenario import Group, Scenario, ScenarioError, Slo, Source, Traffic

NAME = "h100_llama-3.1-8b_bf16_tp1"


def scenario(requests: int = 4000, **traffic: object) -> Scenario:
    return Scenario("x", traffic=Traffic(**traffic), requests=requests)  # type: ignore[arg-type]


def test_a_seed_gives_the_same_requests_and_another_one_others() -> None:
    first, again, other = (draw(scenario(), 100.0, seed) for seed in (1, 1, 2))
    assert first.items == again.items
    assert np.array_equal(first.overhead, again.overhead)
    assert first.items != other.items


def test_a_higher_rate_gives_the_same_requests_faster() -> None:
    slow, fast = draw(scenario(), 50.0, 1), draw(scenario(), 100.0, 1)
    assert np.array_equal(slow.prompt, fast.prompt)
    assert np.allclose(slow.arrived, 2.0 * fast.arrived)


@pytest.mark.parametrize("cv", [0.0, 1.0, 3.0])
def test_gaps_have_the_rate_and_the_variation_asked_for(cv: float) -> None:
    gaps = np.diff(draw(scenario(20_000, cv=cv), 40.0, 3).arrived)
    assert gaps.mean() == pytest.approx(1 / 40.0, rel=0.08)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, abs=0.05 + 0.08 * cv)


def test_a_swing_goes_up_and_down_by_its_share() -> None:
    arrived = draw(scenario(40_000, swing=0.6, period=20.0), 200.0, 1).arrived
    high = np.count_nonzero((arrived % 20.0 > 4.0) & (arrived % 20.0 < 6.0))
    low = np.count_nonzero((arrived % 20.0 > 14.0) & (arrived % 20.0 < 16.0))
    assert high / low == pytest.approx(1.6 / 0.4, rel=0.15)


def test_sources_are_mixed_by_their_shares() -> None:
    sources = (Source(trace="azure_conv_2023", share=0.92), Source(prompt=(50_000.0, 0.1), share=0.08, tenant="long"))
    asked = draw(scenario(10_000, sources=sources), 10.0, 1)
    assert np.mean([item.tenant == "long" for item in asked.items]) == pytest.approx(0.08, abs=0.01)


def test_from_a_share_of_the_requests_on_lengths_are_others() -> None:
    asked = draw(scenario(1000, later=(Source(prompt=(100_000.0, 0.01)),), later_from=0.25), 10.0, 1)
    assert (asked.prompt[:250] < 90_000).all()
    assert (asked.prompt[250:] > 90_000).all()


def test_a_trace_that_begins_again_shares_only_what_many_share() -> None:
    name = "mooncake_conversation_head"
    known = trace(name)
    asked = draw(scenario(2 * len(known), sources=(Source(trace=name),), arrivals="trace"), 5.0, 1)
    assert (np.diff(asked.arrived) >= 0.0).all()
    for first, again in zip(asked.items[: len(known)], asked.items[len(known) :], strict=True):
        assert first.prompt_tokens == again.prompt_tokens
        assert len(set(first.blocks) & set(again.blocks)) <= 2


def test_sessions_keep_their_order_and_their_gaps_at_any_rate() -> None:
    known = {}
    for item in trace("agents_miniswe"):
        known.setdefault(item.session, []).append(item.at)
    asked = draw(scenario(3000, sources=(Source(trace="agents_miniswe"),), arrivals="sessions"), 60.0, 1)
    assert len(asked) / asked.arrived[-1] == pytest.approx(60.0, rel=0.2)
    seen: dict[str, list[float]] = {}
    for item in asked.items:
        seen.setdefault(item.session, []).append(item.at)
    gaps = {name: np.round(np.diff(times), 6) for name, times in known.items()}
    for name, times in seen.items():
        if times[0] > 1.0 and len(times) == len(known[name.split(".")[0]]):
            assert np.allclose(np.diff(times), gaps[name.split(".")[0]], atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 100, 2047, 2048, 2049, 9000])
def test_the_unloaded_prefill_is_what_an_idle_engine_takes(tokens: int) -> None:
    engine = Engine(profile(NAME), EngineOptions(max_batched_tokens=2048), Random(0))
    engine.submit(SimRequest("a", tokens, 1), 0.0)
    while engine.in_flight:
        now = engine.next_event_at()
        engine.step(now)
    assert prefill_seconds(profile(NAME), 2048, np.array([tokens]))[0] == pytest.approx(now)


def test_requests_that_no_idle_engine_could_serve_are_not_feasible() -> None:
    base = scenario(2000, sources=(Source(prompt=(20_000.0, 1.0)),))
    fast, slow = Group(count=1), Group(count=1, pace=((0.0, 4.0),))
    asked = draw(replace(base, groups=(slow, fast), slo=Slo(ttft=0.5)), 1.0, 1)
    alone = prefill_seconds(profile(NAME), 2048, asked.prompt)
    assert np.array_equal(asked.feasible, 0.015 + alone <= 0.5)
    assert draw(replace(base, slo=Slo(ttft=0.1, unloaded=2.0)), 1.0, 1).feasible.all()
    assert not draw(replace(base, groups=(slow,), slo=Slo(tpot=0.01)), 1.0, 1).feasible.any()


def test_a_warped_profile_is_another_gpu() -> None:
    assert warped(Group(warp=(("base", 2.0),))).base == 2.0 * profile(NAME).base
    with pytest.raises(ScenarioError, match="warp"):
        warped(Group(warp=(("bass", 2.0),)))


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(ScenarioError, match="there is no trace 'nowhere'; there are agents_miniswe"):
        draw(scenario(sources=(Source(trace="nowhere"),)), 1.0, 1)
    with pytest.raises(ScenarioError, match="above 0"):
        draw(scenario(), 0.0, 1)
