"""The bounds on cases that can be worked out by hand, and against each other."""

from dataclasses import replace

import numpy as np
import pytest

from backends.sim.profiles import profile
from loadtest.lab.arrivals import draw, trace, warped
from loadtest.lab.bounds import Pipe, Water, cache_ceiling, fluid_capacity, fluid_rate, pipes, pooled
from loadtest.lab.scenario import Group, Scenario, Source, Traffic
from loadtest.workload import Item

H100 = "h100_llama-3.1-8b_bf16_tp1"
CHAT = Scenario("chat", requests=4000)


def bare(**changes: float) -> Pipe:
    """An engine whose iterations take 10 ms whatever they hold, but for `changes`."""
    names = ("slope1", "slope2", "slope3", "pair", "prefix", "seq", "ctx", "overhead_iter", "overhead_seq")
    values = dict.fromkeys(names, 0.0) | {"base": 10.0} | changes
    return Pipe(replace(profile(H100), **values), chunk=10_000, seqs=256, kv_tokens=1_000_000)  # type: ignore[arg-type]


def water(prompt: float, output: float) -> Water:
    return Water.of(np.array([prompt]), np.array([output]), None, 10_000)


def test_slots_bind_where_iterations_cost_the_same_whatever_they_hold() -> None:
    # A request is in its prefill for one iteration and decodes in 100 more: 101 iterations of 10 ms in 256 slots.
    assert fluid_rate(bare(), water(100, 101), 0.025) == pytest.approx(256 / (101 * 0.010), rel=1e-6)


def test_the_cache_binds_where_contexts_are_long() -> None:
    small = replace(bare(), kv_tokens=20_000)
    # 100 decode steps hold 1,000 tokens and half of the answer each, the prefill step the prompt.
    held = 100 * (1000 + 101 / 2) + 1000
    assert fluid_rate(small, water(1000, 101), 0.025) == pytest.approx(20_000 / (held * 0.010), rel=1e-6)


def test_the_slo_binds_where_tokens_cost() -> None:
    pipe = bare(slope1=0.01, slope2=0.01, slope3=0.01)
    # 1,100 new tokens per request at 0.01 ms each beside 10 ms per iteration, in iterations of 20 ms.
    rate = fluid_rate(pipe, water(1000, 101), 0.020)
    assert 10.0 + 0.01 * 1100 * rate * 0.020 == pytest.approx(20.0)


def test_an_slo_below_an_empty_iteration_lets_nothing_through() -> None:
    assert fluid_rate(bare(), water(100, 100), 0.009) == 0.0


def test_more_slo_is_never_less_capacity_and_half_the_pace_never_more() -> None:
    asked = draw(CHAT, 100.0, 1)
    promised = [replace(CHAT, slo=replace(CHAT.slo, tpot=tpot)) for tpot in (0.012, 0.02, 0.025, 0.05)]
    rates = [fluid_capacity(scenario, asked) for scenario in promised]
    assert rates == sorted(rates)
    slow = replace(CHAT, groups=(Group(pace=((0.0, 2.0),)),))
    assert fluid_capacity(slow, asked) < fluid_capacity(CHAT, asked) / 2


def test_one_fit_of_an_h100_carries_22_chats_a_second_within_25_ms() -> None:
    """The figure that goes with one fit of published kernel timings: one knee at 448 tokens; 179 for eight."""
    every = trace("azure_conv_2023")
    prompt = np.array([float(item.prompt_tokens) for item in every])
    output = np.array([float(item.output_tokens) for item in every])
    coefficients = {"base": 6.708, "slope1": 0.009895, "slope2": 0.020475, "slope3": 0.020475, "seq": 0.005086,
                    "ctx": 4.374e-5, "pair": 6.9e-7}  # fmt: skip
    pipe = bare(**coefficients)
    pipe = replace(pipe, profile=replace(pipe.profile, knee1=448, knee2=449))
    assert 8 * fluid_rate(pipe, Water.of(prompt, output), 0.025) == pytest.approx(179, rel=0.01)


def test_mixed_hardware_is_the_sum_of_its_engines() -> None:
    groups = Group(count=3), Group(profile="a100_llama-3.1-8b_bf16_tp1", count=2)
    asked = draw(CHAT, 100.0, 1)
    alone = [fluid_capacity(replace(CHAT, groups=(group,)), asked) for group in groups]
    assert fluid_capacity(replace(CHAT, groups=groups), asked) == pytest.approx(sum(alone))


def test_one_wide_engine_carries_what_the_fleet_carries() -> None:
    asked = draw(CHAT, 100.0, 1)
    wide = pooled(CHAT)
    assert wide is not None and sum(group.count for group in wide.groups) == 1
    assert fluid_capacity(wide, asked) == pytest.approx(fluid_capacity(CHAT, asked), rel=1e-3)
    used, fleet = warped(wide.groups[0]), profile(H100)
    assert used.seconds(8 * 600, 8e5, 0, 8, 80, 80_000) == pytest.approx(fleet.seconds(600, 1e5, 0, 1, 10, 10_000))


def test_unequal_engines_have_no_pooled_server() -> None:
    assert pooled(replace(CHAT, groups=(Group(count=4), Group(count=4, pace=((0.0, 2.5),))))) is None
    assert pooled(replace(CHAT, groups=(Group(pace=((0.0, 1.0), (5.0, 3.0))),))) is None


def test_a_profile_that_is_not_convex_is_bounded_by_one_that_is() -> None:
    l40s = profile("l40s_llama-3.1-8b_bf16_tp1")
    assert l40s.slope1 > l40s.slope2
    straight = replace(l40s, slope1=l40s.slope2)  # cheaper everywhere
    asked = water(800, 200)
    rates = [fluid_rate(Pipe(used, 2048, 256, 200_000), asked, 0.04) for used in (l40s, straight)]
    assert 0 < rates[0] <= rates[1]


def test_stalls_take_their_share_of_the_capacity() -> None:
    (pipe, *_) = pipes(replace(CHAT, groups=(Group(stall_rate=0.5, stall_seconds=0.2),)))
    assert pipe.pace == pytest.approx(1.1)


def shared(*prompts: tuple[int, tuple[int, ...]]) -> object:
    """Requests that consist of these (prompt tokens, block ids), blocks of 16 tokens."""
    asked = draw(replace(CHAT, requests=len(prompts)), 100.0, 1)
    items = [Item(0.0, tokens, 10, block_size=16, blocks=blocks) for tokens, blocks in prompts]
    return replace(asked, items=items, prompt=np.array([tokens for tokens, _ in prompts], np.int64))


def with_room(blocks: int) -> Scenario:
    return replace(CHAT, groups=(Group(count=1, kv_tokens=16 * blocks),))


def test_a_cache_holds_the_blocks_it_has_seen_but_never_the_last_token() -> None:
    asked = shared((64, (1, 2, 3, 4)), (64, (1, 2, 3, 4)), (70, (1, 2, 9, 10)), (40, ()))
    found = cache_ceiling(with_room(100), asked)  # type: ignore[arg-type]
    assert found.cached.tolist() == [0, 48, 32, 0]
    assert found.ratio == pytest.approx(80 / 238)


def test_a_full_cache_forgets_what_was_used_longest_ago() -> None:
    asked = shared((64, (1, 2, 3, 4)), (64, (5, 6, 7, 8)), (64, (1, 2, 3, 4)))
    assert cache_ceiling(with_room(4), asked).cached.tolist() == [0, 0, 0]  # type: ignore[arg-type]
    assert cache_ceiling(with_room(6), asked).cached.tolist() == [0, 0, 32]  # type: ignore[arg-type]
    assert cache_ceiling(with_room(4), asked, infinite=True).cached.tolist() == [0, 0, 48]  # type: ignore[arg-type]


def test_cached_tokens_raise_the_fluid_bound() -> None:
    agents = replace(CHAT, traffic=Traffic((Source(trace="agents_miniswe"),), "sessions"), requests=600)
    asked = draw(agents, 50.0, 1)
    ceiling = cache_ceiling(agents, asked)
    assert 0.5 < ceiling.ratio < 1.0
    assert fluid_capacity(agents, asked, ceiling.cached) > 2 * fluid_capacity(agents, asked)
